"""What every registered kind of support must do."""

from __future__ import annotations

import copy
import json
import math
import pickle

import pytest
import torch

from precut.supports import Support, SupportMaker, from_spec, makers
from supports.examples import LAYERS, MAKERS, cases

pytestmark = pytest.mark.filterwarnings("ignore:the variants of:UserWarning")


def test_every_kind_has_examples_and_its_name() -> None:
    assert set(MAKERS) == set(makers)
    assert all(makers[kind].kind == kind for kind in makers)


@pytest.mark.parametrize(("maker", "shape", "groups"), cases())
def test_mask_indices_and_counts_agree(maker: SupportMaker, shape: tuple[int, ...], groups: int) -> None:
    support = maker.support(shape, groups)
    mask = support.mask()
    assert mask.dtype is torch.bool
    assert tuple(mask.shape) == support.shape == shape
    positions = [place for place, exists in enumerate(mask.flatten().tolist()) if exists]
    assert support.indices().dtype is torch.int64
    assert support.indices().tolist() == positions
    counts = [sum(filter_mask.flatten().tolist()) for filter_mask in mask]
    assert support.filter_counts.tolist() == counts
    assert support.nnz == sum(counts) == len(positions)
    assert support.numel == math.prod(shape)
    assert support.density == pytest.approx(sum(counts) / math.prod(shape))
    equally_full = len(set(counts)) == 1 and counts[0] > 0
    assert support.per_filter == (counts[0] if equally_full else None)
    assert support.weight_shape == ((shape[0], counts[0]) if equally_full else (sum(counts), 1))
    assert math.prod(support.weight_shape) == support.nnz
    assert (support.kernel_size, support.groups) == (shape[2:] or (1, 1), groups)


@pytest.mark.parametrize(("maker", "shape", "groups"), cases())
def test_specs_survive_json(maker: SupportMaker, shape: tuple[int, ...], groups: int) -> None:
    again = from_spec(json.loads(json.dumps(maker.to_spec())))
    assert again == maker
    assert hash(again) == hash(maker)
    assert str(again) == str(maker)
    support = maker.support(shape, groups)
    for other in (Support.from_spec(json.loads(json.dumps(support.to_spec()))), Support.from_key(support.key)):
        assert other == support
        assert hash(other) == hash(support)
        assert other.key == support.key
        assert torch.equal(other.mask(), support.mask())


@pytest.mark.parametrize(("maker", "shape", "groups"), cases())
def test_supports_cannot_be_written_to(maker: SupportMaker, shape: tuple[int, ...], groups: int) -> None:
    support = maker.support(shape, groups)
    mask, counts = support.mask().clone(), support.filter_counts.clone()
    support.mask().logical_not_()
    support.indices().zero_()
    support.filter_counts.zero_()
    assert torch.equal(support.mask(), mask)
    assert torch.equal(support.indices(), mask.flatten().nonzero().squeeze(1))
    assert torch.equal(support.filter_counts, counts)


@pytest.mark.parametrize(("maker", "shape", "groups"), cases())
def test_copies_are_equal(maker: SupportMaker, shape: tuple[int, ...], groups: int) -> None:
    support = maker.support(shape, groups)
    assert copy.deepcopy(support) is support
    assert copy.deepcopy(maker) == maker
    assert pickle.loads(pickle.dumps(support)) == support


@pytest.mark.parametrize(("maker", "shape", "groups"), cases())
def test_the_table_is_the_mask(maker: SupportMaker, shape: tuple[int, ...], groups: int) -> None:
    support = maker.support(shape, groups)
    if support.table is None:
        assert maker.kind in ("random_kernel", "unstructured")
        return
    expected = torch.zeros(shape, dtype=torch.bool)
    flat = expected.reshape(shape[0], shape[1], -1)
    for o in range(shape[0]):
        for i in range(shape[1]):
            row = support.table.positions[o // support.table.align % support.table.out_classes]
            for position in row[i % support.table.in_classes]:
                flat[o, i, position] = True
    assert torch.equal(support.mask(), expected)
    assert torch.equal(support.table.support(shape, groups).mask(), expected)


@pytest.mark.parametrize(("maker", "shape", "groups"), cases())
def test_supports_lie_on_the_cpu_under_any_default_device(
    maker: SupportMaker, shape: tuple[int, ...], groups: int
) -> None:
    with torch.device("meta"):
        support = maker.support(shape, groups)
        assert support.mask().device.type == support.indices().device.type == "cpu"
        assert support.nnz == int(support.mask().sum())


@pytest.mark.parametrize(("maker", "shape", "groups"), cases())
def test_equality_is_by_maker_shape_and_groups(maker: SupportMaker, shape: tuple[int, ...], groups: int) -> None:
    support = maker.support(shape, groups)
    assert support == Support(maker, list(shape), groups)
    if maker.kind not in ("unstructured", "nm"):
        assert support != maker.support((shape[0] * 2, *shape[1:]), groups)
    if groups == 1 and shape[0] % 2 == 0:
        assert support != Support(maker, shape, 2)
    assert support != "a support"
    assert maker != "a maker"


def test_all_examples_differ() -> None:
    supports = [Support(maker.values[0], maker.values[1], maker.values[2]) for maker in cases()]
    assert len({support.key for support in supports}) == len(set(supports)) > 8 * len(LAYERS)


def test_repr_tells_what_it_is() -> None:
    support = makers["periodic"].from_fields(kss=4, period=4).support((8, 4, 3, 3))
    assert repr(support) == "Support(PS4_P4, shape=(8, 4, 3, 3), groups=1, nnz=128)"
