"""Tables: the text against files, the data forms against their parsers."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden import check_golden
from precut.errors import PrecutError
from precut.report import Column, Table, percent, si

GOLDEN = Path(__file__).parent / "golden"

ROWS = [
    {"layer": "stem", "macs": 1_769_472, "density": 1.0, "note": None},
    {"layer": "stages.0.0.body.0", "macs": 16_777_216, "density": 4 / 9, "note": "a | b"},
    {"layer": "head", "macs": 5120, "density": None, "note": "last"},
]
COLUMNS = [Column("layer"), Column("macs", "MACs", si), Column("density", format=percent), "note"]


def example() -> Table:
    return Table(ROWS, COLUMNS, title="A table", totals=[{"layer": "total", "macs": 18_551_808}], notes=["counted"])


def test_text():
    check_golden(str(example()), GOLDEN / "table.txt")


def test_markdown():
    check_golden(example().to_markdown(), GOLDEN / "table.md")


def test_long_text_is_shortened_to_fit():
    rows = [{"name": "model." + ".".join(f"block{i}" for i in range(30)), "value": 1.5, "why": "because " * 20}]
    table = Table(rows, notes=["a note of many words " * 12])
    check_golden(str(table), GOLDEN / "narrow.txt")
    assert max(map(len, str(table).splitlines())) <= 120
    assert max(map(len, table.text(width=60).splitlines())) <= 60


def test_numbers_are_never_shortened():
    rows = [{f"column_number_{i}": 123_456_789.0 for i in range(12)}]
    assert str(Table(rows)).count("123456789.0") == 12


def test_columns_default_to_the_keys_and_numbers_go_right():
    lines = str(Table([{"a": 1, "b": "x"}, {"a": 100, "b": "yy"}])).splitlines()
    assert lines == ["  a  b", "-------", "  1  x", "100  yy"]


def test_json_is_strict():
    table = Table([{"a": float("nan"), "b": (1, float("inf")), "c": {"x": 1.0}}], notes=["n"])
    assert json.loads(table.to_json()) == {
        "title": "",
        "rows": [{"a": None, "b": [1, None], "c": {"x": 1.0}}],
        "totals": [],
        "notes": ["n"],
    }


@given(
    st.lists(
        st.fixed_dictionaries(
            {"name": st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])), "value": st.integers()}
        ),
        min_size=1,
        max_size=5,
    )
)
def test_csv_and_json_give_the_rows_back(rows):
    table = Table(rows)
    read = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert read == [{"name": row["name"], "value": str(row["value"])} for row in rows]
    assert json.loads(table.to_json())["rows"] == rows


def test_missing_values():
    table = Table([{"a": 1}, {}], ["a", "b"])
    assert str(table).splitlines()[2:] == ["1  -", "-  -"]
    assert table.to_csv() == "a,b\n1,\n,\n"


def test_cells_are_one_line():
    assert str(Table([{"a": "one\ntwo"}])).splitlines()[-1] == "one two"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Table([]), "a Table without rows needs its columns; got neither"),
        (lambda: Table([{"a": 1}], ["a", "a"]), "a Table's columns need different keys; got ['a', 'a']"),
        (
            lambda: Table([{"name": 1, "maks": 2}], ["name", "macs"]),
            "unknown column in a row 'maks': did you mean 'macs'?",
        ),
        (lambda: Column("a", align="centre"), "unknown align 'centre': choose one of 'left', 'right'"),
        (
            lambda: str(Table([{"a": "x"}], [Column("a", format=".2f")])),
            "column 'a' has format '.2f', which does not fit its value 'x': Unknown format code 'f' for object of type "
            "'str'",
        ),
    ],
)
def test_wrong_use(make, message):
    with pytest.raises(PrecutError) as caught:
        make()
    assert str(caught.value) == message
