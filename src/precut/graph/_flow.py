"""How channel codes flow through a network: the walk over the nodes, and what rules may ask of it.

The same rules run twice: an :class:`Analysis` finds out which channels are coupled, and a replay (``_edit.py``) sends
    the codes
of an edited network through the same operations and so proves that they still meet where they met before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from precut.graph._graph import Node, ParamRef, Value
from precut.graph._interpret import lookup
from precut.graph._labels import TAG_BITS, Codes, Labels, Tags, UnionFind, atoms_of
from precut.graph._sizes import SizeRef
from precut.graph._structure import leaves

if TYPE_CHECKING:
    from precut.graph._graph import Graph

__all__ = ["RULES", "Analysis", "Axis", "Flow", "Site", "TensorAxis", "UnfollowedError", "rule", "sizes_of"]

Rule = Callable[["Flow", Node], list[Labels]]
RULES: dict[str, Rule] = {}


# Operations whose rules know what the sizes among their arguments do; in others a size is a number like any other.
_SIZED = frozenset(
    "reshape flatten expand split chunk narrow select getitem pad zeros ones full new_zeros new_ones new_full interpolate "
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d group_norm".split()
)


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Registers what it decorates as the rule of these canonical ops."""

    def add(function: Rule) -> Rule:
        for op in ops:
            RULES[op] = function
        return function

    return add


class UnfollowedError(Exception):
    """A rule cannot follow channels through this node; the text says why."""


@dataclass(frozen=True)
class TensorAxis:
    """A dimension of a parameter or buffer. With ``groups`` above 1 the dimension counts within a group: it has size
    channels / groups, and the other of the first two dimensions is divided into the groups."""

    name: str
    dim: int
    groups: int = 1


@dataclass
class Axis:
    """One editable channel axis: of a layer, of a parameter, or of nothing but positions (padding, inputs).

    Attributes:
        owner: module path, or the name of a parameter that a function uses, or a name in brackets.
        axis: "out", "in", "param", "index" or "pad".
        codes: what is at each position; None when channels that are not followed come here.
        tensors: what is edited with it.
        nodes: who makes or reads it.
        makes: whether its codes begin here.
        uses: node index (-1 for inputs) to the codes at its uses, which may differ from ``codes`` in their tags.
    """

    owner: str
    axis: str
    codes: Codes | None
    tensors: tuple[TensorAxis, ...]
    nodes: list[Node]
    makes: bool
    uses: dict[int, list[Codes]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class Site:
    """A place where codes meet something that knows them by position.

    Attributes:
        node: the operation; None for the network's inputs and outputs.
        codes: arrays of equal length; position by position they meet.
        colours: only codes of equal colour may change places (groups).
        whole: why no code may leave; "" where they may.
    """

    node: Node | None
    codes: tuple[Codes, ...]
    colours: Codes | None = None
    whole: str = ""


class Flow(ABC):
    """The walk. Rules read the labels of arguments and return those of the outputs."""

    def __init__(self, graph: Graph, tags: Tags) -> None:
        self.graph = graph
        self.tags = tags
        self.labels: dict[int, Labels] = {}
        self.handled: set[str] = set()
        self._tensors: dict[str, torch.Tensor] = {}

    # ---- what rules ask --------------------------------------------------------------------------------------------

    @abstractmethod
    def fresh(
        self, node: Node | None, owner: str, axis: str, size: int, tensors: tuple[TensorAxis, ...] = (), fixed: str = ""
    ) -> Codes:
        """Codes that begin here, one for each of ``size`` positions. ``fixed`` says why the size cannot change."""

    @abstractmethod
    def read(self, node: Node, owner: str, axis: str, codes: Codes | None, tensors: tuple[TensorAxis, ...]) -> None:
        """A parameter's axis meets these codes; None when channels that are not followed arrive."""

    @abstractmethod
    def join(self, node: Node, first: Codes, second: Codes) -> None:
        """Codes that must be equal position by position."""

    @abstractmethod
    def mark(self, node: Node | None, codes: Codes, colours: Codes | None = None, whole: str = "") -> None:
        """Restricts what codes may do; see :class:`Site`."""

    @abstractmethod
    def freeze(self, codes: Codes, reason: str) -> None:
        """These may neither move nor go."""

    @abstractmethod
    def freeze_tensor(self, name: str, reason: str, dim: int | None = None) -> None:
        """No axis of this parameter or buffer may change, or only not that along ``dim``."""

    @abstractmethod
    def gather(self, node: Node, buffer: str, index: Codes, codes: Codes) -> Codes:
        """The codes that an editable index tensor picks: new ones, that go when what they come from goes."""

    @abstractmethod
    def slots(self, owner: str, axis: str) -> Codes:
        """The positions of an axis that are left, of one where codes begin."""

    def channel_dims(self, node: Node) -> tuple[int, ...] | None:
        """The dimensions of a node's output that hold channels, where that is known before."""
        return None

    def of(self, item: Any) -> Labels:
        """The labels of an argument."""
        if isinstance(item, Value):
            return self.labels[item.id]
        if isinstance(item, ParamRef):
            self.handled.add(item.name)
            return self._param(item)
        return Labels((), constant=True)

    def number(self, item: Any) -> int:
        """A size as it is in this walk."""
        return item.resolve(self.shapes) if isinstance(item, SizeRef) else int(item)

    @property
    def shapes(self) -> _Shapes:
        """Shapes by value id."""
        return _Shapes(self.labels)

    def tensor(self, ref: ParamRef) -> torch.Tensor:
        """The tensor that a reference names, as it was captured."""
        if ref.name not in self._tensors:
            self._tensors[ref.name] = lookup(self.graph, self.graph.model, ref)
        return self._tensors[ref.name]

    def _param(self, ref: ParamRef) -> Labels:
        shape = tuple(self.tensor(ref).shape)
        if all(size == 1 for size in shape):
            return Labels(shape, constant=True)
        if ref.kind == "constant":
            return Labels(shape, reason="it uses a tensor that is neither a parameter nor a buffer of the model")
        return Labels(
            self.param_shape(ref.name, shape), param=ref.name, reason=f"parameter {ref.name!r} is not followed"
        )

    def param_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a parameter in this walk, which was captured with ``shape``."""
        return shape

    def param_axis(self, name: str, dim: int) -> tuple[str, tuple[TensorAxis, ...]]:
        """The name of a parameter's axis along ``dim``, and its dimension."""
        long = [d for d, size in enumerate(self._tensors[name].shape) if size > 1]
        return ("param" if long[:1] == [dim] else f"param:{dim}"), (TensorAxis(name, dim),)

    def view_of_param(self, node: Node, labels: Labels) -> Labels:
        """Codes for a parameter of one long dimension that is reshaped, sliced and so on before it is used."""
        if labels.param is None:
            return labels
        long = [d for d, size in enumerate(self._tensors[labels.param].shape) if size > 1]
        if len(long) != 1:
            self.freeze_tensor(labels.param, f"{node.where} uses a part of it that is not followed")
            return Labels(labels.shape, reason=labels.reason)
        axis, tensors = self.param_axis(labels.param, long[0])
        return Labels.along(long[0], self.fresh(node, labels.param, axis, labels.shape[long[0]], tensors), labels.shape)

    @abstractmethod
    def arrive(self, node: Node, value: Value, codes: Codes) -> None:
        """A node made a value with these codes."""

    # ---- the walk --------------------------------------------------------------------------------------------------

    def walk(self) -> None:
        """Sends codes from the inputs through every node."""
        for value in self.graph.inputs:
            self.labels[value.id] = self._input(value)
        for node in self.graph.nodes:
            self._step(node)
        for value in self.graph.outputs:
            labels = self.labels[value.id]
            if labels.followed:
                self.mark(None, labels.full)
                self.freeze(labels.full, "they are an output of the network")

    def _input(self, value: Value) -> Labels:
        if len(value.shape) < 2:
            return Labels(value.shape, reason=f"input {value.name!r} has no channels")
        codes = self.fresh(None, f"<input {value.name}>", "out", value.shape[1])
        self.freeze(codes, "they are an input of the network")
        return Labels.along(1, codes, value.shape)

    def _step(self, node: Node) -> None:
        self.handled = set()
        rule = RULES.get(node.op)
        refs, sizes = _references(node)
        try:
            if rule is None:
                raise UnfollowedError(f"{node.where} is not followed")
            if node.op not in _SIZED and any(self.number(size) != size.example for size in sizes):
                raise UnfollowedError(f"{node.where} computes with the number of channels")
            outputs = rule(self, node)
            if len(outputs) != len(node.outputs):
                raise UnfollowedError(f"{node.where} makes another number of tensors")
        except UnfollowedError as error:
            outputs = self._barrier(node, str(error))
        for ref in refs:
            if ref.name not in self.handled:
                self.freeze_tensor(ref.name, f"{node.where} uses parameter {ref.name!r} in a way that is not followed")
        for value, labels in zip(node.outputs, outputs, strict=True):
            self.labels[value.id] = labels
            if labels.followed:
                self.arrive(node, value, labels.full.reshape(-1))

    def _barrier(self, node: Node, reason: str) -> list[Labels]:
        self.handled = set()
        for value in node.inputs:
            if self.labels[value.id].followed:
                self.freeze(self.labels[value.id].full, reason)
        for name, _ in node.params.values():
            self.freeze_tensor(name, reason)
        return [Labels(value.shape, reason=reason) for value in node.outputs]


def _references(node: Node) -> tuple[list[ParamRef], list[SizeRef]]:
    """The parameters and the sizes among a node's arguments."""
    if not node.kwargs and all(isinstance(arg, Value) for arg in node.args):
        return [], []
    found = list(leaves((node.args, node.kwargs)))
    return [leaf for leaf in found if isinstance(leaf, ParamRef)], [leaf for leaf in found if isinstance(leaf, SizeRef)]


def sizes_of(node: Node) -> list[SizeRef]:
    """The sizes of other values among a node's arguments."""
    return _references(node)[1]


class _Shapes(dict[int, tuple[int, ...]]):
    """Shapes by value id, looked up in labels."""

    def __init__(self, labels: dict[int, Labels]) -> None:
        super().__init__()
        self._labels = labels

    def __missing__(self, key: int) -> tuple[int, ...]:
        return self._labels[key].shape


@dataclass
class _Gather:
    """What one editable gather picked: new codes, where they come from."""

    node: Node
    buffer: str
    codes: Codes
    sources: Codes


@dataclass
class Found:
    """What one pass of the analysis collected."""

    axes: dict[tuple[str, str], Axis] = field(default_factory=dict)
    sites: dict[int, list[Site]] = field(default_factory=dict)  # by node index; -1 for the network's outputs
    axis_sites: list[Site] = field(default_factory=list)  # those of parameters, and of every value
    frozen: list[tuple[Codes, str]] = field(default_factory=list)
    frozen_tensors: dict[tuple[str, int | None], str] = field(default_factory=dict)
    gathers: list[_Gather] = field(default_factory=list)
    barriers: set[int] = field(default_factory=set)  # indices of the nodes that are not followed


class Analysis(Flow):
    """Finds what is coupled. Walks until a walk couples nothing new, so that every code is final in the last one.

    Attributes:
        found: what the last walk collected.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph, Tags())
        self.same = UnionFind()
        self._modules: dict[str, torch.nn.Module] | None = None
        self._origins: dict[tuple[str, str], Codes] = {}
        while True:
            self.found = Found()
            self.labels = {}
            self._ties: dict[tuple[str, int], Axis] = {}
            self.same.changed = False
            self.walk()
            if not self.same.changed:
                break
        self._spread_freezes()

    def _spread_freezes(self) -> None:
        for axis in self.found.axes.values():
            if axis.codes is not None and len(np.unique(axis.codes)) != len(axis.codes):
                self.freeze(axis.codes, f"they meet {axis.owner!r} in more than one way")
            for tensor in axis.tensors:
                for key in ((tensor.name, tensor.dim), (tensor.name, None)):
                    if key in self.found.frozen_tensors and axis.codes is not None:
                        self.freeze(axis.codes, self.found.frozen_tensors[key])

    def fresh(
        self, node: Node | None, owner: str, axis: str, size: int, tensors: tuple[TensorAxis, ...] = (), fixed: str = ""
    ) -> Codes:
        known = self.found.axes.get((owner, axis))
        if known is not None and known.codes is not None:
            if node is not None:
                known.nodes.append(node)
            known.uses[-1 if node is None else node.index].append(known.codes)
            return known.codes
        if (owner, axis) not in self._origins:
            self._origins[owner, axis] = self.same.grow(size)
        codes = self.same.find(self._origins[owner, axis]) << TAG_BITS
        codes = self.tags.distinct(codes, "row")
        self._add(Axis(owner, axis, codes, tensors, [] if node is None else [node], True))
        self.found.axes[owner, axis].uses[-1 if node is None else node.index].append(codes)
        self.found.axis_sites.append(Site(node, (codes,)))
        return codes

    def slots(self, owner: str, axis: str) -> Codes:
        codes = self.found.axes[owner, axis].codes
        assert codes is not None
        return np.arange(len(codes))

    def read(self, node: Node, owner: str, axis: str, codes: Codes | None, tensors: tuple[TensorAxis, ...]) -> None:
        known = self.found.axes.get((owner, axis))
        if known is None:
            self._add(Axis(owner, axis, codes, tensors, [node], False))
        else:
            known.nodes.append(node)
            self._tie(node, known, codes)
        if codes is None:
            reason = f"{node.where} also takes channels that are not followed"
            for tensor in tensors:
                self.freeze_tensor(tensor.name, reason, tensor.dim)
        else:
            self.found.axes[owner, axis].uses[node.index].append(codes)
            self.found.axis_sites.append(Site(node, (codes,)))

    def _tie(self, node: Node, known: Axis, codes: Codes | None) -> None:
        """One axis is met twice: by a module that is called twice, or a parameter that two modules share."""
        if known.codes is None or codes is None:
            some = codes if known.codes is None else known.codes
            if some is not None:
                self.freeze(some, f"{node.where} also takes channels that are not followed")
            known.codes = some
        elif len(known.codes) != len(codes):
            for each in (known.codes, codes):
                self.freeze(each, f"{node.where} shares its parameters with a layer of other groups")
        else:
            self.found.axis_sites.append(self._joined(node, known.codes, codes))

    def _add(self, axis: Axis) -> None:
        self.found.axes[axis.owner, axis.axis] = axis
        for tensor in axis.tensors:
            other = self._ties.setdefault((tensor.name, tensor.dim), axis)
            if other is axis:
                continue
            self._tie(axis.nodes[0], other, axis.codes)
            if self._edits_itself(axis.owner) or self._edits_itself(other.owner):
                self.freeze_tensor(tensor.name, f"{axis.owner!r} and {other.owner!r} share parameter {tensor.name!r}")

    def _edits_itself(self, owner: str) -> bool:
        modules = dict(self.graph.model.named_modules()) if self._modules is None else self._modules
        self._modules = modules
        return hasattr(modules.get(owner), "take_channels_")

    @property
    def all_sites(self) -> list[Site]:
        """Every site."""
        return [*self.found.axis_sites, *(site for sites in self.found.sites.values() for site in sites)]

    def _site(self, site: Site) -> None:
        self.found.sites.setdefault(-1 if site.node is None else site.node.index, []).append(site)

    def _joined(self, node: Node, first: Codes, second: Codes) -> Site:
        first, second = (codes.reshape(-1) for codes in np.broadcast_arrays(first, second))
        self.same.union(atoms_of(first), atoms_of(second))
        return Site(node, (first, second))

    def arrive(self, node: Node, value: Value, codes: Codes) -> None:
        # Channels are alike only if the same operations work on them.
        self.found.axis_sites.append(Site(node, (codes,)))

    def join(self, node: Node, first: Codes, second: Codes) -> None:
        self._site(self._joined(node, first, second))

    def mark(self, node: Node | None, codes: Codes, colours: Codes | None = None, whole: str = "") -> None:
        if colours is not None:
            colours = np.broadcast_to(colours, codes.shape).reshape(-1)
        self._site(Site(node, (codes.reshape(-1),), colours, whole))

    def _barrier(self, node: Node, reason: str) -> list[Labels]:
        self.found.barriers.add(node.index)
        return super()._barrier(node, reason)

    def freeze(self, codes: Codes, reason: str) -> None:
        self.found.frozen.append((np.unique(atoms_of(codes)), reason))

    def freeze_tensor(self, name: str, reason: str, dim: int | None = None) -> None:
        self.found.frozen_tensors.setdefault((name, dim), reason)

    def gather(self, node: Node, buffer: str, index: Codes, codes: Codes) -> Codes:
        made = self.fresh(node, buffer, "index", len(index), (TensorAxis(buffer, 0),))
        self.found.gathers.append(_Gather(node, buffer, made, codes[index]))
        return made
