"""The parts by themselves: labels under reshapes, equal atoms, adapters, shared memory, sizes, nested structures."""

from __future__ import annotations

import copy
import math
import operator
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from precut.graph import take_channels_
from precut.graph._aliases import _overlap
from precut.graph._labels import TAG_BITS, Labels, Tags, UnionFind, atoms_of, collapse, reshape, tags_of
from precut.graph._sizes import Guard, SizeInt, SizeRef, listening, trace_sizes

QUICK = settings(max_examples=100, deadline=None)

# ---- labels ----------------------------------------------------------------------------------------------------------


def label(shape: tuple[int, ...], dims: tuple[int, ...]) -> Labels:
    sizes = [size if d in dims else 1 for d, size in enumerate(shape)]
    codes = (np.arange(math.prod(sizes), dtype=np.int64) << TAG_BITS).reshape(sizes)
    return Labels(shape, dims, codes)


@st.composite
def reshapes(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """A shape, dimensions of it, and another shape of as many elements."""
    primes = draw(st.lists(st.sampled_from([2, 2, 3]), min_size=1, max_size=6))

    def grouped(parts: list[int]) -> tuple[int, ...]:
        made, run = [], 1
        for part in parts:
            run *= part
            if draw(st.booleans()):
                made.append(run)
                run = 1
        return (*made, run) if run > 1 or not made else tuple(made)

    before, after = grouped(primes), grouped(primes)
    dims = draw(st.lists(st.sampled_from(range(len(before))), min_size=1, unique=True))
    return before, tuple(sorted(dims)), after


@QUICK
@given(reshapes())
def test_reshaped_labels_are_what_a_reshaped_tensor_of_labels_has(
    case: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
) -> None:
    before, dims, after = case
    labels = label(before, dims)
    expected = np.broadcast_to(atoms_of(labels.full), before).reshape(after)
    made = reshape(labels, after, Tags())
    if made.followed:
        assert np.array_equal(np.broadcast_to(atoms_of(made.full), after), expected)
        assert len(np.unique(made.full)) == made.full.size
        assert all(made.full.shape[d] == (after[d] if d in made.dims else 1) for d in range(len(after)))
    else:
        assert all(before[d] == 1 for d in dims)


def test_flattening_and_back_is_seen_through() -> None:
    tags = Tags()
    labels = label((2, 3, 4, 5), (1,))
    flat = reshape(labels, (2, 60), tags)
    assert flat.dims == (1,)
    assert atoms_of(flat.full[0]).tolist() == [k // 20 for k in range(60)]
    back = reshape(flat, (2, 3, 4, 5), tags)
    assert back.dims == (1, 2, 3)
    codes = collapse(back, 1)
    assert codes is not None
    assert atoms_of(codes).tolist() == [0, 1, 2]
    assert collapse(reshape(flat, (2, 4, 3, 5), tags), 1) is None
    assert collapse(label((2, 3), (0, 1)), 1) is None


def test_tags_tell_copies_apart() -> None:
    tags = Tags()
    codes = np.array([5, 7, 5, 5], np.int64) << TAG_BITS
    once = tags.distinct(codes, "copy")
    assert len(set(once.tolist())) == 4
    assert atoms_of(once).tolist() == [5, 7, 5, 5]
    assert once[1] == codes[1]
    again = tags.distinct(np.concatenate([once, codes[:1]]), "copy", np.array([0, 0, 0, 0, 1]))
    assert len(set(again.tolist())) == 5
    assert tags.distinct(codes[:2], "copy") is not once
    assert tags.extend(codes[:1], "x", np.array([3])) == tags.extend(codes[2:3], "x", np.array([3]))
    assert tags_of(tags.extend(codes[:1], "x", np.array([3]))) != tags_of(tags.extend(codes[:1], "y", np.array([3])))


@QUICK
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_equal_atoms_are_the_connected_components(pairs: list[tuple[int, int]]) -> None:
    same = UnionFind()
    same.grow(20)
    expected = list(range(20))
    for a, b in pairs:
        low, high = sorted((expected[a], expected[b]))
        expected = [low if item == high else item for item in expected]
    for chunk in (pairs[:7], pairs[7:]):
        array = np.array(chunk, np.int64).reshape(-1, 2)
        same.union(array[:, 0], array[:, 1])
    assert same.find(np.arange(20)).tolist() == expected


# ---- adapters --------------------------------------------------------------------------------------------------------


CONVS = [
    (kind, dims, groups)
    for dims in (1, 2, 3)
    for kind in (getattr(nn, f"Conv{dims}d"), getattr(nn, f"ConvTranspose{dims}d"))
    for groups in (1, 2)
]


@pytest.mark.parametrize(("kind", "dims", "groups"), CONVS)
def test_convolutions_by_both_axes(kind: Any, dims: int, groups: int) -> None:
    conv = kind(6, 4, 3, padding=1, groups=groups).double()
    x = torch.randn(2, 6, *(4,) * dims, dtype=torch.float64)
    within = torch.tensor([2, 0, 1, 5, 3, 4]) if groups == 2 else torch.tensor([5, 0, 3, 1, 2, 4])
    moved = copy.deepcopy(conv)
    take_channels_(moved, "in", within)
    assert torch.allclose(moved(x[:, within]), conv(x))
    rows = torch.tensor([1, 0, 3, 2])
    moved = copy.deepcopy(conv)
    take_channels_(moved, "out", rows)
    assert torch.allclose(moved(x), conv(x)[:, rows])
    fewer = copy.deepcopy(conv)
    keep = torch.tensor([0, 2, 3, 5])
    take_channels_(fewer, "in", keep)
    zeroed = x.clone()
    zeroed[:, [1, 4]] = 0
    assert torch.allclose(fewer(x[:, keep]), conv(zeroed))
    take_channels_(fewer, "out", torch.tensor([1, 2]))
    assert torch.allclose(fewer(x[:, keep]), conv(zeroed)[:, [1, 2]])
    assert (fewer.in_channels, fewer.out_channels, fewer.groups) == (4, 2, groups)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_depthwise_convolutions_follow_one_axis(kind: Any) -> None:
    conv = kind(6, 6, 3, padding=1, groups=6)
    x = torch.randn(2, 6, 4, 4)
    index = torch.tensor([4, 1, 2])
    take_channels_(moved := copy.deepcopy(conv), "out", index)
    assert torch.allclose(moved(x[:, index]), conv(x)[:, index], atol=1e-6)
    assert (moved.in_channels, moved.out_channels, moved.groups) == (3, 3, 3)


@pytest.mark.parametrize(
    "module",
    [nn.BatchNorm2d(6), nn.InstanceNorm2d(6, affine=True, track_running_stats=True), nn.GroupNorm(6, 6), nn.PReLU(6)],
)
def test_norms_by_channel(module: nn.Module) -> None:
    for tensor in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
        nn.init.uniform_(tensor, 0.5, 2)
    module.eval()
    x, index = torch.randn(2, 6, 4, 4), torch.tensor([4, 1, 2])
    take_channels_(moved := copy.deepcopy(module), "param", index)
    assert torch.allclose(moved(x[:, index]), module(x)[:, index], atol=1e-6)
    assert {tensor.numel() for tensor in moved.parameters()} == {3}


def test_linear_and_layer_norm() -> None:
    linear, x = nn.Linear(5, 4), torch.randn(3, 5)
    take_channels_(moved := copy.deepcopy(linear), "in", torch.tensor([3, 0]))
    take_channels_(moved, "out", torch.tensor([2, 1, 0]))
    assert torch.allclose(moved(x[:, [3, 0]]), (x[:, [3, 0]] @ linear.weight[:, [3, 0]].T + linear.bias)[:, [2, 1, 0]])
    assert (moved.in_features, moved.out_features) == (2, 3)
    norm = nn.LayerNorm(5)
    nn.init.normal_(norm.weight)
    order = torch.tensor([4, 0, 3, 1, 2])
    take_channels_(moved_norm := copy.deepcopy(norm), "param", order)
    assert torch.allclose(moved_norm(x[:, order]), norm(x)[:, order])


# ---- memory, sizes, structures ---------------------------------------------------------------------------------------


views = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 8))


@QUICK
@given(views, views)
def test_views_overlap_where_they_share_an_element(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    storage = torch.zeros(40)

    def view(rows: int, columns: int, down: int, right: int, start: int) -> tuple[Tensor, set[int]]:
        places = {start + i * down + j * right for i in range(rows) for j in range(columns)}
        return storage.as_strided((rows, columns), (down, right), start), places

    (a, places), (b, others) = view(*first), view(*second)
    assert _overlap(a, b) == bool(places & others)


def test_sizes_resolve_and_tell() -> None:
    n, c, h = trace_sizes(torch.Size((2, 6, 8)), 7)
    told: list[Guard] = []
    with listening(lambda function, operands, outcome: told.append(Guard(function, operands, outcome, "here"))):
        made: Any = 3 + (n * c - 1) // 2 % h
        assert isinstance(made, SizeInt)
    assert not told
    shapes = {7: (5, 4, 100)}
    assert made.ref.resolve(shapes) == 3 + (5 * 4 - 1) // 2 % 100
    with listening(lambda function, operands, outcome: told.append(Guard(function, operands, outcome, "here"))):
        assert c > 3
        assert operator.truediv(h, 2) == 4.0
        assert math.sqrt(c) > 2
        assert round(c) == 6
    assert [guard.holds({7: (1, 6, 8)}) for guard in told] == [True] * 4
    assert told[0].holds({7: (1, 4, 8)})
    assert not told[0].holds({7: (1, 3, 8)})
    assert not told[1].holds({7: (1, 6, 9)})
    assert type(copy.deepcopy(n)) is int
    assert type(pickle.loads(pickle.dumps(n))) is int
    assert hash(n) == 2
    assert repr(n.ref) == "SizeRef(2)"
    assert isinstance(-n, SizeInt)
    assert n + 0.5 == 2.5


def test_size_refs_are_values() -> None:
    assert SizeRef(None, (3, 1), 4) == SizeRef(None, (3, 1), 4)
    assert SizeRef(None, (3, 1), 4).resolve({3: (9, 8)}) == 8
