"""The native convolution: forward and both gradients against float64, whatever the layout, threads and instruction set;
the same bits each time; and calls that it must leave to the reference."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from precut import layers, ops
from precut.ops import NATIVE_CONV2D, _native, operators
from precut.runtime import available
from precut.supports import ClassTable, Support, Unstructured, parse

pytestmark = pytest.mark.skipif(not available(), reason="the native library was not built")


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    kernel = [draw(st.sampled_from([1, 2, 3, 5])) for _ in range(2)]
    dilation = [draw(st.sampled_from([1, 1, 2])) for _ in range(2)]
    padding = [draw(st.integers(0, 3)) for _ in range(2)]
    least = [max(1, (k - 1) * d + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    return {
        "out": groups * draw(st.integers(1, 20)),
        "ins": draw(st.integers(1, 20)),
        "groups": groups,
        "kernel": kernel,
        "stride": [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(2)],
        "padding": padding,
        "dilation": dilation,
        "size": [low + draw(st.integers(0, 18)) for low in least],
        "images": draw(st.integers(1, 5)),
        "period": draw(st.sampled_from([0, 0, 2, 4])),
        "density": draw(st.sampled_from([0.02, 0.2, 0.55])),
        "bias": draw(st.booleans()),
        "last": [draw(st.booleans()) for _ in range(2)],
        "threads": draw(st.sampled_from([1, 2, 3])),
        "seed": draw(st.integers(0, 10_000)),
    }


def support_of(case: dict[str, Any]) -> Support | None:
    generator = torch.Generator().manual_seed(case["seed"])
    shape = (case["out"], case["ins"], *case["kernel"])
    if period := case["period"]:
        area = case["kernel"][0] * case["kernel"][1]
        keep = torch.rand(period, period, area, generator=generator) < case["density"]
        table = [[[p for p in range(area) if keep[a, b, p]] for b in range(period)] for a in range(period)]
        support = ClassTable(table).support(shape, case["groups"]) if keep.any() else None
    else:
        mask = torch.rand(shape, generator=generator) < case["density"]
        support = Unstructured(mask).support(shape, case["groups"]) if mask.any() else None
    return support if support is not None and support.mask().any() else None


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_forward_and_gradients_against_float64(case: dict[str, Any]) -> None:
    support = support_of(case)
    if support is None:
        return
    torch.manual_seed(case["seed"])
    shape = list(support.shape)
    index = support.indices()
    x = torch.randn(case["images"], case["ins"] * case["groups"], *case["size"])
    if case["last"][0]:
        x = x.to(memory_format=torch.channels_last)
    weight = torch.randn(len(index), 1, requires_grad=True)
    bias = torch.randn(case["out"], requires_grad=True) if case["bias"] else None
    geometry = (case["stride"], case["padding"], case["dilation"], case["groups"])
    wanted = [x.requires_grad_(), weight, *([] if bias is None else [bias])]

    threads = torch.get_num_threads()
    torch.set_num_threads(case["threads"])
    try:
        y = operators[NATIVE_CONV2D].run(x, weight, bias, index, "", shape, *geometry)
        grad = torch.randn(y.shape)
        if case["last"][1]:
            grad = grad.to(memory_format=torch.channels_last)
        ours = torch.autograd.grad(y, wanted, grad)
    finally:
        torch.set_num_threads(threads)

    dense = torch.zeros(shape, dtype=torch.float64).flatten().scatter(0, index, weight.double()[:, 0]).view(shape)
    exact = F.conv2d(x.double(), dense, None if bias is None else bias.double(), *geometry)
    theirs = torch.autograd.grad(exact, wanted, grad.double())
    for a, b in zip((y.detach(), *ours), (exact.detach(), *theirs), strict=True):
        assert a.shape == b.shape
        assert float((a.double() - b).abs().max()) <= 2e-6 * (float(b.abs().max()) + 1)


def layer(support: str = "PSD1_P16", channels: int = 32) -> layers.SparseConv2d:
    torch.manual_seed(3)
    return layers.SparseConv2d(channels, channels, 3, padding=1, support=parse(support))


def call_of(module: layers.SparseConv2d, x: torch.Tensor) -> tuple[Any, ...]:
    return (x, module.weight, module.bias, module.support_index, module.support.key, list(module.support.shape),
            [1, 1], [1, 1], [1, 1], 1)  # fmt: skip


def test_layers_run_on_it_and_keep_the_memory_format(monkeypatch: pytest.MonkeyPatch) -> None:
    module = layer()
    x = torch.randn(2, 32, 9, 9)
    assert ops.choose("conv2d", *call_of(module, x))[0] == NATIVE_CONV2D
    assert module(x).is_contiguous()
    last = module(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, F.conv2d(x, module.dense_weight(), module.bias, padding=1))


def test_what_it_leaves_to_the_reference() -> None:
    module = layer()
    x = torch.randn(2, 32, 9, 9)
    declined = [
        call_of(module.double(), x.double()),
        call_of(layer().to("meta"), x.to("meta")),
        call_of(layer("PS8_P9"), x),  # nearly dense: the dense convolution is as fast
        call_of(layer(), x[:0]),
    ]
    assert [ops.choose("conv2d", *call)[0] for call in declined] == ["any_conv2d_any_whole_reference"] * 4
    with ops.reference_only():
        assert ops.choose("conv2d", *call_of(layer(), x))[0] == "any_conv2d_any_whole_reference"
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.choose("conv2d", *call_of(layer(), x))[0] == "any_conv2d_any_whole_reference"
        assert layer()(x).dtype == torch.bfloat16


def test_nothing_outside_its_tensors_is_read() -> None:
    """Wrong sizes are refused, by the reference or here; axes of one may have any stride."""
    module = layer()
    for wrong in (torch.randn(2, 3, 9, 9), torch.randn(2, 64, 9, 9)):
        with pytest.raises(RuntimeError, match="channels"):
            ops.sparse_conv2d(*call_of(module, wrong))
    with pytest.raises(RuntimeError, match="Kernel size"):
        ops.sparse_conv2d(*call_of(module, torch.randn(2, 32, 9, 9))[:7], [0, 0], [9, 9], 1)
    _, weight, *rest = call_of(module, torch.randn(1))
    for less in (weight[:-1], weight[:, :-1]):
        with pytest.raises(RuntimeError, match="weights for a support of 1536"):
            ops.sparse_conv2d(torch.randn(2, 32, 9, 9), less, *rest)
    with pytest.raises(RuntimeError, match="a bias of 31 for 32"):
        ops.sparse_conv2d(torch.randn(2, 32, 9, 9), weight, torch.zeros(31), *rest[1:])
    thin = torch.randn(4, 32, 6, 1).as_strided((4, 32, 6, 1), (192, 6, 1, 77))
    torch.testing.assert_close(module(thin), F.conv2d(thin, module.dense_weight(), module.bias, padding=1))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_each_time(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        module, x = layer("pSC4"), torch.randn(7, 32, 11, 11, requires_grad=True)
        grad = torch.randn(7, 32, 11, 11)
        first = [module(x), *torch.autograd.grad(module(x), [x, module.weight], grad)]
        for _ in range(5):
            again = [module(x), *torch.autograd.grad(module(x), [x, module.weight], grad)]
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    finally:
        torch.set_num_threads(before)


def test_new_weights_and_changed_index_tensors_are_seen() -> None:
    module, x = layer(), torch.randn(2, 32, 8, 8)
    module(x)
    with torch.no_grad():
        module.weight.mul_(-2.0)
    torch.testing.assert_close(module(x), F.conv2d(x, module.dense_weight(), module.bias, padding=1))
    index = torch.tensor([0, 9, 18])
    run = operators[NATIVE_CONV2D].run
    weight = torch.ones(3, 1)
    for shift in (0, 4, 8):  # in place: the same tensor, other positions
        now = index.add_(shift if shift == 0 else 4)
        dense = torch.zeros(2, 4, 3, 3).flatten().index_fill(0, now, 1.0).view(2, 4, 3, 3)
        image = torch.randn(1, 4, 5, 5)
        out = run(image, weight, None, index, "", [2, 4, 3, 3], [1, 1], [1, 1], [1, 1], 1)
        torch.testing.assert_close(out, F.conv2d(image, dense, padding=1))


def test_plans_that_nothing_uses_any_more_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Supports that move make new plans all the time: what is kept stays within bounds, the latest used."""
    plans: OrderedDict[Any, Any] = OrderedDict()
    monkeypatch.setattr(_native, "_plans", plans)
    monkeypatch.setattr(_native, "_PLAN_BYTES", 500_000)
    x = torch.randn(1, 32, 16, 16)
    modules = [layer(f"pSC{n}") for n in (1, 2, 3, 4)] * 3
    for module in modules:
        module(x)
        torch.testing.assert_close(module(x), F.conv2d(x, module.dense_weight(), module.bias, padding=1))
        assert 0 < sum(kept.bytes for kept, _ in plans.values()) <= 500_000
    assert 1 <= len(plans) < 4


def test_second_derivatives_through_it() -> None:
    module, x = layer("PS1_P9", 12), torch.randn(2, 12, 5, 5, requires_grad=True)
    twin = F.conv2d(x, module.dense_weight(), module.bias, padding=1)
    results = []
    for y in (module(x), twin):
        (slope,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(slope.pow(2).sum(), x)[0])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-3)


def test_infinities_stay_where_they_belong() -> None:
    x = torch.zeros(1, 32, 6, 6)
    x[0, 5, 2, 3] = float("inf")
    module = layer("pSC1")
    reached = ~torch.isfinite(module(x).detach())
    expected = F.conv2d(x.isinf().double(), module.support.mask().double(), padding=1) > 0
    assert torch.equal(reached, expected)


PORTABLE = """
import torch, precut
from precut.ops import choose
layer = precut.layers.SparseConv2d(40, 24, 3, padding=1, support=precut.supports.parse("PS2_P6"))
x = torch.randn(3, 40, 10, 7, requires_grad=True)
for last in (False, True):
    z = x.to(memory_format=torch.channels_last) if last else x
    y = layer(z)
    twin = torch.nn.functional.conv2d(x, layer.dense_weight(), layer.bias, padding=1)
    torch.testing.assert_close(y, twin)
    g = torch.randn_like(y)
    for a, b in zip(torch.autograd.grad(y, [x, layer.bias], g), torch.autograd.grad(twin, [x, layer.bias], g)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
print(choose("conv2d", x, layer.weight, layer.bias, None, layer.support.key, [24, 40, 3, 3], [1, 1], [1, 1], [1, 1], 1)[0])
"""


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [("PRECUT_ISA=portable", NATIVE_CONV2D), ("PRECUT_OPS=reference", "any_conv2d_any_whole_reference")],
)
def test_other_instruction_sets_and_the_forced_reference(setting: str, chosen: str) -> None:
    name, value = setting.split("=")
    done = subprocess.run(
        [sys.executable, "-c", PORTABLE], env={**os.environ, name: value}, capture_output=True, text=True
    )
    assert done.stdout.strip() == chosen, done.stderr


def test_a_forked_child_has_threads_of_its_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        module, x = layer(), torch.randn(4, 32, 8, 8)
        with torch.no_grad():
            expected = module(x)
            pid = os.fork()
            if pid == 0:
                os._exit(0 if torch.equal(module(x), expected) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)
