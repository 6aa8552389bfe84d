"""The general structured form, against loops over every weight."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precut.errors import PrecutError
from precut.supports import ClassTable, Periodic


@st.composite
def tables(draw: st.DrawFn) -> tuple[ClassTable, tuple[int, ...], int]:
    """A table with any pairs (empty and full ones too), and a layer to bind it to, grouped or depthwise or linear."""
    kernel = draw(st.sampled_from([(3, 3), (1, 3), (2, 2), (5, 5), ()]))
    area = math.prod(kernel)
    pair = st.one_of(
        st.just([]), st.just(list(range(area))), st.lists(st.integers(0, area - 1), unique=True, max_size=area)
    )
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    row = st.lists(pair, min_size=columns, max_size=columns)
    table = ClassTable(draw(st.lists(row, min_size=rows, max_size=rows)), align=draw(st.integers(1, 4)))
    groups = draw(st.integers(1, 4)) if kernel else 1
    channels = draw(st.integers(1, 9))
    return table, (groups * draw(st.integers(1, 6)), channels, *kernel), groups


@settings(deadline=None)
@given(case=tables())
def test_mask_is_the_tables(case: tuple[ClassTable, tuple[int, ...], int]) -> None:
    table, shape, groups = case
    mask = table.mask(shape, groups).reshape(shape[0], shape[1], -1)
    for o in range(shape[0]):
        for i in range(shape[1]):
            kept = table.positions[(o // table.align) % len(table.positions)][i % len(table.positions[0])]
            assert mask[o, i].nonzero().flatten().tolist() == sorted(kept)


@settings(deadline=None)
@given(case=tables())
def test_a_table_is_found_again_in_its_mask(case: tuple[ClassTable, tuple[int, ...], int]) -> None:
    table, shape, groups = case
    mask = table.mask(shape, groups)
    found = ClassTable.of_mask(mask, table.out_classes, table.in_classes, table.align)
    assert found is not None
    assert torch.equal(found.mask(shape, groups), mask)
    assert found.out_classes <= table.out_classes
    assert found.in_classes <= table.in_classes


def test_no_table_is_found_where_there_is_none() -> None:
    mask = Periodic(1, 9).mask((18, 18, 3, 3))
    assert ClassTable.of_mask(mask, 9, 9) is not None
    assert ClassTable.of_mask(mask, 8, 9) is None
    assert ClassTable.of_mask(mask, 9, 8) is None
    mask[17, 17, 0, 0] = ~mask[17, 17, 0, 0]
    assert ClassTable.of_mask(mask, 9, 9) is None


def test_order_within_a_pair_does_not_matter() -> None:
    assert ClassTable([[[8, 0, 4]]]) == ClassTable([[[0, 4, 8]]])
    assert ClassTable([[[8, 0, 4]]]).positions == (((0, 4, 8),),)


def test_names() -> None:
    assert str(ClassTable([[[0], [1]]])) == "ClassTable1x2"
    assert str(ClassTable([[[0], [1]]], align=16)) == "ClassTable1x2_A16"


@settings(deadline=None)
@given(st.data())
def test_bits_sizes_and_sums_by_counting(data: st.DataObject) -> None:
    out, channels, area = (data.draw(st.integers(1, 7)) for _ in range(3))
    rows, columns, align = (data.draw(st.integers(1, 4)) for _ in range(3))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    bits = torch.rand(rows, columns, area, generator=draw) < 0.5
    table = ClassTable.of_bits(bits, align)
    assert torch.equal(table.bits(area), bits)
    values = torch.randn(out, channels, area, 1, generator=draw)
    sizes, sums = torch.zeros(rows, columns, dtype=torch.int64), torch.zeros(rows, columns, area, dtype=torch.float64)
    for o in range(out):
        for i in range(channels):
            sizes[o // align % rows, i % columns] += 1
            sums[o // align % rows, i % columns] += values[o, i, :, 0].double()
    assert torch.equal(table.pair_sizes(values.shape), sizes)
    torch.testing.assert_close(table.pair_sums(values), sums)
    finer = table.repeated(data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)))
    assert torch.equal(finer.mask((out, channels, area, 1)), table.mask((out, channels, area, 1)))


def test_a_period_is_no_table() -> None:
    with pytest.raises(PrecutError) as caught:
        ClassTable(8)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "ClassTable takes the positions themselves; got 8. For a score to choose them, "
        "precut.prune(..., structure='class:8')"
    )


def test_finer_classes_are_the_least_common_multiple() -> None:
    table = ClassTable([[[0], [1], [2]], [[3], [4], [5]]])
    assert (table.repeated(4, 2).out_classes, table.repeated(4, 2).in_classes) == (4, 6)
    assert table.repeated(1, 3) == table
