"""ChannelSpaces: sets of channels that may change places at will, found from how channels flow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from precut.errors import PrecutError, whole
from precut.graph._analysis import Analysis
from precut.graph._flow import Axis, Site
from precut.graph._graph import Value
from precut.graph._labels import Codes, Labels, atoms_of, tags_of

if TYPE_CHECKING:
    from precut.graph._graph import Graph

__all__ = ["ChannelSpace", "ChannelSpaces", "Occurrence"]

UInts = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Occurrence:
    """Where the channels of a space are in one axis.

    Attributes:
        owner: path of the module, name of the parameter where a function uses it, or a name in angle brackets for
            inputs, padding and the like, which have no parameters.
        axis: "out" (rows that make the channels), "in" (columns that read them), "param" (one value a channel),
            "index" (a tensor of positions), "pad" (channels of zeros that a module adds).
        positions: int64 (size, repeat): row j holds the positions of channel j. Several where an axis holds a channel
            more than once (a flattened map).
    """

    owner: str
    axis: str
    positions: Codes

    def __repr__(self) -> str:
        count = f" x{self.positions.shape[1]}" if self.positions.shape[1] > 1 else ""
        return f"{self.owner}.{self.axis}{count}"


@dataclass(frozen=True, eq=False)
class ChannelSpace:
    """Channels that are coupled in the same way everywhere: any permutation of them leaves the network's outputs as
    they are.

    Attributes:
        id: number in ``graph.spaces``.
        size: how many channels.
        frozen: why they may not move (inputs and outputs of the network, operations that are not followed); None if
            they may.
        occurrences: every axis that holds them, in execution order.
        producers: names of the nodes that make them.
        consumers: names of the nodes whose weights read them.
    """

    spaces: ChannelSpaces
    id: int
    size: int
    frozen: str | None
    atoms: Codes
    occurrences: tuple[Occurrence, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    _tried: dict[int, str | None] = field(default_factory=dict, repr=False)

    def why_not(self, size: int) -> str | None:
        """Why this space alone cannot be left with ``size`` channels (whichever these are); None if it can.

        Those of several spaces may still be removable together (both halves of a ``chunk``)."""
        size = whole(f"space {self.id}: the channels left", size, 1, self.size)
        if size not in self._tried:
            from precut.graph._edit import why_not

            self._tried[size] = why_not(self, size)
        return self._tried[size]

    @property
    def undroppable(self) -> str | None:
        """Why channels of this space cannot be removed freely; None if they can.

        Tried with the sizes where rules of division show: one and two channels less, half, two and one; ``why_not``
        tells of any other."""
        if self.frozen is not None:
            return self.frozen
        if self.size == 1:
            return "it has a single channel"
        sizes = (self.size - 1, self.size - 2, self.size // 2, 2, 1)
        return next((why for size in sizes if 1 <= size < self.size and (why := self.why_not(size))), None)

    @property
    def droppable(self) -> bool:
        """Whether channels can be removed, so that the network computes what it would with zeros in their place."""
        return self.undroppable is None

    def __repr__(self) -> str:
        state = "" if self.frozen is None else f", frozen: {self.frozen}"
        owners = ", ".join(map(repr, self.occurrences[:4])) + (", ..." if len(self.occurrences) > 4 else "")
        return f"ChannelSpace({self.id}: {self.size} channels, {owners}{state})"


class ChannelSpaces:
    """The spaces of a graph, in order of first use. Every channel that is followed belongs to exactly one."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.analysis = Analysis(graph)
        self._space_of, self._member_of, groups, reasons = _grouped(self.analysis)
        held = self._occurrences()
        self._spaces = [
            self._space(k, atoms, reason, held[k])
            for k, (atoms, reason) in enumerate(zip(groups, reasons, strict=True))
        ]

    def __len__(self) -> int:
        return len(self._spaces)

    def __iter__(self) -> Iterator[ChannelSpace]:
        return iter(self._spaces)

    def __getitem__(self, index: int) -> ChannelSpace:
        return self._spaces[index]

    def __repr__(self) -> str:
        moving = sum(space.frozen is None for space in self)
        return f"ChannelSpaces({len(self)} spaces, {moving} that may move)"

    def layout(self, value: Value) -> tuple[Codes, Codes] | None:
        """How the channels of a value are arranged: for each position of its channel axis the space's id and the
        channel's place in the space, int64 each. None where no channels are followed, or they lie in several
        dimensions."""
        labels = self._labels(value)
        if len(labels.dims) != 1:
            return None
        atoms = atoms_of(labels.full.reshape(-1))
        return self._space_of[atoms], self._member_of[atoms]

    def channel_dim(self, value: Value) -> int | None:
        """The dimension of a value in which its channels lie; None where ``layout`` is None."""
        labels = self._labels(value)
        return labels.dims[0] if len(labels.dims) == 1 else None

    def _labels(self, value: Value) -> Labels:
        if not isinstance(value, Value) or self.graph.values_by_id.get(value.id) is not value:
            raise PrecutError(f"{value!r} is no value of this graph")
        return self.analysis.labels[value.id]

    def find(self, owner: str, axis: str = "out") -> list[ChannelSpace]:
        """The spaces that lie in one axis of a module or parameter, in order of position."""
        known = self.analysis.found.axes.get((owner, axis))
        if known is None or known.codes is None:
            raise PrecutError(f"no channels are followed in axis {axis!r} of {owner!r}")
        return [self[k] for k in dict.fromkeys(self._space_of[atoms_of(known.codes)].tolist())]

    def members(self, codes: Codes) -> tuple[Codes, Codes]:
        """Space id and place in the space for each code."""
        atoms = atoms_of(codes)
        return self._space_of[atoms], self._member_of[atoms]

    def read_without_weights(self) -> set[int]:
        """Ids of the spaces whose channels count although no weight reads them (see ``Site.reads``)."""
        found: set[int] = set()
        for site in self.analysis.all_sites:
            if site.reads:
                found.update(self.members(site.codes[0])[0].tolist())
        return found

    def _occurrences(self) -> dict[int, list[tuple[Axis, Codes]]]:
        """Space id to the axes that hold it, with its positions there (channel, repeat)."""
        found: dict[int, list[tuple[Axis, Codes]]] = defaultdict(list)
        for axis in self.analysis.found.axes.values():
            if axis.codes is None or not len(axis.codes):  # an index whose picks have all gone
                continue
            spaces, members = self.members(axis.codes)
            order = np.lexsort((tags_of(axis.codes), members, spaces))
            ids, starts = np.unique(spaces[order], return_index=True)
            for number, positions in zip(ids.tolist(), np.split(order, starts[1:]), strict=True):
                found[number].append((axis, positions.reshape(len(np.unique(members[positions])), -1)))
        return found

    def _space(self, number: int, atoms: Codes, reason: str | None, held: list[tuple[Axis, Codes]]) -> ChannelSpace:
        producers: list[str] = []
        consumers: list[str] = []
        for axis, _ in held:
            if axis.makes and axis.axis == "out":
                producers += [node.name for node in axis.nodes] or [axis.owner]
            elif axis.axis == "in":
                consumers += [node.name for node in axis.nodes]
        occurrences = tuple(Occurrence(axis.owner, axis.axis, positions) for axis, positions in held)
        makers, readers = tuple(dict.fromkeys(producers)), tuple(dict.fromkeys(consumers))
        return ChannelSpace(self, number, len(atoms), reason, atoms, occurrences, makers, readers)


def _mix(*parts: UInts | int) -> UInts:
    """A 64-bit hash of each row (splitmix64 steps)."""
    state = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        for part in parts:
            mixed = (np.asarray(part, np.uint64) ^ state) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = mixed ^ (mixed >> np.uint64(31))
    return np.asarray(state)


def _signatures(sites: list[Site], count: int) -> UInts:
    """Two 64-bit numbers for each atom, equal where the atoms meet the same sites with the same tags and colours."""
    sums = np.zeros((count, 2), np.uint64)
    for number, site in enumerate(sites):
        tags = [tags_of(codes).astype(np.uint64) for codes in site.codes]
        colours = np.zeros(1, np.uint64) if site.colours is None else site.colours.astype(np.uint64) + np.uint64(1)
        for half in (0, 1):
            np.add.at(sums[:, half], atoms_of(site.codes[0]), _mix(2 * number + half, *tags, colours))
    return sums


def _grouped(analysis: Analysis) -> tuple[Codes, Codes, list[Codes], list[str | None]]:
    """(space of each atom, place in it, atoms of each space, why each is frozen)."""
    count = len(analysis.same)
    sums = _signatures(analysis.all_sites, count)
    reasons: list[str] = []
    frozen = np.zeros(count, np.uint64)
    for atoms, reason in analysis.found.frozen:
        if reason not in reasons:
            reasons.append(reason)
        frozen[atoms[frozen[atoms] == 0]] = reasons.index(reason) + 1
    first = np.full(count, np.iinfo(np.int64).max)  # order of first use
    start = 0
    for axis in analysis.found.axes.values():
        if axis.codes is not None:
            np.minimum.at(first, atoms_of(axis.codes), start + np.arange(len(axis.codes)))
            start += len(axis.codes)
    used = np.flatnonzero(first < np.iinfo(np.int64).max)
    used = used[np.argsort(first[used])]
    rows = np.column_stack([sums[used], frozen[used]])
    _, opening, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    rank = np.empty(len(opening), np.int64)
    rank[np.argsort(opening)] = np.arange(len(opening))
    number = rank[inverse]
    space_of, member_of = np.full(count, -1), np.full(count, -1)
    groups: list[Codes] = []
    why: list[str | None] = []
    for k in range(len(opening)):
        atoms = used[number == k]
        space_of[atoms], member_of[atoms] = k, np.arange(len(atoms))
        groups.append(atoms)
        cause = int(frozen[atoms[0]])
        why.append(reasons[cause - 1] if cause else None)
    return space_of, member_of, groups, why
