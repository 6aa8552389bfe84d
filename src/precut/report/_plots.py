"""Two plots: points with their Pareto frontier, and lines over a common axis. Written to a file, never shown."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precut._files import atomic_write
from precut.errors import PrecutError, real, unknown
from precut.report._format import si

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["lines_plot", "pareto_front", "pareto_plot"]

# Okabe and Ito, "Color Universal Design" (2008): told apart with every common colour blindness. Yellow is left out, too
# pale for lines on white. Markers and dashes repeat what the colour says, for print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":")
_SUFFIXES = (".png", ".svg", ".pdf")
_BETTER = ("lower", "higher")
_SHORTEN_FROM = 10_000  # x values from here on are written "20 k", "3 M"
_INK, _GRID, _FRONT = "#333333", "#D9D9D9", "#8C8C8C"


def pareto_front(points: Sequence[tuple[float, float]], better_x: str = "lower") -> list[int]:
    """Indices of the points that no other beats, by x; of equal points the first counts.

    Args:
        points: (x, y) pairs; a higher y is better.
        better_x: whether a "lower" (cost) or a "higher" x is better.
    """
    if better_x not in _BETTER:
        raise unknown("better_x", better_x, _BETTER)
    sign = 1 if better_x == "lower" else -1
    best = -math.inf
    front = []
    for index in sorted(range(len(points)), key=lambda i: (sign * points[i][0], -points[i][1], i)):
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return sorted(front, key=lambda i: points[i][0])


def pareto_plot(
    points: Iterable[Mapping[str, Any]],
    path: str | Path,
    *,
    x: str,
    y: str,
    label: str | None = None,
    group: str | None = None,
    x_label: str | None = None,
    y_label: str | None = None,
    title: str = "",
    better_x: str = "lower",
    log_x: bool = False,
    front_of: str | None = None,
) -> Path:
    """Draws rows as points, and the frontier of those that no other beats (a higher y is better).

    Args:
        points: rows (a Table's ``rows`` will do); those whose x or y is None are left out.
        path: of the picture; .png, .svg or .pdf says which kind.
        x, y: keys of the two numbers.
        label: key of the text written beside a point.
        group: key of what gives a point its colour and marker, and the legend its entries.
        x_label, y_label: of the axes, with units; by default the keys.
        title: above the picture.
        better_x: "lower" for a cost, "higher" otherwise.
        log_x: a logarithmic x axis.
        front_of: draw the frontier of this one group only; by default of all points.

    Returns:
        The path.

    Raises:
        PrecutError: when there is nothing to draw, a row lacks a key, a value is no number, or matplotlib is absent.
    """
    rows = [row for row in points if _number(row, x) is not None and _number(row, y) is not None]
    if not rows:
        raise PrecutError(f"nothing to plot: no point has both {x!r} and {y!r}")
    if log_x and min(row[x] for row in rows) <= 0:
        raise PrecutError(f"log_x needs {x!r} above 0; got {min(row[x] for row in rows)}")
    for key in (label, group):
        for row in rows:
            if key is not None and key not in row:
                raise unknown("key of a point", key, row)
    groups = list(dict.fromkeys(str(row[group]) if group else "" for row in rows))
    if front_of is not None and front_of not in groups:
        raise unknown("group in front_of", front_of, groups)
    front_rows = [row for row in rows if front_of is None or (group is not None and str(row[group]) == front_of)]
    front = [front_rows[i] for i in pareto_front([(row[x], row[y]) for row in front_rows], better_x)]
    figure, axes = _blank(path, x_label or x, y_label or y, title)
    if log_x:
        axes.set_xscale("log")
    # A point's y can be had at any worse x too: the line runs on to the worst x drawn.
    steps = [(row[x], row[y]) for row in front]
    if better_x == "lower":
        steps.append((max(row[x] for row in rows), steps[-1][1]))
    else:
        steps.insert(0, (min(row[x] for row in rows), steps[0][1]))
    where = "steps-post" if better_x == "lower" else "steps-pre"
    axes.plot(*zip(*steps, strict=True), drawstyle=where, color=_FRONT, linewidth=1.2, zorder=1)
    for number, name in enumerate(groups):
        members = [row for row in rows if not group or str(row[group]) == name]
        axes.scatter(
            [row[x] for row in members],
            [row[y] for row in members],
            s=42,
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKERS[(number + number // len(_COLOURS)) % len(_MARKERS)],
            edgecolors="white",
            linewidths=0.7,
            zorder=2,
            label=name,
        )
    if label:
        from matplotlib.patheffects import withStroke

        halo = withStroke(linewidth=2.5, foreground="white")
        for row in rows:
            axes.annotate(
                str(row[label]),
                (row[x], row[y]),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=8,
                color=_INK,
                path_effects=[halo],
            )
        axes.margins(x=0.12, y=0.08)  # room for the last label
    return _save(figure, axes, path, legend=bool(group))


def lines_plot(
    series: Mapping[str, Sequence[Sequence[float]]],
    path: str | Path,
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
) -> Path:
    """Draws one line for each name.

    Args:
        series: name to (x, y), or to (x, y, low, high) for a line in a shaded band; sequences of equal length.
        path: of the picture; .png, .svg or .pdf says which kind.
        x_label, y_label: of the axes, with units.
        title: above the picture.
        log_x, log_y: logarithmic axes.

    Returns:
        The path.
    """
    if not series:
        raise PrecutError("nothing to plot: series is empty; expected {name: (x, y)}")
    for name, parts in series.items():
        lengths = [len(part) for part in parts]
        if len(parts) not in (2, 4) or len(set(lengths)) != 1 or not lengths[0]:
            raise PrecutError(
                f"series {name!r} needs (x, y) or (x, y, low, high) of one length, at least 1; got lengths {lengths}"
            )
    figure, axes = _blank(path, x_label, y_label, title)
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    for number, (name, parts) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        dash = _DASHES[(number + number // len(_COLOURS)) % len(_DASHES)]
        # A line of one point would be invisible without a marker.
        marker = "o" if len(parts[0]) == 1 else None
        axes.plot(parts[0], parts[1], color=colour, linestyle=dash, marker=marker, linewidth=1.6, label=name)
        if len(parts) == 4:
            axes.fill_between(parts[0], parts[2], parts[3], color=colour, alpha=0.18, linewidth=0)
    return _save(figure, axes, path, legend=len(series) > 1)


def _number(row: Mapping[str, Any], key: str) -> float | None:
    if key not in row:
        raise unknown("key of a point", key, row)
    value = row[key]
    if value is None:
        return None
    return real(f"a point's {key!r}", value, finite=True, what="number or None")


def _blank(path: str | Path, x_label: str, y_label: str, title: str) -> tuple[Figure, Axes]:
    if Path(path).suffix not in _SUFFIXES:
        raise PrecutError(f"a picture's name must end in {', '.join(_SUFFIXES)}; got {str(path)!r}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PrecutError("plots need matplotlib, which is not installed: pip install matplotlib") from None
    # A Figure of its own, without pyplot: no global state, no display, safe in threads.
    figure = Figure(figsize=(7.2, 4.5), dpi=150, layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_xlabel(x_label, color=_INK)
    axes.set_ylabel(y_label, color=_INK)
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _tick_x(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axes.get_xlim()
    logarithmic = axes.get_xscale() == "log"
    if logarithmic:
        # A narrow range can lie between two of the round numbers that a logarithmic axis marks.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high / low > 4 else MaxNLocator(5))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if logarithmic or high >= _SHORTEN_FROM:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))


def _save(figure: Figure, axes: Axes, path: str | Path, legend: bool) -> Path:
    _tick_x(axes)
    if legend:
        axes.legend(frameon=False, fontsize=9, loc="best")
    path = Path(path)
    out = io.BytesIO()
    # Without dates and versions equal data give equal files.
    metadata: dict[str, Any] = {
        ".png": {"Software": None},
        ".svg": {"Date": None, "Creator": None},
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }[path.suffix]
    figure.savefig(out, format=path.suffix[1:], metadata=metadata)
    return atomic_write(path, out.getvalue())
