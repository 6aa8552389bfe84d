"""Every point of a dynamic network compiled; switching is choosing which one runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precut._files import atomic_write
from precut.dynamic._metrics import example_of
from precut.dynamic._net import resized
from precut.dynamic._point import Point
from precut.dynamic._space import listed
from precut.engine import CompiledModel
from precut.engine import compile as compile_model
from precut.errors import PrecutError
from precut.report import Column, Table, byte_size

if TYPE_CHECKING:
    from precut.dynamic._net import DynamicNet

__all__ = ["CompiledDynamic", "compile_points"]


class CompiledDynamic:
    """A dynamic network ready to run fast; made by ``dyn.compile()`` or ``precut.compile(dyn, ...)``.

    Call it like the network; ``set_point`` chooses what runs, without allocating or computing anything. Weights and
    statistics are those at the time of compiling.

    Attributes:
        points: what can be chosen, in the ladder's order.
        models: the compiled model of each point.
        bytes_full: weights and buffers of the uncompiled network, which all its points share.
    """

    def __init__(self, models: dict[Point, CompiledModel], bytes_full: int, bytes_own: dict[Point, int]) -> None:
        self.models = models
        self.points = tuple(models)
        self.bytes_full = bytes_full
        self._bytes_own = bytes_own
        self._side: int | None = None
        self.set_point(self.points[0])

    @property
    def active(self) -> Point:
        """The point that runs."""
        return self._active

    def set_point(self, point: Point) -> None:
        """From now on this point runs.

        Raises:
            PrecutError: for a point that was not compiled.
        """
        try:
            self._model = self.models[point]
        except (KeyError, TypeError):
            raise PrecutError(
                f"this point was not compiled: {point!r:.80}; compiled.points lists {len(self.points)}"
            ) from None
        self._active, self._side = point, point.resolution

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The active point's result; images are brought to its resolution first."""
        if self._side is not None:
            args = resized(args, self._side)
        return self._model(*args, **kwargs)

    def explain(self, point: Point | None = None, rounds: int = 0) -> Table:
        """What runs each layer of a point (by default the active one); see ``CompiledModel.explain``."""
        if point is not None and point not in self.models:
            raise PrecutError(f"this point was not compiled: {point!r:.80}")
        return self.models[self.active if point is None else point].explain(rounds)

    def bytes(self) -> Table:
        """What the points take in memory.

        Compiled points share nothing: batch norms are folded into the weights with each point's own statistics, so no
        weight of one point is a weight of another. Uncompiled (``dyn.set_point``) they share all weights.
        """
        rows: list[dict[str, Any]] = []
        for number, point in enumerate(self.points):
            told = self.models[point].explain()
            rows.append(
                {
                    "point": number,
                    "packed": int(told.totals[0]["weight_bytes"] or 0),
                    "canonical": sum(len(part.data) for part in self.models[point].parts if hasattr(part, "data")),
                    "own": self._bytes_own[point],
                }
            )
        total = {key: sum(row[key] for row in rows) for key in ("packed", "canonical", "own")}
        columns = [
            Column("point"),
            Column("packed", "packed weights", byte_size, "right"),
            Column("canonical", "canonical copy", byte_size, "right"),
            Column("own", "own, uncompiled", byte_size, "right"),
        ]
        notes = [
            f"uncompiled, all points together: {byte_size(self.bytes_full + total['own'])} (the full network's "
            f"{byte_size(self.bytes_full)} and each point's own statistics)",
            "compiled, points share no weights: their batch norms are folded in",
        ]
        return Table(rows, columns, title="bytes of each point", totals=[{"point": "all", **total}], notes=notes)

    def save(self, folder: str | Path) -> Path:
        """Writes each point's native file, ``0.precut`` on, and ``points.json``, which tells what they are.

        A program without Python opens each once (``precut_load_file``) and switches by choosing the handle.

        Raises:
            PrecutError: when a part of a point runs in torch.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise PrecutError(f"save writes a folder, a file for each point; {str(folder)!r} is a file")
        folder.mkdir(parents=True, exist_ok=True)
        for number, point in enumerate(self.points):
            self.models[point].save(folder / f"{number}.precut")
        rows = [{"file": f"{number}.precut", **point.to_dict()} for number, point in enumerate(self.points)]
        return atomic_write(folder / "points.json", json.dumps(rows, indent=2) + "\n").parent

    def __repr__(self) -> str:
        return f"CompiledDynamic({len(self.points)} points, active {self.points.index(self.active)})"


def compile_points(
    dyn: DynamicNet,
    points: Sequence[Point] | None = None,
    example_inputs: Any = None,
    threads: int | None = None,
    autotune: bool = True,
) -> CompiledDynamic:
    """Compiles every point with ``precut.compile``; the first one is active.

    Args:
        points: by default ``dyn.points``, or the full network where there are none.
        example_inputs: a tensor or a tuple of tensors whose batch (and, for points without a resolution, size) the
            points are prepared for; by default the network's example. Other batches work too.
        threads, autotune: see ``precut.compile``.

    Raises:
        PrecutError: a point that is not calibrated, or a network that cannot be compiled.
    """
    chosen = list(dyn.points or [dyn.full]) if points is None else listed("points", points, "points")
    if not chosen:
        raise PrecutError("compile got no points; dyn.points lists those that are ready")
    models: dict[Point, CompiledModel] = {}
    own: dict[Point, int] = {}
    for point in chosen:
        net = dyn.extract(point).float().cpu()
        example: tuple[Any, ...] = tuple(item.float().cpu() for item in example_of(dyn, point))
        if example_inputs is not None:
            example = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
            example = example if point.resolution is None else resized(example, point.resolution)
        models[point] = compile_model(net, example, threads=threads, autotune=autotune)
        own[point] = sum(tensor.numel() * tensor.element_size() for tensor in dyn.own_tensors(point).values())
    held = {id(tensor): tensor for tensor in (*dyn.model.parameters(), *dyn.model.buffers())}
    full = sum(tensor.numel() * tensor.element_size() for tensor in held.values())
    return CompiledDynamic(models, full, own)
