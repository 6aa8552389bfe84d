"""Plots: the frontier by brute force, the files by their first bytes and by being equal twice."""

import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precut.errors import PrecutError
from precut.report import lines_plot, pareto_front, pareto_plot

ROWS = [
    {"name": "dense", "family": "dense", "macs": 559e6, "accuracy": 92.84},
    {"name": "PS4_P4", "family": "PS", "macs": 253e6, "accuracy": 92.95},
    {"name": "PSD1_P16", "family": "PSD", "macs": 100e6, "accuracy": 92.01},
    {"name": "unfinished", "family": "PSD", "macs": 50e6, "accuracy": None},
]
XY = {"x": "macs", "y": "accuracy"}


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12), st.sampled_from(["lower", "higher"]))
def test_front_is_what_nothing_beats(points, better_x):
    sign = 1 if better_x == "lower" else -1

    def beats(p, q):
        return sign * p[0] <= sign * q[0] and p[1] >= q[1] and p != q

    expected = {p for p in points if not any(beats(q, p) for q in points)}
    front = pareto_front(points, better_x)
    assert {points[i] for i in front} == expected
    assert len(front) == len(expected)
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")], ids=["png", "svg", "pdf"]
)
def test_files(tmp_path, suffix, start):
    path = pareto_plot(ROWS, tmp_path / f"deep/plot{suffix}", **XY, label="name", group="family", log_x=True)
    assert path == tmp_path / f"deep/plot{suffix}"
    assert path.read_bytes().startswith(start)


def test_equal_data_give_equal_files(tmp_path):
    first = pareto_plot(ROWS, tmp_path / "a.png", **XY, group="family").read_bytes()
    assert first == pareto_plot(ROWS, tmp_path / "b.png", **XY, group="family").read_bytes()
    changed = [{**row, "macs": row["macs"] * (2 if row["name"] == "dense" else 1)} for row in ROWS]
    assert first != pareto_plot(changed, tmp_path / "c.png", **XY, group="family").read_bytes()


def test_a_narrow_logarithmic_axis_still_has_ticks(tmp_path):
    rows = [{"x": 110.0, "y": 1.0}, {"x": 190.0, "y": 2.0}]
    svg = pareto_plot(rows, tmp_path / "p.svg", x="x", y="y", log_x=True).read_text()
    assert svg.count('id="xtick_') >= 2


def test_front_of_one_group_differs(tmp_path):
    one = pareto_plot(ROWS, tmp_path / "a.png", **XY, group="family", front_of="dense").read_bytes()
    assert one != pareto_plot(ROWS, tmp_path / "b.png", **XY, group="family").read_bytes()


def test_more_groups_than_colours(tmp_path):
    rows = [{"g": str(i), "x": float(i), "y": float(i % 5)} for i in range(20)]
    assert pareto_plot(rows, tmp_path / "p.png", x="x", y="y", group="g", better_x="higher").stat().st_size > 1000


def test_lines(tmp_path):
    series = {"a": ([1, 2, 3], [1, 4, 9], [0, 3, 8], [2, 5, 10]), "b": ([2], [3])}
    path = lines_plot(series, tmp_path / "l.png", x_label="epoch", y_label="loss", log_y=True)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_no_global_state(tmp_path, monkeypatch):
    """Plots are drawn without pyplot, so any thread may draw and no window manager is touched."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now fails
    failed = []

    def draw(number):
        try:
            pareto_plot(ROWS, tmp_path / f"{number}.png", **XY)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda p: pareto_plot([], p / "a.png", **XY), "nothing to plot: no point has both 'macs' and 'accuracy'"),
        (
            lambda p: pareto_plot(ROWS, p / "a.png", x="macs", y="acuracy"),
            "unknown key of a point 'acuracy': did you mean 'accuracy'?",
        ),
        (
            lambda p: pareto_plot(ROWS, p / "a.png", **XY, label="nam"),
            "unknown key of a point 'nam': did you mean 'name'?",
        ),
        (
            lambda p: pareto_plot([{"macs": "1", "accuracy": 2}], p / "a.png", **XY),
            "a point's 'macs' must be a finite number or None; got '1'",
        ),
        (
            lambda p: pareto_plot([{"macs": 0, "accuracy": 2}], p / "a.png", **XY, log_x=True),
            "log_x needs 'macs' above 0; got 0",
        ),
        (
            lambda p: pareto_plot(ROWS, p / "a.png", **XY, better_x="less"),
            "unknown better_x 'less': choose one of 'higher', 'lower'",
        ),
        (
            lambda p: pareto_plot(ROWS, p / "a.png", **XY, group="family", front_of="denze"),
            "unknown group in front_of 'denze': did you mean 'dense'?",
        ),
        (
            lambda p: lines_plot({}, p / "a.png", x_label="", y_label=""),
            "nothing to plot: series is empty; expected {name: (x, y)}",
        ),
        (
            lambda p: lines_plot({"a": ([1], [1, 2])}, p / "a.png", x_label="", y_label=""),
            "series 'a' needs (x, y) or (x, y, low, high) of one length, at least 1; got lengths [1, 2]",
        ),
    ],
)
def test_wrong_use(draw, message, tmp_path):
    with pytest.raises(PrecutError) as caught:
        draw(tmp_path)
    assert str(caught.value) == message
    assert not list(tmp_path.iterdir())


def test_unknown_suffix():
    with pytest.raises(PrecutError) as caught:
        pareto_plot(ROWS, "plot.jpg", **XY)
    assert str(caught.value) == "a picture's name must end in .png, .svg, .pdf; got 'plot.jpg'"


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PrecutError) as caught:
        pareto_plot(ROWS, tmp_path / "a.png", **XY)
    assert str(caught.value) == "plots need matplotlib, which is not installed: pip install matplotlib"
