"""Numbers as text: by example, and that no text is further from its number than its digits allow."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precut.report import byte_size, count, duration, percent, si

SI = {0: "0", 12: "12", 0.5: "0.5", 999: "999", 1000: "1.000 k", 999_949: "999.9 k", 999_960: "1.000 M",
      555_422_720: "555.4 M", 37_748_736: "37.75 M", -2500: "-2.500 k", math.inf: "inf", math.nan: "nan"}  # fmt: skip
DURATION = {3e-8: "30.00 ns", 412.3e-6: "412.3 us", 4.12e-3: "4.120 ms", 0.99999: "1.000 s", 1.5: "1.500 s",
            599.94: "599.9 s", 720: "12.00 min", math.inf: "inf"}  # fmt: skip


@pytest.mark.parametrize(("value", "text"), SI.items())
def test_si(value, text):
    assert si(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0 B"), (9, "9 B"), (44_695_848, "44.70 MB"), (1e15, "1.000 PB")])
def test_byte_size(value, text):
    assert byte_size(value) == text


@pytest.mark.parametrize(("value", "text"), DURATION.items())
def test_duration(value, text):
    assert duration(value) == text


def test_count_and_percent():
    assert count(11_173_962) == "11,173,962"
    assert percent(4 / 9) == "44.4 %"


@given(st.floats(min_value=1e-6, max_value=9e17, allow_nan=False))
def test_si_keeps_four_digits(value):
    number, _, prefix = si(value).partition(" ")
    factor = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}[prefix]
    assert float(number) * factor == pytest.approx(value, rel=6e-4)
    assert len(number.replace(".", "").replace("-", "").lstrip("0")) <= 4 or "e" in number


@given(st.floats(min_value=1e-9, max_value=1e7, allow_nan=False))
def test_duration_keeps_four_digits(value):
    number, unit = duration(value).split(" ")
    factor = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "min": 60}[unit]
    assert float(number) * factor == pytest.approx(value, rel=6e-4)
