"""The proof of an edit: the channels that are left, sent through every operation of the network.

Where codes begin, a replay lets the edited ones begin. Operations that move data move them as the model's code would
move the edited network's data, with the sizes that it would see. Where codes are read it looks up which old position
each new one had. If at any place codes meet that did not meet there before, the edit is refused.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from precut.graph._analysis import Analysis
from precut.graph._flow import Axis, Flow, Site, TensorAxis, sizes_of
from precut.graph._graph import Node, Value
from precut.graph._labels import TAG_BITS, Codes, Labels, atoms_of, tags_of

__all__ = ["Replay", "ReplayError"]


class ReplayError(Exception):
    """The edited network would not compute what it should."""


class Replay(Flow):
    """Sends edited codes through the network.

    Attributes:
        indices: for each axis with parameters the old position of each new one.
        positions: new contents of index tensors, by name.
    """

    def __init__(self, analysis: Analysis, targets: Codes) -> None:
        super().__init__(analysis.graph, analysis.tags)
        self.analysis = analysis
        self.targets = targets
        self.indices: dict[tuple[str, str], Codes] = {}
        self.positions: dict[str, Codes] = {}
        self._places: dict[tuple[str, str], Codes] = {}
        self._uses: Counter[tuple[tuple[str, str], int]] = Counter()
        self._tied: dict[tuple[str, int], Codes] = {}
        self._counts: dict[int, int] = {}
        self._alive = np.zeros(len(targets), bool)
        self._alive[targets[targets >= 0]] = True
        self._tensor_axes = {
            (tensor.name, tensor.dim): axis for axis in analysis.found.axes.values() for tensor in axis.tensors
        }
        self._changed: set[int] = set()  # ids of values whose channels are others than before
        self.walk()
        for guard in analysis.graph.guards:
            if not guard.holds(self.shapes):
                raise ReplayError(f"the model's code at {guard.source} depends on the number of channels")

    def emitted(self, codes: Codes) -> Codes:
        """What an axis of these codes holds after the edit, where the codes begin there."""
        atoms = self.targets[atoms_of(codes)]
        return (atoms[atoms >= 0] << TAG_BITS) | tags_of(codes)[atoms >= 0]

    # ---- the walk --------------------------------------------------------------------------------------------------

    def walk(self) -> None:
        """Only through the nodes that the edit touches; elsewhere everything is as it was."""
        self.labels = dict(self.analysis.labels)
        moved = self.targets != np.arange(len(self.targets))
        touched = {
            node.index
            for axis in self.analysis.found.axes.values()
            if axis.codes is not None and moved[atoms_of(axis.codes)].any()
            for node in axis.nodes
        }
        for node in self.graph.nodes:
            if node.index in touched or any(value.id in self._changed for value in node.inputs) or sizes_of(node):
                self._step(node)
        if any(value.id in self._changed for value in self.graph.outputs):
            raise ReplayError("the network's outputs would change")

    def _step(self, node: Node) -> None:
        self._counts[node.index] = 0
        super()._step(node)
        if self._counts[node.index] != len(self.analysis.found.sites.get(node.index, ())):
            raise ReplayError(f"{node.where} would treat the channels in another way")
        for value in node.outputs:
            old, new = self.analysis.labels[value.id], self.labels[value.id]
            same = old.shape == new.shape and old.dims == new.dims
            if same and (old.codes is None or np.array_equal(old.codes, new.full)):
                self.labels[value.id] = old
            else:
                self._changed.add(value.id)

    def _barrier(self, node: Node, reason: str) -> list[Labels]:
        if node.index not in self.analysis.found.barriers:
            raise ReplayError(reason)
        self._counts[node.index] = len(self.analysis.found.sites.get(node.index, ()))
        return super()._barrier(node, reason)

    def _next(self, node: Node | None) -> Site | None:
        key = -1 if node is None else node.index
        sites = self.analysis.found.sites.get(key, [])
        number = self._counts.get(key, 0)
        self._counts[key] = number + 1
        return sites[number] if number < len(sites) else None

    def _fail(self, node: Node | None, what: str) -> ReplayError:
        return ReplayError(f"{'the network' if node is None else node.where} {what}")

    # ---- what rules ask --------------------------------------------------------------------------------------------

    def fresh(
        self, node: Node | None, owner: str, axis: str, size: int, tensors: tuple[TensorAxis, ...] = (), fixed: str = ""
    ) -> Codes:
        known = self.analysis.found.axes.get((owner, axis))
        if known is None or known.codes is None:
            raise self._fail(node, "would treat the channels in another way")
        codes = self.emitted(known.codes)
        if fixed and len(codes) != size:
            raise self._fail(node, f"{fixed} that is fixed in the model's code")
        self._record(node, known, codes)
        return codes

    def slots(self, owner: str, axis: str) -> Codes:
        codes = self.analysis.found.axes[owner, axis].codes
        assert codes is not None
        left = np.flatnonzero(self.targets[atoms_of(codes)] >= 0)
        self.indices[owner, axis] = left
        return left

    def read(self, node: Node, owner: str, axis: str, codes: Codes | None, tensors: tuple[TensorAxis, ...]) -> None:
        known = self.analysis.found.axes.get((owner, axis))
        if codes is None:
            return
        if known is None or known.codes is None:
            raise self._fail(node, "would treat the channels in another way")
        self._record(node, known, codes)

    def _record(self, node: Node | None, axis: Axis, codes: Codes) -> None:
        key = (axis.owner, axis.axis)
        index = -1 if node is None else node.index
        number = self._uses[key, index]
        self._uses[key, index] += 1
        uses = axis.uses.get(index, [])
        places = _find(uses[number], codes) if number < len(uses) else None
        if places is None:
            raise self._fail(node, "would get channels that it did not get before")
        if not np.array_equal(self._places.setdefault(key, places), places):
            raise self._fail(node, "would read parameters that it shares in two orders")
        self.indices[key] = places
        for tensor in axis.tensors:
            if not np.array_equal(self._tied.setdefault((tensor.name, tensor.dim), places), places):
                raise self._fail(node, f"would need {tensor.name!r}, which it shares, in two orders")

    def arrive(self, node: Node, value: Value, codes: Codes) -> None:
        # No channel may be where it was not before, and none that is left may be missing.
        old = self.analysis.labels[value.id].codes
        if old is not None:
            old = old.reshape(-1)
            if np.array_equal(np.sort(old[self._alive[atoms_of(old)]]), np.sort(codes)):
                return
        raise self._fail(node, "would take other channels, by positions that are fixed in the model's code")

    def channel_dims(self, node: Node) -> tuple[int, ...] | None:
        return self.analysis.labels[node.output.id].dims

    def join(self, node: Node, first: Codes, second: Codes) -> None:
        site = self._next(node)
        first, second = (codes.reshape(-1) for codes in np.broadcast_arrays(first, second))
        if site is None or len(site.codes) != 2:
            raise self._fail(node, "would join channels that it did not join before")
        if np.array_equal(first, site.codes[0]) and np.array_equal(second, site.codes[1]):
            return
        old = set(zip(site.codes[0].tolist(), site.codes[1].tolist(), strict=True))
        if not set(zip(first.tolist(), second.tolist(), strict=True)) <= old:
            raise self._fail(node, "would join other channels")

    def mark(
        self, node: Node | None, codes: Codes, colours: Codes | None = None, whole: str = "", reads: bool = False
    ) -> None:
        site = self._next(node)
        codes = codes.reshape(-1)
        places = None if site is None else _find(site.codes[0], codes)
        if site is None or places is None:
            raise self._fail(node, "would get channels that it did not get before")
        if site.whole and len(codes) != len(site.codes[0]):
            raise ReplayError(site.whole)
        if colours is not None and site.colours is not None:
            now = np.broadcast_to(colours, codes.shape) if colours.size == codes.size else colours
            if not np.array_equal(site.colours[places], now.reshape(-1)):
                raise self._fail(node, "would move channels to another group")

    def freeze(self, codes: Codes, reason: str) -> None:
        """Frozen codes are never edited."""

    def freeze_tensor(self, name: str, reason: str, dim: int | None = None) -> None:
        """Frozen tensors are never edited."""

    def gather(self, node: Node, buffer: str, index: Codes, codes: Codes) -> Codes:
        made = self.fresh(node, buffer, "index", len(index), (TensorAxis(buffer, 0),))
        known = next(g for g in self.analysis.found.gathers if g.node is node and g.buffer == buffer)
        places = _find(known.codes, made)
        assert places is not None
        positions = _find(codes, known.sources[places])
        if positions is None or not np.array_equal(self.positions.setdefault(buffer, positions), positions):
            raise self._fail(node, "would pick channels that are not there")
        self.indices.pop((buffer, "index"), None)  # its contents change, not only their order
        return made

    def param_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        sizes = list(shape)
        for dim in range(len(shape)):
            axis = self._tensor_axes.get((name, dim))
            if axis is not None and axis.codes is not None:
                sizes[dim] = len(self.emitted(axis.codes))
        return tuple(sizes)


def _find(old: Codes, new: Codes) -> Codes | None:
    """The position in ``old`` of each code of ``new``; None when one is not there."""
    if np.array_equal(old, new):
        return np.arange(len(old))
    order = np.argsort(old, kind="stable")
    at = np.searchsorted(old[order], new)
    if (at >= len(old)).any():
        return None
    places = order[at]
    return places if np.array_equal(old[places], new) else None
