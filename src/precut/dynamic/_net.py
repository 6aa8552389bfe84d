"""The dynamic network: one set of weights, run as any of its subnets."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from precut.dynamic._cut import Share, cut, shares
from precut.dynamic._data import placed
from precut.dynamic._norms import NormState, batch_norms, check_norms
from precut.dynamic._point import Point
from precut.dynamic._space import DIMS, Space, listed
from precut.errors import PrecutError, unknown
from precut.graph import Graph, capture, permute_

if TYPE_CHECKING:
    from precut.dynamic._compile import CompiledDynamic
    from precut.dynamic._fit import JointResult

__all__ = ["NORMS", "DynamicNet", "make_dynamic", "resized"]

NORMS = ("private_stats", "private", "recalibrated")


@dataclass(eq=False)
class _Subnet:
    """A point made ready: the structure that runs, without tensors, and where these come from.

    Attributes:
        point: which.
        template: the subnet's module; its parameters are replaced in every call. None for the full network.
        sources: (name in the template, module and key in the full network, what of it).
        state: its private tensors; None for the full network, which has its own.
        twins: pairs of a module in the template and the one in the full network that it stands for.
    """

    point: Point
    template: nn.Module | None
    sources: list[tuple[str, nn.Module, str, Share]]
    state: NormState | None
    twins: list[tuple[nn.Module, nn.Module]]

    def follow_modes(self) -> None:
        """Training or eval mode, module by module, as in the full network: some may be frozen on purpose."""
        for own, full in self.twins:
            if own.training != full.training:
                own.training = full.training


class DynamicNet(nn.Module):
    """A network whose subnets share its weights; made by :func:`make_dynamic`.

    ``forward`` runs the point that ``set_point`` chose (at first the full network). Its parameters train as usual: a
    subnet's weights are slices of the full network's.

    Attributes:
        model: the full network; its channels may have been permuted since (``ladder`` does that).
        space: what a point may choose.
        norms: "private_stats", "private" or "recalibrated".
        states: the subnets' private tensors.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, dims: Sequence[str], norms: str) -> None:
        super().__init__()
        self.norms = norms
        self.dims = tuple(dims)
        self.model = model
        self.states = nn.ModuleDict()
        self._example = example_inputs
        self._capture()
        self._subnets: dict[Point, _Subnet] = {}
        self._ladder: tuple[Point, ...] = ()
        self._active = self._prepare(self.full)

    def _capture(self) -> None:
        self.graph: Graph = capture(self.model, placed(self.model, self._example))
        check_norms(self.graph)
        self.space = Space(self.graph, self.dims)

    # ---- points ----------------------------------------------------------------------------------------------------

    @property
    def full(self) -> Point:
        """The whole network's point."""
        return self.space.full

    @property
    def points(self) -> tuple[Point, ...]:
        """The ladder: the points that were last given to ``prepare``, or made by ``ladder``."""
        return self._ladder

    @property
    def active(self) -> Point:
        """The point that ``forward`` runs."""
        return self._active.point

    def point(self, width: float = 1.0, **choices: Any) -> Point:
        """A point made by hand; see :meth:`Space.point` (``widths``, ``skip``, ``resolution``, ``kss``, ``align``)."""
        return self.space.point(width, **choices)

    def prepare(self, points: Iterable[Point]) -> None:
        """Makes points ready, so that ``set_point`` takes microseconds; they become ``points``.

        A point's private statistics begin with the full network's, and the point is not calibrated yet.
        """
        found = tuple(dict.fromkeys(self.space.check(point) for point in listed("points", points, "points")))
        if not found:
            raise PrecutError("prepare got no points; dyn.ladder(...) and dyn.point(...) make some")
        for point in found:
            if point not in self._subnets:
                self._prepare(point)
        self._ladder = found

    def _prepare(self, point: Point) -> _Subnet:
        if point == self.full:
            subnet = _Subnet(point, None, [], None, [])
            self._subnets[point] = subnet
            return subnet
        template, found, twins = shares(self.model, self.space, point)
        owners = dict(self.model.named_modules(remove_duplicate=False))
        sources = []
        for name, (source, share) in found.items():
            path, _, key = source.rpartition(".")
            sources.append((name, owners[path], key, share))
        for name, tensor in template.named_parameters(remove_duplicate=False):
            path, _, key = name.rpartition(".")
            template.get_submodule(path)._parameters[key] = nn.Parameter(tensor.to("meta"), tensor.requires_grad)
        norms = [name for name, _ in batch_norms(template)]
        subnet = _Subnet(point, template, sources, None, twins)
        subnet.state = NormState(self._shared(subnet), norms, self.norms == "private")
        subnet.state.to(device=next(self.model.parameters()).device)
        # By what the point is, not by when it was made ready: a state dict of other points must not fit.
        self.states[f"p{hashlib.sha1(point.to_json().encode()).hexdigest()[:12]}"] = subnet.state
        own = set(subnet.state.tensors())
        subnet.sources = [row for row in sources if row[0] not in own]
        self._subnets[point] = subnet
        return subnet

    def _shared(self, subnet: _Subnet) -> dict[str, torch.Tensor]:
        """The subnet's tensors that are slices of the full network's."""
        found = {}
        for name, module, key, share in subnet.sources:
            full = module._parameters.get(key)
            found[name] = share.of(full if full is not None else module._buffers[key])  # type: ignore[arg-type]
        return found

    def holdings(self, point: Point) -> dict[str, Share | None]:
        """Which of this network's parameters a point trains, by name, and which entries of them; None for all."""
        subnet = self._subnets.get(self.space.check(point)) or self._prepare(point)
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        if subnet.template is None:
            return {names[id(parameter)]: None for parameter in self.model.parameters()}
        assert subnet.state is not None
        found: dict[str, Share | None] = {names[id(parameter)]: None for parameter in subnet.state.parameters()}
        for _, module, key, share in subnet.sources:
            parameter = module._parameters.get(key)
            if parameter is not None:
                found[names[id(parameter)]] = share
        return found

    def structure(self, point: Point) -> nn.Module:
        """The module that runs at a point. A subnet's parameters are put into it at every call; it holds none."""
        subnet = self._subnets.get(self.space.check(point)) or self._prepare(point)
        return self.model if subnet.template is None else subnet.template

    def own_tensors(self, point: Point) -> dict[str, torch.Tensor]:
        """What a point has for itself, by name: whether it is calibrated, statistics, and private parameters. Nothing
        for the full network."""
        subnet = self._subnets.get(self.space.check(point)) or self._prepare(point)
        return {} if subnet.state is None else {**subnet.state.tensors(), "calibrated": subnet.state.calibrated}

    def set_point(self, point: Point) -> None:
        """From now on ``forward`` runs this point. Takes microseconds for a point that is ready (see ``prepare``).

        Raises:
            PrecutError: for a point of another network, or one that does not fit.
        """
        subnet = self._subnets.get(point) if isinstance(point, Point) else None
        # Past nn.Module.__setattr__, which takes longer than all the rest.
        vars(self)["_active"] = self._prepare(self.space.check(point)) if subnet is None else subnet

    def calibrated(self, point: Point) -> bool:
        """Whether the statistics of the point's batch norms are known: from private training, or ``recalibrate``."""
        subnet = self._subnets.get(self.space.check(point))
        return subnet is not None and (subnet.state is None or bool(subnet.state.calibrated))

    def take_statistics(
        self, point: Point, statistics: Mapping[str, tuple[torch.Tensor, torch.Tensor]], batches: int
    ) -> None:
        """Sets (mean, variance) of the point's batch norms, by their names in the subnet; it is calibrated then."""
        subnet = self._subnets.get(self.space.check(point)) or self._prepare(point)
        if subnet.state is not None:
            subnet.state.set_(dict(statistics), batches)
            return
        for name, norm in batch_norms(self.model):
            with torch.no_grad():
                for buffer, value in zip((norm.running_mean, norm.running_var), statistics[name], strict=True):
                    buffer.copy_(value)  # type: ignore[union-attr]

    def keep_only(self, points: Sequence[Point]) -> None:
        """Forgets what points other than these (made ready before) and the full one have for themselves; the rest then
        stands in the order of ``points``, whatever the order in which they were made ready."""
        kept = {point: self._subnets[point] for point in (self.full, *points)}
        names = {id(state): name for name, state in self.states.items()}
        states = [subnet.state for subnet in kept.values() if subnet.state is not None]
        self.states = nn.ModuleDict({names[id(state)]: state for state in states})
        self._subnets = kept
        if self.active not in kept:
            self.set_point(self.full)

    def forget_statistics(self) -> None:
        """Marks every point but the full one as not calibrated."""
        for state in self.states.values():
            state.calibrated.fill_(not list(state.children()))  # type: ignore[operator]

    def _check_calibrated(self, subnet: _Subnet | None) -> None:
        if subnet is None:
            known = not any(batch_norms(self.model))
        else:
            known = subnet.state is None or bool(subnet.state.calibrated)
        if not known:
            raise PrecutError(
                "this point is not calibrated: the statistics of its batch norms are not known. Train it "
                "(dyn.fit), or measure them: dyn.recalibrate([point], data)"
            )

    # ---- running ---------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The active point's result; takes what the full network takes. Images are brought to the point's resolution
        first (bilinear, antialiased).

        Raises:
            PrecutError: in eval mode, when the point is not calibrated.
        """
        subnet = self._active
        side = subnet.point.resolution
        if side is not None:
            args, kwargs = resized(args, side), {key: resized((item,), side)[0] for key, item in kwargs.items()}
        if self.training and self.norms == "recalibrated":
            self.forget_statistics()  # of all points: they share the weights that are trained
        if subnet.template is None:
            return self.model(*args, **kwargs)
        assert subnet.state is not None
        if not self.training:
            self._check_calibrated(subnet)
        subnet.follow_modes()
        tensors = self._shared(subnet) | subnet.state.tensors()
        result = functional_call(subnet.template, tensors, args, kwargs, tie_weights=False)
        if self.training and self.norms != "recalibrated" and all(n.training for _, n in batch_norms(subnet.template)):
            subnet.state.calibrated.fill_(True)
        return result

    def extract(self, point: Point, uncalibrated: bool = False) -> nn.Module:
        """The subnet alone: a plain module in eval mode with contiguous weights of its own, which saves, exports and
        compiles like any other. It takes images of the point's resolution.

        Args:
            point: of this network.
            uncalibrated: allow statistics that were not measured for this point (for counting and timing).
        """
        subnet = self._subnets.get(self.space.check(point))
        if not uncalibrated:
            # Points that are only looked at must leave no private tensors behind, so none is made ready here.
            self._check_calibrated(subnet)
        net = cut(self.model, self.space, point)
        for parameter in net.parameters():
            parameter.grad = None
            parameter.data = parameter.data.contiguous()
        if subnet is not None and subnet.state is not None:
            held = {**dict(net.named_parameters()), **dict(net.named_buffers())}
            with torch.no_grad():
                for name, tensor in subnet.state.tensors().items():
                    held[name].copy_(tensor)
        return net.eval()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> DynamicNet:
        super()._apply(fn, recurse)
        for subnet in self._subnets.values():  # buffers that are the template's own: positions of unstructured supports
            for module in [] if subnet.template is None else subnet.template.modules():
                for key, buffer in module._buffers.items():
                    if buffer is not None and not buffer.is_floating_point():
                        module._buffers[key] = fn(buffer)
        return self

    # ---- what other files do ---------------------------------------------------------------------------------------

    def permute_(self, orders: Mapping[str, Any]) -> None:
        """Puts the channels of width dimensions into another order, {dimension: order}: channel j becomes what channel
        ``order[j]`` was. The full network computes what it did; points that were made ready are forgotten.

        Raises:
            PrecutError: for an unknown dimension, or an order that takes channels out of their residue classes.
        """
        named = {}
        for name, order in orders.items():
            if name not in self.space.widths:
                raise unknown("width dimension", name, self.space.widths, "dyn.space.widths")
            dim = self.space.widths[name]
            if sorted(order) != list(range(dim.size)):
                raise PrecutError(
                    f"the order of {name!r} must hold 0 to {dim.size - 1} once each; got {list(order)!r:.80}"
                )
            if (dim.classes[list(order)] != dim.classes).any():
                raise PrecutError(
                    f"this order of {name!r} moves channels between residue classes, which would destroy the period "
                    f"of layer {dim.asker!r}"
                )
            named[dim.channels] = order
        if all(list(order) == list(range(len(order))) for order in named.values()):
            return
        permute_(self.model, named)
        self.states = nn.ModuleDict()
        self._subnets = {}
        self._ladder = ()
        self._capture()
        self._active = self._prepare(self.full)

    def ladder(
        self, budgets: Sequence[float], metric: Any = "macs", rank: Any = "l1", align: int = 8, **options: Any
    ) -> list[Point]:
        """Points at budgets, largest first; they become ``points``. See :func:`precut.dynamic.make_ladder`."""
        from precut.dynamic._ladder import OPTIONS, make_ladder

        for name in options:
            if name not in OPTIONS:
                raise unknown("option of ladder", name, OPTIONS)
        return make_ladder(self, budgets, metric, rank, align, **options)

    def recalibrate(
        self, points: Iterable[Point] | Point, data: Any, images: int = 2000, batch_size: int = 250
    ) -> None:
        """Measures batch-norm statistics; see :func:`precut.dynamic.recalibrate`."""
        from precut.dynamic._calibrate import recalibrate

        recalibrate(self, points, data, images, batch_size)

    def fit(
        self, dataset: Any, recipe: Any = "modern-cifar", run_dir: str | Path | None = None, **options: Any
    ) -> JointResult:
        """Trains all points together; see :func:`precut.dynamic.fit`."""
        from precut.dynamic._fit import fit

        return fit(self, dataset, recipe, run_dir, **options)

    def compile(self, *args: Any, **options: Any) -> CompiledDynamic:  # type: ignore[override]
        """Makes every point ready for fast inference; see :func:`precut.dynamic.compile_points`."""
        from precut.dynamic._compile import compile_points

        return compile_points(self, *args, **options)

    def __precut_compile__(self, example_inputs: Any, threads: int | None, autotune: bool) -> CompiledDynamic:
        """What ``precut.compile(dyn, ...)`` calls."""
        return self.compile(example_inputs=example_inputs, threads=threads, autotune=autotune)

    def save(self, path: str | Path, extra: Mapping[str, Any] | None = None) -> Path:
        """Writes the whole dynamic network to one file; see :func:`precut.dynamic.save`."""
        from precut.dynamic._file import save

        return save(self, path, extra)

    def extra_repr(self) -> str:
        parts = [f"{len(self.space.widths)} width dimensions", f"{len(self.space.blocks)} blocks to skip"]
        parts += [f"{len(self.space.kernels)} nested supports"] if self.space.kernels else []
        return ", ".join([*parts, f"norms={self.norms!r}", f"{len(self._ladder)} points"])


def resized(items: tuple[Any, ...], side: int) -> tuple[Any, ...]:
    """The items with batches of images brought to ``side`` pixels: bilinear, antialiased."""
    return tuple(
        functional.interpolate(item, size=(side, side), mode="bilinear", antialias=True)
        if isinstance(item, torch.Tensor) and item.ndim == 4 and item.shape[-2:] != (side, side)
        else item
        for item in items
    )


def make_dynamic(
    model: nn.Module, example_inputs: Any, dims: Sequence[str] = DIMS, norms: str = "private_stats"
) -> DynamicNet:
    """A dynamic network of a copy of ``model``: its subnets share its weights.

    Args:
        model: any network that ``precut.graph.capture`` takes, dense or sparse, trained or not.
        example_inputs: a tensor, or arguments as ``capture`` takes them.
        dims: what subnets may differ in: "width" (channels kept, for each ChannelSpace), "depth" (residual blocks with
            an identity shortcut that are left out), "resolution" (of the input images), "kernel" (kernel support size
            of layers whose supports nest).
        norms: what each subnet's batch norms have for themselves: "private_stats" (running statistics, tracked while
            it trains), "private" (scales and shifts too), or "recalibrated" (statistics, measured by ``recalibrate``
            after training and forgotten by training).

    Raises:
        PrecutError: a model that cannot be captured, or in which nothing can be made smaller; the message names layers
            and reasons. Layers whose channels alone cannot be cut are in ``dyn.space.fixed`` with their reasons.
    """
    if norms not in NORMS:
        raise unknown("norms", norms, NORMS)
    if isinstance(model, DynamicNet):
        raise PrecutError("make_dynamic got a dynamic network; pass the plain one: make_dynamic(dyn.model, ...)")
    if not isinstance(model, nn.Module):
        raise PrecutError(f"make_dynamic takes an nn.Module; got {type(model).__name__} {model!r:.60}")
    training = model.training
    return DynamicNet(copy.deepcopy(model), example_inputs, listed("dims", dims, "names"), norms).train(training)
