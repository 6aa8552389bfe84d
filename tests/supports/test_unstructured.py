"""Supports that are nothing but a mask: round trips, and specs that somebody tampered with."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precut.errors import PrecutError
from precut.supports import Unstructured, from_spec


@settings(deadline=None)
@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)),
        st.tuples(st.integers(1, 20), st.integers(1, 20)),
    ),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_round_trip(shape: tuple[int, ...], density: float, seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    maker = Unstructured(mask)
    again = from_spec(json.loads(json.dumps(maker.to_spec())))
    assert again == maker
    for one in (maker, again):
        support = one.support(shape)
        assert torch.equal(support.mask(), mask)
        assert support.nnz == int(mask.sum())
    assert isinstance(again, Unstructured)
    assert Unstructured.from_bits(again.bits, shape) == maker


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.bfloat16])
def test_any_number_but_zero_is_kept(dtype: torch.dtype) -> None:
    mask = torch.tensor([[0, 1, 0], [1, 1, 0]]).to(dtype)
    assert Unstructured(mask).support((2, 3)).indices().tolist() == [1, 3, 4]
    assert Unstructured(-mask.float()) == Unstructured(mask)
    assert Unstructured(mask.t().contiguous().t()) == Unstructured(mask)


def test_the_mask_is_copied() -> None:
    mask = torch.ones(4, 4, dtype=torch.bool)
    maker = Unstructured(mask)
    mask.zero_()
    assert maker.support((4, 4)).nnz == 16
    with pytest.raises(ValueError, match="read-only"):
        maker.bits[0] = 0


def test_supports_of_other_masks_and_shapes_differ() -> None:
    base = Unstructured(torch.ones(4, 4))
    assert base != Unstructured(torch.eye(4))
    assert base != Unstructured(torch.ones(2, 8))  # the same bits
    assert repr(base).startswith("Unstructured(shape=(4, 4), digest=")


def test_specs_are_small() -> None:
    """About the entropy of the mask, in base64: at density 1 % an eleventh of a bit a weight."""
    mask = torch.rand(256, 256, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.01
    assert len(json.dumps(Unstructured(mask).to_spec())) < 0.2 * mask.numel() / 8 * 4 / 3 * 2


GOOD = Unstructured(torch.eye(4)).to_spec()


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": "no base64!"}, "the bits of an unstructured support are damaged: "),
        ({"bits": "AAAA"}, "the bits of an unstructured support are damaged: Error -3 while decompressing data: "),
        ({"bits": "bits \N{GREEK SMALL LETTER ALPHA}"}, "the bits of an unstructured support are damaged: "),
        ({"bits": 7}, "the bits of an unstructured support are damaged: "),
        ({"bits": None}, "the bits of an unstructured support are damaged: "),
        ({"bits": GOOD["bits"][:8]}, "the bits of an unstructured support are damaged: "),
        (
            {"bits": packed(b"\0")},
            "the bits of an unstructured support are damaged: shape (4, 4) needs exactly 2 bytes of them",
        ),
        (
            {"bits": packed(b"\0" * 10**7)},  # a bomb: a few kilobytes that would become ten megabytes
            "the bits of an unstructured support are damaged: shape (4, 4) needs exactly 2 bytes of them",
        ),
        (
            {"bits": base64.b64encode(zlib.compress(b"\0\0") + b"more").decode()},
            "the bits of an unstructured support are damaged: shape (4, 4) needs exactly 2 bytes of them",
        ),
        (
            {"shape": [3, 3], "bits": packed(b"\0\x7f")},
            "the bits of a support for shape (3, 3) are set beyond its 9 weights",
        ),
        ({"shape": [4, 4.0]}, "a size in 'shape' must be a whole number of at least 1; got 4.0"),
        ({"shape": [4, -4]}, "a size in 'shape' must be a whole number of at least 1; got -4"),
        ({"shape": [4, "4"]}, "a size in 'shape' must be a whole number of at least 1; got '4'"),
        ({"shape": [4, True]}, "a size in 'shape' must be a whole number of at least 1; got True"),
        (
            {"shape": [2**20, 2**20]},
            "a sparse layer has at most 2**31 - 1 dense weights; (1048576, 1048576) are 1099511627776",
        ),
        ({"shape": "44"}, "an unstructured support has the fields 'shape' (a list) and 'bits'; got ['bits', 'shape']"),
        (
            {"more": 1},
            "an unstructured support has the fields 'shape' (a list) and 'bits'; got ['bits', 'more', 'shape']",
        ),
    ],
)
def test_hostile_specs(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PrecutError) as raised:
        from_spec({**GOOD, **change})
    if message.endswith(": "):  # zlib's and base64's own words follow
        assert str(raised.value).startswith(message)
    else:
        assert str(raised.value) == message


def test_a_bomb_is_not_unpacked() -> None:
    bomb = {**GOOD, "bits": packed(b"\0" * 10**7)}
    tracemalloc.start()
    try:
        with pytest.raises(PrecutError, match="needs exactly 2 bytes"):
            from_spec(bomb)
        assert tracemalloc.get_traced_memory()[1] < 10**6  # at most, of the bomb's ten million bytes
    finally:
        tracemalloc.stop()


def test_from_bits_checks_the_count() -> None:
    with pytest.raises(PrecutError) as raised:
        Unstructured.from_bits(np.zeros(3, dtype=np.uint8), (4, 4))
    assert str(raised.value) == "the bits of a support for shape (4, 4) must be 2 bytes; got uint8 (3,)"
    with pytest.raises(PrecutError) as raised:
        Unstructured.from_bits(np.zeros(2, dtype=np.int8), (4, 4))
    assert str(raised.value) == "the bits of a support for shape (4, 4) must be 2 bytes; got int8 (2,)"
