"""Families without an inverse: every configuration is counted and those of the wanted mass are kept."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from precut.errors import PrecutError, real, whole
from precut.measure import summary
from precut.models import create_model
from precut.models.mobilenet import V2_REPEATS, V2_STAGES, is_small, make_divisible
from precut.topology._candidate import Candidate, Frame, several
from precut.topology._cell import Cell
from precut.topology._mass import as_graph, count_cells, of_cells

__all__ = ["AnyModels", "MobileNets"]

Floats = npt.NDArray[np.float64]

_WIDTH_MULTS = tuple(round(0.05 * step, 2) for step in range(10, 31))
_MOST = 20_000  # networks that a free search may build


@dataclass(frozen=True)
class MobileNets:
    """Networks "mobilenetv2" of any width multiplier and repeats.

    Every block after a stage's first adds the same mass, parameters and multiply-adds, so all combinations are counted
    in a few sums.

    Args:
        frame: images and classes.
        width_mults: that are tried.
        repeats: for each stage the blocks that are tried; by default from 1 to one more than published.
    """

    frame: Frame
    width_mults: Sequence[float] = _WIDTH_MULTS
    repeats: Sequence[Sequence[int]] | None = None

    def candidates(self, target: float, tolerance: float) -> Iterator[Candidate]:
        """All whose mass is within ``tolerance`` (a share) of the target."""
        grid = np.array(list(itertools.product(*self._repeats())), np.int64)
        for width_mult in several("width_mults", self.width_mults):
            base, steps = self._parts(width_mult)
            counts = base + (grid - 1) @ steps
            for row in np.flatnonzero(np.abs(counts[:, 0] - target) <= tolerance * target + 1e-9):
                yield self._candidate(width_mult, grid[row].tolist(), counts[row].tolist())

    def _repeats(self) -> list[list[int]]:
        if self.repeats is None:
            return [list(range(1, published + 2)) for published in V2_REPEATS]
        try:
            choices = [[operator.index(count) for count in choice] for choice in self.repeats]
        except TypeError:
            choices = []
        if len(choices) != len(V2_STAGES) or any(not choice or min(choice) < 1 for choice in choices):
            raise PrecutError(
                f"repeats must be {len(V2_STAGES)} lists of whole numbers from 1 up; got {self.repeats!r}"
            )
        return choices

    def _candidate(self, width_mult: float, repeats: list[int], counts: list[float]) -> Candidate:
        mass, links, neurons, params, macs, depth = counts
        return Candidate(
            "mobilenetv2",
            {**self.frame.kwargs(), "width_mult": width_mult, "repeats": repeats},
            f"x{width_mult:g}",
            mass,
            links / neurons if neurons else 0.0,
            round(params),
            round(macs),
            round(depth),
        )

    def _parts(self, width_mult: float) -> tuple[Floats, Floats]:
        """What adds up (mass, links, channels, parameters, multiply-adds, layers): of the network with one block a
        stage, (6,), and of one block more in each stage, (7, 6)."""
        real("each of width_mults", width_mult, above=0)
        frame = self.frame
        small = is_small(frame.input_size)
        side = frame.input_size if small else (frame.input_size + 1) // 2
        reads = make_divisible(32 * width_mult)
        total = _layer(9 * frame.in_channels * reads, reads, side)
        steps = []
        for index, (expansion, stage_width, _, stride) in enumerate(V2_STAGES):
            makes = make_divisible(stage_width * width_mult)
            first = 1 if small and index == 1 else stride
            total = total + _block(reads, makes, expansion, side, first)
            side, reads = (side + first - 1) // first, makes
            steps.append(_block(makes, makes, expansion, side, 1))
        last = make_divisible(1280 * max(1.0, width_mult))
        head = last * frame.num_classes
        total = total + _layer(reads * last, last, side)
        total = total + np.array([0, 0, 0, head + frame.num_classes, head, 1.0])
        return total, np.array(steps)


def _layer(weights: int, makes: int, side: int) -> Floats:
    """A convolution with its batch norm."""
    return np.array([0, 0, 0, weights + 2 * makes, weights * side * side, 1.0])


def _block(reads: int, makes: int, expansion: int, side: int, stride: int) -> Floats:
    """An inverted residual block, which has a shortcut if it keeps the shape."""
    hidden, after = reads * expansion, (side + stride - 1) // stride
    total = np.zeros(6)
    if expansion != 1:
        total = total + _layer(reads * hidden, hidden, side)
    total = total + _layer(9 * hidden, hidden, after) + _layer(hidden * makes, makes, after)
    if stride == 1 and reads == makes:
        widths = (reads, hidden, hidden)
        cell = Cell("", "addition", 3, widths, reads, 2 * reads + hidden)
        total[:3] = cell.mass, cell.degree * cell.neurons, cell.neurons
    return total


@dataclass(frozen=True)
class AnyModels:
    """Any network of the zoo, over a grid of its arguments; each is built (without numbers) and counted.

    Args:
        frame: images and classes.
        model: its name.
        search: argument to the values that are tried, in all combinations.
    """

    frame: Frame
    model: str
    search: Mapping[str, Sequence[Any]]

    def candidates(self, target: float, tolerance: float) -> Iterator[Candidate]:
        """All whose mass is within ``tolerance`` (a share) of the target."""
        if not self.search:
            raise PrecutError(
                f"design of {self.model!r} needs search=, arguments and the values to try, such as "
                f"{{'width_mult': [0.5, 0.75, 1.0]}}; got {dict(self.search)!r}"
            )
        tried = [several(f"search[{name!r}]", values) for name, values in self.search.items()]
        whole("networks in the search", math.prod(map(len, tried)), 1, _MOST)
        for values in itertools.product(*tried):
            candidate = self._counted(dict(zip(self.search, values, strict=True)))
            if abs(candidate.mass - target) <= tolerance * target + 1e-9:
                yield candidate

    def _counted(self, own: dict[str, Any]) -> Candidate:
        kwargs = {**self.frame.kwargs(), **own}
        with torch.device("meta"):
            model = create_model(self.model, **kwargs)
            graph = as_graph(model)
            counted = summary(model, graph.example[0][0])
        mass = of_cells(count_cells(graph))
        width = own.get("width_mult", 1.0)
        return Candidate(
            self.model, kwargs, f"x{width:g}", mass.mass, mass.degree, counted.params, counted.macs, len(graph.layers())
        )
