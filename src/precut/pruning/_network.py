"""What a score sees of a model: its prunable layers, their masks, the example, the data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from precut.errors import PrecutError
from precut.graph import Graph, capture, leaves, rebuild
from precut.layers import SparseLayer, ignored_names
from precut.pruning._matmul import Weight

__all__ = ["Layer", "Network", "floats", "prunable_layers"]

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, eq=False)
class Layer:
    """One prunable weight.

    Attributes:
        name: qualified name of the module that owns it.
        module: that module, of the model that is pruned.
        groups: the convolution's; 1 for linear layers.
        aliases: further modules that own the very same weight.
    """

    name: str
    module: nn.Module
    groups: int
    aliases: tuple[str, ...] = ()

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight, as the model holds it."""
        weight = self.module.weight
        assert isinstance(weight, torch.Tensor)
        return weight

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the dense weight."""
        return tuple(self.weight.shape)

    @property
    def size(self) -> int:
        """Weights of the dense layer."""
        return self.weight.numel()

    @property
    def parameter(self) -> str:
        """Qualified name of the weight."""
        return f"{self.name}.weight" if self.name else "weight"


@dataclass(eq=False)
class Network:
    """A model under pruning, as scores see it. Nothing of it is theirs to change.

    Attributes:
        model: the user's model, in eval mode while scores look at it, with its dense weights.
        layers: the prunable layers by name, in the order of ``model.named_modules()``.
        masks: what is left so far: bool, of the dense weights' shapes, by layer name. A layer that is missing is whole.
        example: (positional, keyword) arguments of the model.
        data: batches ``(inputs, targets)``; None for scores that need none.
        loss: takes the model's result and the targets, gives a scalar.
        generator: for random draws, on the CPU.
        official: whether the published code's arithmetic is to be followed to the bit.
        removed: flat positions that the last round took from ``masks``, by layer; a layer that is missing may have
            lost any.
        places: flat positions of what is left, ascending, once it is few in all.
        stayed: which of the positions that ``places`` held before the last round it still holds.
        cache: what a score wants to find again in the next round.
        round: rounds done.
        buffers: memory for the linearised network's weights, by the parameters' identities; whoever needs it next fills
            it anew.
        notes: what the report shall say; scores may add to it.
    """

    model: nn.Module
    layers: dict[str, Layer]
    example: tuple[tuple[Any, ...], dict[str, Any]]
    data: Iterable[Any] | None = None
    loss: Callable[..., torch.Tensor] | None = None
    generator: torch.Generator = field(default_factory=torch.Generator)
    official: bool = False
    masks: dict[str, torch.Tensor] = field(default_factory=dict)
    removed: dict[str, torch.Tensor] = field(default_factory=dict)
    places: dict[str, torch.Tensor] = field(default_factory=dict)
    stayed: dict[str, torch.Tensor] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict)
    round: int = 0
    buffers: dict[int, Weight] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """N: all prunable weights."""
        return sum(layer.size for layer in self.layers.values())

    @cached_property
    def graph(self) -> Graph:
        """What the model does with the example."""
        return capture(self.model, self.example_inputs)

    @property
    def example_inputs(self) -> Any:
        """The example as ``capture`` takes it, in the model's own precision and place."""
        args, kwargs = rebuild(self.example, lambda leaf: self._here(leaf, self.dtype))
        return {**_named(self.model, args), **kwargs} if kwargs else args

    def buffer(self, name: str) -> Weight:
        """The memory for a layer."""
        weight = self.layers[name].weight
        if id(weight) not in self.buffers:
            self.buffers[id(weight)] = Weight.like(weight)
        return self.buffers[id(weight)]

    def note(self, text: str) -> None:
        """Has the report say ``text``, once."""
        if text not in self.notes:
            self.notes.append(text)

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """The batches of the data.

        Raises:
            PrecutError: when there is none, or one is no pair.
        """
        if self.data is None or self.loss is None:
            raise PrecutError("this score needs data=[(inputs, targets), ...] (any iterable of batches) and loss=")
        found = False
        for batch in self.data:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise PrecutError(f"a batch of data must be a pair (inputs, targets); got {type(batch).__name__}")
            found = True
            yield batch[0], batch[1]
        if not found:
            raise PrecutError(
                "data holds no batch: pass a list of (inputs, targets), or something that can be iterated anew"
            )

    def weight(self, name: str) -> torch.Tensor:
        """A layer's dense weight, detached; in float64 where the published code is followed."""
        held = self.layers[name].weight.detach()
        return held.double() if self.official else held

    def masked(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of a layer's shape with zeros where the layer's weights are gone; itself where none is."""
        mask = self.masks.get(name)
        return tensor if mask is None else tensor * mask

    def effective(self) -> dict[str, torch.Tensor]:
        """The weights that are left, zeros elsewhere: new leaf tensors that require a gradient, by layer name."""
        return {name: self.masked(name, self.weight(name)).clone().requires_grad_() for name in self.layers}

    def __call__(self, inputs: Any, weights: Mapping[str, torch.Tensor]) -> Any:
        """The model's result on a batch's inputs with these weights (dense shapes, by layer name) in place of its own."""
        if isinstance(inputs, dict):
            return self.call((), inputs, weights)
        return self.call(tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {}, weights)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], weights: Mapping[str, torch.Tensor]) -> Any:
        """The same with positional and keyword arguments."""
        swapped: dict[str, torch.Tensor] = {}
        if self.official:
            held = (*self.model.named_parameters(), *self.model.named_buffers())
            swapped = {name: _doubled(value.detach()) for name, value in held}
        args, kwargs = rebuild(args, self._here), rebuild(kwargs, self._here)
        swapped |= {self.layers[name].parameter: weight for name, weight in weights.items()}
        return torch.func.functional_call(self.model, swapped, args, kwargs)

    def ones(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The example's arguments with a single item of ones, float64, for every floating tensor."""

        def one(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point():
                return leaf
            return torch.ones((1, *leaf.shape[1:]), dtype=torch.float64, device=self.device)

        args, kwargs = self.example
        return rebuild(args, one), rebuild(kwargs, one)

    @property
    def device(self) -> torch.device:
        """Where the first layer is."""
        return next(iter(self.layers.values())).weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the first layer's weight."""
        return next(iter(self.layers.values())).weight.dtype

    def _here(self, leaf: Any, dtype: torch.dtype | None = None) -> Any:
        """A tensor of the arguments where the model is, and in its precision where it is floating."""
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if not leaf.is_floating_point():
            return leaf.to(self.device)
        return leaf.to(self.device, dtype or (torch.float64 if self.official else self.dtype))

    def draw(self, like: torch.Tensor) -> torch.Tensor:
        """Normal numbers of a tensor's shape, dtype and device, the same on every device."""
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype).to(like.device)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model in eval mode, gradients on; all as it was again afterwards."""
        before = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.enable_grad():
                yield
        finally:
            for module, was in before:
                module.training = was


def floats(result: Any) -> list[torch.Tensor]:
    """The floating tensors of a model's result, whatever holds them.

    Raises:
        PrecutError: where there is none.
    """
    found = [leaf for leaf in leaves(result) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    if not found:
        raise PrecutError(f"the model's result holds no floating tensor: {type(result).__name__}")
    return found


def _doubled(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf


def _named(model: nn.Module, args: tuple[Any, ...]) -> dict[str, Any]:
    import inspect

    names = list(inspect.signature(model.forward).parameters)
    return dict(zip(names, args, strict=False))


def prunable_layers(
    model: nn.Module, ignored_layers: Iterable[nn.Module | str] | nn.Module | str = ()
) -> tuple[dict[str, Layer], list[str]]:
    """The layers whose weights may go, by name: every convolution and linear layer of torch.nn, 1x1 ones and the
    classifier too, but not the ignored ones, and not those whose weight belongs to a module of another kind as well.

    Returns:
        The layers, and notes about what was left out.
    """
    ignored = ignored_names(model, ignored_layers)
    owners: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules():
        for held in module._parameters.values():
            if held is not None:
                owners.setdefault(id(held), []).append((name, module))
    found: dict[str, Layer] = {}
    notes: list[str] = []
    done: set[int] = set()
    for name, module in model.named_modules():
        if name in ignored:
            continue
        if isinstance(module, SparseLayer):
            raise PrecutError(
                f"layer {name!r} is sparse already; prune the dense model, or keep this layer as it is: "
                f"ignored_layers=[{name!r}]"
            )
        if not isinstance(module, (*_CONVS, nn.Linear)) or id(module.weight) in done:
            continue
        if "weight" not in module._parameters:
            raise PrecutError(
                f"layer {name!r} computes its weight (a mask or parametrization); use precut.from_masks first, or keep "
                f"it as it is: ignored_layers=[{name!r}]"
            )
        if isinstance(module.weight, nn.UninitializedParameter):
            raise PrecutError(f"layer {name!r} does not know its input channels yet; run the model once first")
        sharing = [other for other in owners[id(module.weight)] if other[1] is not module]
        done.add(id(module.weight))
        strangers = [other for other, owner in sharing if type(owner) is not type(module) or other in ignored]
        if strangers:
            notes.append(f"{name} stays dense: it shares its weight with {', '.join(strangers)}")
            continue
        aliases = tuple(other for other, _ in sharing)
        found[name] = Layer(name, module, getattr(module, "groups", 1), aliases)
    if not found:
        raise PrecutError("no layer to prune: the model has no convolution or linear layer that is not ignored")
    return found, notes
