"""Bytes on disk against an independent construction of each form, and against a real file."""

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import precut
from golden import check_golden
from precut.errors import PrecutError
from precut.layers import SparseConv2d, SparseLinear
from precut.measure import storage
from precut.supports import Unstructured

GOLDEN = Path(__file__).parent / "golden"


def smallest_unsigned(largest: int) -> int:
    return next(np.dtype(f"u{size}").itemsize for size in (1, 2, 4, 8) if largest <= np.iinfo(f"u{size}").max)


def csr_bytes(mask: torch.Tensor) -> int:
    """The (filters, rest) matrix row by row, in the narrowest index types that fit."""
    rows = mask.flatten(1).numpy()
    columns = np.concatenate([np.flatnonzero(row) for row in rows])
    pointers = np.cumsum([0, *rows.sum(1)])
    return len(columns) * smallest_unsigned(rows.shape[1] - 1) + len(pointers) * smallest_unsigned(int(pointers[-1]))


def code_bytes(mask: torch.Tensor) -> int:
    """By enumeration: the kernel's number of weights, then its support among those of that number."""
    kernels = mask.reshape(-1, mask[0, 0].numel()).sum(1).tolist()
    flag = math.ceil(math.log2(len(set(kernels))))
    area = mask[0, 0].numel()
    return math.ceil(sum(flag + math.ceil(math.log2(math.comb(area, n))) for n in kernels) / 8)


@given(st.integers(1, 6), st.integers(1, 40), st.sampled_from([1, 2, 3]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_forms_of_any_mask(filters, channels, kernel, seed):
    mask = torch.rand(filters, channels, kernel, kernel, generator=torch.Generator().manual_seed(seed)) < 0.4
    mask[0, 0, 0, 0] = True
    row = storage(SparseConv2d(channels, filters, kernel, bias=False, support=Unstructured(mask))).rows[0]
    assert row.csr == csr_bytes(mask)
    assert row.codes == code_bytes(mask)
    assert row.bitmask == len(np.packbits(mask.numpy()))
    assert row.periodic is None
    assert (row.values, row.values_dense) == (4 * int(mask.sum()), 4 * mask.numel())


@pytest.mark.parametrize(("support", "bits"), [("pSC4", 7), ("pSC2", 6), ("pSC1", 4)])
def test_codes_of_random_kernels_are_those_of_the_papers(support, bits):
    row = storage(SparseConv2d(64, 32, 3, support=support)).rows[0]
    assert row.codes == bits * 64 * 32 // 8
    assert row.periodic is None


@pytest.mark.parametrize(
    ("support", "masks"), [("PS4_P4", 4), ("PSD4_P8", 8), ("PS1_P9", 9), ("2:4", 16), ("center", 1), ("center_P4", 16)]
)
def test_a_pattern_is_written_once_for_the_network(support, masks):
    model = precut.sparsify(precut.create_model("resnet20"), support)
    rows = [row for row in storage(model).rows if row.support != "dense"]
    assert [row.periodic for row in rows] == [math.ceil(masks * 9 / 8)] + [0] * (len(rows) - 1)


def test_two_patterns_are_written_twice():
    layers = [SparseConv2d(8, 8, 3, support=name) for name in ("PS4_P4", "PSD4_P8", "PS4_P4")]
    assert [row.periodic for row in storage(nn.Sequential(*layers)).rows] == [5, 9, 0]


def test_dense_layers_need_no_index():
    found = storage(precut.create_model("resnet8"))
    values = sum(v.numel() * v.element_size() for v in precut.create_model("resnet8").state_dict().values())
    assert [found.total(form) for form in ("dense", "csr", "codes", "bitmask", "periodic", "spec")] == [values] * 6


@pytest.mark.parametrize("support", ["PS4_P4", "PSD1_P8", "pSC2", "2:4", "center"])
def test_spec_is_what_a_file_holds(support, tmp_path):
    """The part of a real file's header that describes the supports, byte for byte, and its values."""
    model = precut.sparsify(precut.create_model("resnet20"), support)
    found = storage(model)
    raw = precut.save(model, tmp_path / "m.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    text = json.loads(raw[8 : 8 + length])["__metadata__"]["precut"].partition(" ")[2]
    without = json.dumps({**json.loads(text), "supports": {}}, sort_keys=True)
    inside = len(json.dumps(text)) - len(json.dumps(without))
    assert inside == sum(row.spec for row in found.rows) - len(", ")  # no comma after the last
    assert len(raw) - 8 - length == found.other + sum(row.values for row in found.rows)
    assert found.total("spec") < len(raw)


def test_masks_of_pruning_cost_bits_and_patterns_do_not():
    mask = torch.rand(64, 64, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    pruned = storage(SparseConv2d(64, 64, 3, support=Unstructured(mask))).rows[0]
    regular = storage(SparseConv2d(64, 64, 3, support="PSD4_P8")).rows[0]
    assert regular.spec < 200 < pruned.bitmask < pruned.spec


def test_linear_layers_and_shared_weights():
    layer = SparseLinear(8, 4, support="2:4")
    row = storage(layer).rows[0]
    assert (row.weights, row.values, row.values_dense, row.bitmask) == (16, 64, 128, 4)
    assert row.csr == 16 * 1 + 5 * 1
    shared = nn.Linear(4, 4)
    assert len(storage(nn.Sequential(shared, nn.ReLU(), shared)).rows) == 1
    assert storage(nn.Sequential(shared, shared)).total("dense") == 80


def test_total_is_none_where_a_form_does_not_apply():
    found = storage(SparseConv2d(4, 4, 3, support="pSC4"))
    assert found.total("periodic") is None
    assert found.total("spec") == found.other + found.rows[0].values + found.rows[0].spec


def test_table_and_data():
    model = precut.sparsify(nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 3)), "PSD4_P8")
    found = storage(model)
    check_golden(str(found), GOLDEN / "storage.txt")
    data = json.loads(found.to_json())
    assert data["totals"]["spec"] == found.total("spec")
    assert [row["name"] for row in data["rows"]] == ["0", "1", "2"]


def test_wrong_use():
    with pytest.raises(PrecutError) as caught:
        storage("resnet18")
    assert str(caught.value) == "storage takes an nn.Module; got str 'resnet18'"


def test_scattered_weights_and_layers_without_any_have_rows():
    net = nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.Conv2d(4, 4, 3))
    dense = storage(net).total("dense")
    for density in (0.3, 1e-9):
        pruned, _ = precut.prune(net, "magnitude", density, torch.zeros(1, 3, 8, 8))
        found = storage(pruned)
        assert [row.weights_dense for row in found.rows] == [216, 288, 144]
        assert found.total("dense") == dense
        assert found.rows[0].bitmask == 27
    meta = storage(precut.create_model("resnet20").to("meta"))
    assert meta.total("dense") == storage(precut.create_model("resnet20")).total("dense")
    assert len(meta.rows) == 20
