"""How channel codes flow through a network: the walk over the nodes, and what rules may ask of it.

The same rules run twice: an analysis (``_analysis.py``) finds out which channels are coupled, and a replay
(``_replay.py``) sends the codes of an edited network through the same operations and so proves that they still meet
where they met before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from precut.graph._graph import Node, ParamRef, Value
from precut.graph._interpret import lookup
from precut.graph._labels import Codes, Labels, Tags
from precut.graph._sizes import SizeRef
from precut.graph._structure import leaves

if TYPE_CHECKING:
    from precut.graph._graph import Graph

__all__ = ["RULES", "Axis", "Flow", "Site", "TensorAxis", "UnfollowedError", "rule", "sizes_of"]

Rule = Callable[["Flow", Node], list[Labels]]
RULES: dict[str, Rule] = {}


# Operations whose rules know what the sizes among their arguments do; in others a size is a number like any other.
_SIZED = frozenset(
    ("reshape", "flatten", "expand", "split", "chunk", "narrow", "select", "getitem", "pad", "zeros", "ones", "full",
     "new_zeros", "new_ones", "new_full", "interpolate", "conv1d", "conv2d", "conv3d", "conv_transpose1d",
     "conv_transpose2d", "conv_transpose3d", "group_norm")
)  # fmt: skip


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
        reads: whether a code counts here by itself, although no weight reads it: in a sum, a norm, as one for all others.
    """

    node: Node | None
    codes: tuple[Codes, ...]
    colours: Codes | None = None
    whole: str = ""
    reads: bool = False


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
    def mark(
        self, node: Node | None, codes: Codes, colours: Codes | None = None, whole: str = "", reads: bool = False
    ) -> None:
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
