"""Which channels are coupled: the walk that joins what must move together, and collects where it goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from precut.graph import _rules, _rules_layers, _rules_moves, _rules_shapes  # noqa: F401  (they register the rules)
from precut.graph._flow import Axis, Flow, Site, TensorAxis
from precut.graph._graph import Node, Value
from precut.graph._labels import TAG_BITS, Codes, Labels, Tags, UnionFind, atoms_of

if TYPE_CHECKING:
    from precut.graph._graph import Graph

__all__ = ["Analysis", "Found", "Gather"]


@dataclass
class Gather:
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
    gathers: list[Gather] = field(default_factory=list)
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

    def mark(
        self, node: Node | None, codes: Codes, colours: Codes | None = None, whole: str = "", reads: bool = False
    ) -> None:
        if colours is not None:
            colours = np.broadcast_to(colours, codes.shape).reshape(-1)
        self._site(Site(node, (codes.reshape(-1),), colours, whole, reads))

    def _barrier(self, node: Node, reason: str) -> list[Labels]:
        self.found.barriers.add(node.index)
        return super()._barrier(node, reason)

    def freeze(self, codes: Codes, reason: str) -> None:
        self.found.frozen.append((np.unique(atoms_of(codes)), reason))

    def freeze_tensor(self, name: str, reason: str, dim: int | None = None) -> None:
        self.found.frozen_tensors.setdefault((name, dim), reason)

    def gather(self, node: Node, buffer: str, index: Codes, codes: Codes) -> Codes:
        made = self.fresh(node, buffer, "index", len(index), (TensorAxis(buffer, 0),))
        self.found.gathers.append(Gather(node, buffer, made, codes[index]))
        return made
