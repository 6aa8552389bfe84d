"""Convolutions on every support against float64, on the instruction sets of this machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precut.runtime import Act, BlobBuilder, ClassSupport, MaskSupport, available, load, ops_table

from . import oracle

HERE = [row["isa"] for row in ops_table() if row["runs_here"] == "yes"] if available() else []
ISAS = ("reference", *sorted(set(HERE)))
# Sums of products in another order, and Winograd's transforms: relative to the largest output.
BOUND = 3e-5


def table_mask(support: ClassSupport, shape: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool).reshape(shape[0], shape[1], -1)
    rows = support.positions
    for o in range(shape[0]):
        for i in range(shape[1]):
            mask[o, i, list(rows[o // support.align % len(rows)][i % len(rows[0])])] = True
    return mask.reshape(shape)


def periodic(period: int, kept: int, full: bool = False, align: int = 1, seed: int = 0) -> ClassSupport:
    rng = np.random.default_rng(seed)
    variants = [sorted(rng.permutation(9)[:kept].tolist()) for _ in range(period)]
    if full:
        variants[0] = list(range(9))
    return ClassSupport([[variants[(a + b) % period] for b in range(period)] for a in range(period)], align)


def run_one(
    shape: tuple[int, ...],
    weight_shape: tuple[int, int, int, int],
    support: ClassSupport | str | None,
    isa: str,
    threads: int = 1,
    autotune: bool = False,
    **conv: object,
) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape).astype(np.float32)
    dense = rng.standard_normal(weight_shape).astype(np.float32)
    bias = rng.standard_normal(weight_shape[0]).astype(np.float32)
    mask = np.ones(weight_shape, bool)
    given_support: ClassSupport | MaskSupport | None = None
    if support == "mask":
        mask = rng.random(weight_shape) < 0.2
        given_support = MaskSupport(mask)
    elif isinstance(support, ClassSupport):
        mask = table_mask(support, weight_shape)
        given_support = support
    dense *= mask
    b = BlobBuilder()
    value = b.input("x", shape)
    b.output(b.conv2d(value, dense[mask], bias, shape=weight_shape, support=given_support, **conv))
    with load(b.bytes(), threads=threads, isa=isa, autotune=autotune) as model:
        got = model.run(x)
    want = oracle.conv2d(x, dense, bias, **conv)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= BOUND * max(1.0, np.abs(want).max())


SUPPORTS = {
    "dense": None,
    "mask": "mask",
    "P4": periodic(4, 4),
    "P8 full": periodic(8, 4, full=True),
    "P16": periodic(16, 1),
    "P6": periodic(6, 2),
    "P9": periodic(9, 1),
    "P8 align 16": periodic(8, 3, align=16),
    "empty pairs": ClassSupport([[[0, 4], []], [[], [8]]]),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("support", SUPPORTS.values(), ids=SUPPORTS.keys())
@pytest.mark.parametrize(("channels", "size"), [((64, 64), (8, 8)), ((40, 33), (7, 5)), ((128, 64), (16, 16))])
def test_supports(
    isa: str, support: ClassSupport | str | None, channels: tuple[int, int], size: tuple[int, int]
) -> None:
    run_one((1, channels[0], *size), (channels[1], channels[0], 3, 3), support, isa, padding=(1, 1, 1, 1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 2, 0, 1)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
def test_geometry(
    isa: str, stride: tuple[int, int], padding: tuple[int, int, int, int], dilation: tuple[int, int]
) -> None:
    for support in (None, SUPPORTS["P8 full"], "mask"):
        run_one((2, 24, 9, 11), (20, 24, 3, 3), support, isa, stride=stride, padding=padding, dilation=dilation)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("kernel", "padding"), [((1, 1), (0, 0, 0, 0)), ((5, 5), (2, 2, 2, 2)), ((2, 3), (1, 1, 0, 1))]
)
def test_kernel_sizes(isa: str, kernel: tuple[int, int], padding: tuple[int, int, int, int]) -> None:
    run_one((1, 3, 17, 19), (18, 3, *kernel), None, isa, padding=padding)
    run_one((1, 32, 6, 6), (48, 32, *kernel), "mask", isa, padding=padding)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("channels", "groups"), [((32, 32), 32), ((30, 30), 30), ((32, 64), 4), ((12, 12), 3), ((8, 16), 8)]
)
def test_groups(isa: str, channels: tuple[int, int], groups: int) -> None:
    shape = (channels[1], channels[0] // groups, 3, 3)
    run_one((2, channels[0], 9, 10), shape, None, isa, padding=(1, 1, 1, 1), groups=groups)
    run_one((2, channels[0], 9, 10), shape, "mask", isa, padding=(1, 1, 1, 1), groups=groups, stride=(2, 2))


@pytest.mark.parametrize("isa", ISAS)
def test_threads_and_tuning(isa: str) -> None:
    for support in (None, SUPPORTS["P8 full"], "mask"):
        run_one((3, 64, 12, 12), (64, 64, 3, 3), support, isa, threads=3, autotune=True, padding=(1, 1, 1, 1))


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 4),
    channels=st.tuples(st.integers(1, 100), st.integers(1, 100)),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    period=st.sampled_from([1, 2, 3, 4, 6, 8, 9, 12, 16]),
    kept=st.integers(0, 9),
    align=st.sampled_from([1, 1, 2, 8, 16]),
    stride=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_any_class_table(
    n: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    period: int,
    kept: int,
    align: int,
    stride: int,
    seed: int,
) -> None:
    support = periodic(period, kept, seed % 2 == 0, align, seed)
    for isa in ISAS[1:]:
        run_one(
            (n, channels[0], *size),
            (channels[1], channels[0], 3, 3),
            support,
            isa,
            stride=(stride, stride),
            padding=(1, 1, 1, 1),
        )


@pytest.mark.parametrize("isa", ISAS)
def test_residual_then_activation(isa: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 64, 8, 8)).astype(np.float32)
    weight = rng.standard_normal((64, 64, 3, 3)).astype(np.float32) / 24
    support = SUPPORTS["P16"]
    assert isinstance(support, ClassSupport)
    mask = table_mask(support, weight.shape)
    slopes = rng.random(64).astype(np.float32)
    for act in (Act("relu"), Act("silu"), Act("prelu", slopes=slopes), Act("clip", -0.5, 0.5)):
        b = BlobBuilder()
        value = b.input("x", x.shape)
        kept = weight[mask]
        y = b.conv2d(
            value, kept, shape=weight.shape, support=support, padding=(1, 1), residual=value, act=act, name="block"
        )
        b.output(y)
        with load(b.bytes(), threads=1, isa=isa, autotune=False) as model:
            got = model.run(x)
        want = oracle.conv2d(x, weight * mask, padding=(1, 1, 1, 1)) + x
        want = oracle.activation(act.kind, want, act.alpha, act.beta, act.slopes)
        assert np.abs(got - want).max() < 2e-5
