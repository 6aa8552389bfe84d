"""A table that is data first: rows of plain values, printed as aligned text, JSON, CSV or Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from precut.errors import PrecutError, unknown
from precut.report._format import MISSING

__all__ = ["Column", "Table", "plain"]

_ALIGNS = ("left", "right")
_NARROWEST = 12  # a shortened cell keeps this many characters at least


@dataclass(frozen=True)
class Column:
    """One column of a Table.

    Args:
        key: of the rows' values.
        title: the heading; by default the key.
        format: how a value becomes text: a format spec (``".2f"``) or a function. By default ``str``.
        align: "left" or "right"; by default right for columns whose values are all numbers.
    """

    key: str
    title: str | None = None
    format: str | Callable[[Any], str] | None = None
    align: str | None = None

    def __post_init__(self) -> None:
        if self.align is not None and self.align not in _ALIGNS:
            raise unknown("align", self.align, _ALIGNS)

    @property
    def heading(self) -> str:
        """What stands above the column."""
        return self.key if self.title is None else self.title

    def text(self, value: Any) -> str:
        """A value as one line of text; ``None`` is shown as a dash."""
        if value is None:
            return MISSING
        if self.format is None:
            shown = str(value)
        elif isinstance(self.format, str):
            try:
                shown = format(value, self.format)
            except (TypeError, ValueError) as error:
                raise PrecutError(
                    f"column {self.key!r} has format {self.format!r}, which does not fit its value {value!r}: {error}"
                ) from None
        else:
            shown = self.format(value)
        return " ".join(shown.split())


class Table:
    """Columns and rows.

    Args:
        rows: mappings from keys to plain values (numbers, strings, bools, None); a missing key is None.
        columns: Columns, or just keys; by default the keys of the first row.
        title: printed above.
        totals: rows printed below a rule (sums, means); they are not among ``rows``.
        notes: lines printed below: the conditions of the numbers, what was not counted.

    ``str()`` is aligned text of at most 120 characters a line where shortening the text columns can do that.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        columns: Sequence[Column | str] | None = None,
        *,
        title: str = "",
        totals: Iterable[Mapping[str, Any]] = (),
        notes: Iterable[str] = (),
    ) -> None:
        self.rows = [dict(row) for row in rows]
        self.totals = [dict(row) for row in totals]
        if columns is None:
            if not self.rows:
                raise PrecutError("a Table without rows needs its columns; got neither")
            columns = list(self.rows[0])
        self.columns = [column if isinstance(column, Column) else Column(column) for column in columns]
        keys = [column.key for column in self.columns]
        if len(set(keys)) != len(keys):
            raise PrecutError(f"a Table's columns need different keys; got {keys}")
        for row in (*self.rows, *self.totals):
            for key in row:
                if key not in keys:
                    raise unknown("column in a row", key, keys)
        self.title = title
        self.notes = list(notes)

    def _aligns(self) -> list[str]:
        aligns = []
        for column in self.columns:
            values = [row.get(column.key) for row in self.rows]
            numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values if v is not None)
            aligns.append(column.align or ("right" if numbers and any(v is not None for v in values) else "left"))
        return aligns

    def text(self, width: int = 120) -> str:
        """Aligned text; columns of text are shortened (an ellipsis in the middle) until a line fits ``width``."""
        aligns = self._aligns()
        cells = [[column.text(row.get(column.key)) for column in self.columns] for row in self.rows]
        # A total without a value in a column leaves it blank: a dash would read as "unknown".
        feet = [
            [column.text(row[column.key]) if row.get(column.key) is not None else "" for column in self.columns]
            for row in self.totals
        ]
        heads = [column.heading for column in self.columns]
        widths = [max(map(len, column)) for column in zip(heads, *cells, *feet, strict=True)]
        while sum(widths) + 2 * (len(widths) - 1) > width:
            loose = [i for i, align in enumerate(aligns) if align == "left" and widths[i] > _NARROWEST]
            if not loose:
                break
            widest = max(loose, key=lambda i: widths[i])
            widths[widest] -= 1

        def line(texts: Sequence[str]) -> str:
            shown = (
                _shorten(text, size).rjust(size) if align == "right" else _shorten(text, size).ljust(size)
                for text, size, align in zip(texts, widths, aligns, strict=True)
            )
            return "  ".join(shown).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        lines = [self.title] if self.title else []
        lines += [line(heads), rule, *map(line, cells)]
        if feet:
            lines += [rule, *map(line, feet)]
        for note in self.notes:
            lines += textwrap.wrap(note, width, subsequent_indent="  ") or [""]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()

    def to_dict(self) -> dict[str, Any]:
        """``{"title", "rows", "totals", "notes"}`` with the raw values; numbers that JSON lacks (inf, nan) are None."""
        return {
            "title": self.title,
            "rows": [{c.key: plain(row.get(c.key)) for c in self.columns} for row in self.rows],
            "totals": [{key: plain(value) for key, value in row.items()} for row in self.totals],
            "notes": list(self.notes),
        }

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_csv(self) -> str:
        """The rows as CSV with the keys as header: raw values, empty where there is none; no totals, no notes."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([column.key for column in self.columns])
        for row in self.rows:
            writer.writerow([row.get(column.key) for column in self.columns])
        return out.getvalue()

    def to_markdown(self) -> str:
        """A GitHub table of the formatted cells, the totals in bold below the rows, the notes as text."""
        aligns = self._aligns()
        heads = [_escape(column.heading) for column in self.columns]
        lines = [f"**{_escape(self.title)}**", ""] if self.title else []
        lines.append("| " + " | ".join(heads) + " |")
        lines.append("|" + "|".join("---:" if align == "right" else "---" for align in aligns) + "|")
        for row in self.rows:
            lines.append("| " + " | ".join(_escape(c.text(row.get(c.key))) for c in self.columns) + " |")
        for row in self.totals:
            shown = (_escape(c.text(row[c.key])) if row.get(c.key) is not None else "" for c in self.columns)
            lines.append("| " + " | ".join(f"**{text}**" if text else "" for text in shown) + " |")
        for note in self.notes:
            lines += ["", _escape(note)]
        return "\n".join(lines) + "\n"


def _shorten(text: str, size: int) -> str:
    if len(text) <= size:
        return text
    head = (size - 1) // 3
    return text[:head] + "…" + text[len(text) - (size - 1 - head) :]  # the tail of a layer's path tells more


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def plain(value: Any) -> Any:
    """The same data with None for what JSON has no word for (NaN, infinity)."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value
