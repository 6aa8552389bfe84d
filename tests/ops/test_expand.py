"""Between compact and dense weights: values, gradients of any order, tracing, and the cache of positions."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from precut.errors import PrecutError
from precut.ops import _expand, compact, expand
from precut.supports import Support, SupportMaker, Unstructured, parse
from supports.examples import cases, random_mask

pytestmark = pytest.mark.filterwarnings("ignore:the variants of:UserWarning")


def arguments(support: Support) -> tuple[torch.Tensor | None, str]:
    """(index, key) as layers pass them."""
    if isinstance(support.maker, Unstructured):
        return support.indices().int(), ""
    return None, support.key


def dense_by_loops(support: Support, weight: torch.Tensor) -> torch.Tensor:
    """In C order of the dense weight, each existing place takes the next compact value."""
    values = iter(weight.flatten().tolist())
    dense = [next(values) if exists else 0.0 for exists in support.mask().flatten().tolist()]
    assert next(values, None) is None
    return torch.tensor(dense, dtype=weight.dtype).reshape(support.shape)


@pytest.mark.parametrize(("maker", "shape", "groups"), cases())
def test_expand_fills_the_support_in_c_order(maker: SupportMaker, shape: tuple[int, ...], groups: int) -> None:
    support = maker.support(shape, groups)
    weight = torch.arange(1.0, support.nnz + 1).reshape(support.weight_shape)
    dense = expand(weight, *arguments(support), list(shape))
    assert torch.equal(dense, dense_by_loops(support, weight))
    assert dense.is_contiguous()
    back = compact(dense + 5 * ~support.mask(), *arguments(support), list(shape), list(support.weight_shape))
    assert torch.equal(back, weight)


@pytest.mark.parametrize(("maker", "shape", "groups"), cases())
def test_each_is_the_others_gradient(maker: SupportMaker, shape: tuple[int, ...], groups: int) -> None:
    support = maker.support(shape, groups)
    weight_shape = list(support.weight_shape)
    weight = torch.randn(weight_shape, dtype=torch.float64, requires_grad=True)
    dense = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    # <expand(w), d> = <w, compact(d)> for all w and d, which is what makes them each other's transpose.
    left = (expand(weight, *arguments(support), list(shape)) * dense).sum()
    right = (weight * compact(dense, *arguments(support), list(shape), weight_shape)).sum()
    torch.testing.assert_close(left, right)
    for value in (left, right):
        for_weight, for_dense = torch.autograd.grad(value, (weight, dense), retain_graph=True)
        assert torch.equal(for_weight.flatten(), dense.detach().flatten()[support.indices()])
        assert torch.equal(for_dense, dense_by_loops(support, weight.detach()))


@pytest.mark.parametrize("maker", [parse("PSD4_P8"), Unstructured(random_mask((4, 3, 3, 3)))], ids=str)
def test_derivatives_of_any_order(maker: SupportMaker) -> None:
    support = maker.support((4, 3, 3, 3))
    weight = torch.randn(support.weight_shape, dtype=torch.float64, requires_grad=True)

    def cubic(value: torch.Tensor) -> torch.Tensor:
        return expand(value, *arguments(support), list(support.shape)).pow(3).sum()

    (first,) = torch.autograd.grad(cubic(weight), weight, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), weight, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), weight)
    torch.testing.assert_close(first, 3 * weight**2)
    torch.testing.assert_close(second, 6 * weight)
    torch.testing.assert_close(third, torch.full_like(weight, 6))
    assert torch.autograd.gradcheck(cubic, weight)
    assert torch.autograd.gradgradcheck(cubic, weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    support = parse("PS4_P4").support((4, 4, 3, 3))
    weight = torch.randn(support.weight_shape, dtype=dtype)
    dense = expand(weight, None, support.key, [4, 4, 3, 3])
    assert dense.dtype is dtype
    assert torch.equal(compact(dense, None, support.key, [4, 4, 3, 3], list(weight.shape)), weight)


def test_strides_of_the_inputs_do_not_matter() -> None:
    support = parse("PSD1_P8").support((8, 8, 3, 3))
    weight = torch.randn(tuple(reversed(support.weight_shape))).t()
    dense = expand(weight, None, support.key, [8, 8, 3, 3])
    assert torch.equal(dense, dense_by_loops(support, weight))
    last = dense.to(memory_format=torch.channels_last)
    assert torch.equal(compact(last, None, support.key, [8, 8, 3, 3], list(weight.shape)), weight)


@pytest.mark.parametrize("maker", [parse("PSD4_P8"), Unstructured(random_mask((8, 4, 3, 3)))], ids=str)
def test_operators_pass_torchs_own_checks(maker: SupportMaker) -> None:
    support = maker.support((8, 4, 3, 3))
    index, key = arguments(support)
    weight = torch.randn(support.weight_shape, requires_grad=True)
    dense = torch.randn(support.shape, requires_grad=True)
    shape, weight_shape = list(support.shape), list(support.weight_shape)
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (torch.ops.precut.expand.default, (weight, index, key, shape)),
        (torch.ops.precut.expand.default, (weight.detach(), index, key, shape)),
        (torch.ops.precut.compact.default, (dense, index, key, shape, weight_shape)),
        (torch.ops.precut.compact.default, (dense.detach(), index, key, shape, weight_shape)),
    ]
    for operator, arguments_ in calls:
        assert set(torch.library.opcheck(operator, arguments_).values()) == {"SUCCESS"}


def test_values_are_not_aliased() -> None:
    support = parse("dense").support((2, 2, 3, 3))
    weight = torch.randn(2, 18)
    dense = expand(weight, None, support.key, [2, 2, 3, 3])
    dense.zero_()
    assert weight.abs().min() > 0
    again = compact(dense, None, support.key, [2, 2, 3, 3], [2, 18])
    again.fill_(1)
    assert not dense.any()


def test_positions_made_under_inference_mode_serve_training() -> None:
    support = parse("PS1_P7").support((3, 5, 3, 3))
    weight = torch.randn(support.weight_shape, requires_grad=True)
    with torch.inference_mode():
        expand(weight, None, support.key, [3, 5, 3, 3])
    (gradient,) = torch.autograd.grad(expand(weight, None, support.key, [3, 5, 3, 3]).square().sum(), weight)
    torch.testing.assert_close(gradient, 2 * weight)


def test_positions_are_cached_by_key_and_device_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_expand, "_cache", type(_expand._cache)())
    monkeypatch.setattr(_expand, "_CACHED", 2)
    cpu, meta = torch.device("cpu"), torch.device("meta")
    keys = [parse(name).support((4, 4, 3, 3)).key for name in ("PS4_P4", "PS2_P6", "PS1_P9")]
    first = _expand.positions(keys[0], None, cpu)
    assert _expand.positions(keys[0], None, cpu) is first
    assert _expand.positions(keys[0], None, meta).device == meta
    assert _expand.positions(keys[0], None, cpu) is first  # and so the newest
    _expand.positions(keys[1], None, cpu)
    assert _expand.positions(keys[0], None, cpu) is first
    _expand.positions(keys[2], None, cpu)
    assert list(_expand._cache) == [(keys[0], cpu), (keys[2], cpu)]
    assert torch.equal(_expand.positions(keys[1], None, cpu), Support.from_key(keys[1]).indices())


def test_many_threads_may_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_expand, "_cache", type(_expand._cache)())
    monkeypatch.setattr(_expand, "_CACHED", 3)  # fewer than there are keys: entries come and go all the time
    supports = [parse(f"PS1_P{period}").support((6, 6, 3, 3)) for period in range(3, 9)]
    expected = {support.key: support.indices() for support in supports}
    start = threading.Barrier(8)
    wrong: list[object] = []

    def work(number: int) -> None:
        start.wait()
        try:
            for step in range(60):
                key = supports[(number + step) % len(supports)].key
                if not torch.equal(_expand.positions(key, None, torch.device("cpu")), expected[key]):
                    wrong.append(key)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(_expand._cache) <= 3


def test_a_key_that_is_none_is_an_error() -> None:
    with pytest.raises(PrecutError, match="a support's spec has the fields"):
        expand(torch.zeros(1, 1), None, "{}", [1, 1])
