"""take_channels_: permuting, restricting and dropping channels, against indexing the dense weight by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from layers.twins import check_same, dense_by_mask, twin_of
from precut.layers import SparseConv2d, SparseLinear
from precut.supports import ClassTable, Unstructured, parse
from supports.examples import makers_for, random_mask

pytestmark = pytest.mark.filterwarnings("ignore:the variants of:UserWarning")


def conv(support: Any, channels: int, out: int, **options: Any) -> SparseConv2d:
    torch.manual_seed(0)
    return SparseConv2d(channels, out, 3, padding=1, support=support, **options)


def check_taken(layer: Any, axis: str, index: torch.Tensor) -> None:
    """The dense weight, the mask and the bias are those of before, indexed; and the layer still computes."""
    dim = 0 if axis == "out" else 1
    dense, mask = dense_by_mask(layer)[:].index_select(dim, index), layer.support.mask().index_select(dim, index)
    bias = layer.bias.detach()[index] if axis == "out" and layer.bias is not None else layer.bias
    layer.take_channels_(axis, index)
    assert torch.equal(layer.dense_weight(), dense)
    assert torch.equal(layer.support.mask(), mask)
    assert layer.dense_shape == tuple(dense.shape)
    assert layer.weight.shape == layer.support.weight_shape
    assert layer.weight.is_leaf
    assert isinstance(layer.weight, nn.Parameter)
    if bias is None:
        assert layer.bias is None
    else:
        assert torch.equal(layer.bias, bias)
        assert isinstance(layer.bias, nn.Parameter)
    if isinstance(layer, SparseConv2d):
        assert layer.out_channels == layer.dense_shape[0]
        assert layer.in_channels == layer.dense_shape[1] * layer.groups
        check_same(layer, torch.randn(1, layer.in_channels, 5, 5), rtol=1e-4, atol=1e-5)
    else:
        assert (layer.out_features, layer.in_features) == layer.dense_shape
        check_same(layer, torch.randn(2, layer.in_features), rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_any_channels_of_any_support(data: st.DataObject) -> None:
    out, channels = data.draw(st.integers(1, 10)), data.draw(st.integers(1, 10))
    maker = data.draw(st.sampled_from(list(makers_for((out, channels, 3, 3)))))
    layer = conv(maker, channels, out, bias=data.draw(st.booleans()))
    for axis in data.draw(st.lists(st.sampled_from(["in", "out"]), min_size=1, max_size=3)):
        size = layer.out_channels if axis == "out" else layer.in_channels
        chosen = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=12))
        check_taken(layer, axis, torch.tensor(chosen))


@settings(deadline=None)
@given(data=st.data())
def test_linear_layers(data: st.DataObject) -> None:
    maker = data.draw(st.sampled_from(list(makers_for((6, 12)))))
    layer = SparseLinear(12, 6, support=maker)
    for axis, size in (("in", 12), ("out", 6)):
        chosen = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=14))
        check_taken(layer, axis, torch.tensor(chosen))


@pytest.mark.parametrize("support", ["PSD4_P8", "pSC2", "PS2_P6", Unstructured(random_mask((24, 16, 3, 3)))], ids=str)
def test_permuting_two_layers_together_changes_nothing(support: Any) -> None:
    torch.manual_seed(0)
    first, second = SparseConv2d(3, 24, 3, support="pSC4"), SparseConv2d(24, 16, 3, support="PSD1_P8")
    last = SparseConv2d(16, 24, 3, support=support)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
    x = torch.randn(2, 3, 9, 9)
    before = model(x)
    for producer, consumer in ((first, second), (second, last)):
        order = torch.randperm(producer.out_channels)
        producer.take_channels_("out", order)
        consumer.take_channels_("in", order)
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("support", "axis", "index", "kept"),
    [
        # A prefix, or a cut of whole periods from the start, is the same rule on fewer channels.
        ("PSD4_P8", "out", range(10), "PSD4_P8"),
        ("PSD4_P8", "in", range(13), "PSD4_P8"),
        ("PSD4_P8", "in", [*range(8), *range(16, 24)], "PSD4_P8"),
        ("center", "in", [5, 3, 9], "center"),
        ("dense", "out", [5, 3, 9], "dense"),
        ("2:4", "in", range(8, 16), "2:4"),
        # Shifts, and permutations that repeat with the period, are another table of the same classes.
        ("PSD4_P8", "out", [*range(3, 24), 0, 1, 2], "ClassTable8x8"),
        ("PSD4_P8", "in", range(1, 24), "ClassTable8x8"),
        ("PSD1_P8", "in", [*range(7, -1, -1), *range(15, 7, -1), *range(23, 15, -1)], "ClassTable8x8"),
        ("PSD4_P8_A2", "out", range(4, 24), "ClassTable8x8_A2"),
        ("2:4", "in", range(6), "ClassTable4x4"),
        # Anything else is spelt out.
        ("PSD4_P8", "out", [0, 1, 3, 2, *range(4, 24)], "unstructured"),
        ("pSC2", "in", [3, 1, 2], "unstructured"),
        # But a random support on fewer outputs is a prefix of the same draw.
        ("pSC2", "out", range(7), "pSC2"),
    ],
)
def test_the_rule_stays_where_it_can(support: str, axis: str, index: Any, kept: str) -> None:
    layer = conv(support, 24, 24)
    check_taken(layer, axis, torch.tensor(list(index)))
    assert str(layer.support.maker) == kept
    assert (layer.support_index is None) == (kept != "unstructured")


def test_depthwise_takes_any_channels_with_their_groups() -> None:
    layer = conv("PS1_P9", 12, 12, groups=12)
    twin = twin_of(layer)
    index = torch.tensor([7, 3, 4, 11, 0])
    x = torch.randn(2, 12, 5, 5)
    expected = twin(x)[:, index]
    layer.take_channels_("out", index)
    assert (layer.in_channels, layer.out_channels, layer.groups) == (5, 5, 5)
    torch.testing.assert_close(layer(x[:, index]), expected)


def test_depthwise_with_a_multiplier_takes_whole_groups_or_some_of_every_group() -> None:
    layer = conv("pSC4", 4, 8, groups=4)
    twin = twin_of(layer)
    x = torch.randn(2, 4, 5, 5)
    expected = twin(x)
    layer.take_channels_("out", torch.tensor([4, 5, 1, 0, 7, 6]))  # groups 2, 0 and 3, of two outputs each
    assert (layer.in_channels, layer.out_channels, layer.groups) == (3, 6, 3)
    torch.testing.assert_close(layer(x[:, [2, 0, 3]]), expected[:, [4, 5, 1, 0, 7, 6]])
    layer.take_channels_("out", torch.tensor([1, 2, 5]))  # one of each
    assert (layer.in_channels, layer.out_channels, layer.groups) == (3, 3, 3)
    torch.testing.assert_close(layer(x[:, [2, 0, 3]]), expected[:, [5, 1, 6]])


@pytest.mark.parametrize("support", ["PSD4_P8", "pSC2"])
def test_grouped_outputs(support: str) -> None:
    x = torch.randn(2, 12, 5, 5)
    by_group = x.reshape(2, 3, 4, 5, 5)
    cases: list[tuple[list[int], list[int], int]] = [
        # (outputs, the groups whose inputs they then read, groups afterwards) of 3 groups of 4 outputs
        ([0, 2, 5, 7, 11, 8], [0, 1, 2], 3),
        ([8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7], [2, 0, 1], 3),
        ([9, 0, 5], [2, 0, 1], 3),
        ([7, 6, 5, 4], [1], 1),
        ([8, 9, 10, 11, 3, 2, 1, 0], [2, 0], 2),
    ]
    for outputs, sources, groups in cases:
        layer = conv(support, 12, 12, groups=3)
        expected = twin_of(layer)(x)[:, outputs]
        layer.take_channels_("out", torch.tensor(outputs))
        assert (layer.groups, layer.in_channels, layer.out_channels) == (groups, 4 * groups, len(outputs))
        taken = by_group[:, sources].reshape(2, 4 * groups, 5, 5)
        torch.testing.assert_close(layer(taken), expected)


def test_grouped_inputs_are_counted_within_every_group() -> None:
    layer = conv("PSD4_P8", 12, 6, groups=3)
    twin = twin_of(layer)
    x = torch.randn(2, 12, 5, 5)
    dropped = [g * 4 + i for g in range(3) for i in (0, 2)]
    x[:, dropped] = 0
    kept = x[:, [g * 4 + i for g in range(3) for i in (3, 1)]]
    layer.take_channels_("in", torch.tensor([3, 1]))
    assert (layer.in_channels, layer.groups, layer.dense_shape) == (6, 3, (6, 2, 3, 3))
    torch.testing.assert_close(layer(kept), twin(x))


@pytest.mark.parametrize("index", [torch.tensor([3, 0], dtype=torch.int32), [3, 0], torch.tensor([3, 0]).byte()])
def test_indices_of_any_whole_kind(index: Any) -> None:
    layer = conv("PS4_P4", 8, 8)
    dense = layer.dense_weight()[[3, 0]]
    layer.take_channels_("out", index)
    assert torch.equal(layer.dense_weight(), dense)


def test_a_table_with_empty_pairs_survives() -> None:
    layer = conv(ClassTable([[[], [4]], [[0, 8], []]]), 8, 8)
    check_taken(layer, "in", torch.arange(2, 8))
    assert layer.support.table == parse(layer.support.maker)
    check_taken(layer, "in", torch.tensor([0, 2]))  # filters without any weight
    assert layer.support.per_filter is None


def test_on_the_meta_device() -> None:
    layer = conv("PSD4_P8", 8, 8, device="meta")
    layer.take_channels_("out", torch.arange(4))
    assert layer.weight.is_meta
    assert layer.dense_shape == (4, 8, 3, 3)
