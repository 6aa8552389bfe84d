"""What a capture records: operations under one name however they are written, and modules."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precut
from graph.calls import X, captured
from precut.graph import capture
from precut.graph._functions import SIGNATURES
from precut.graph._modules import ROWS


def ops(function: Callable[..., Any], *inputs: Any, **members: Any) -> list[str]:
    return [node.op for node in captured(function, *inputs, **members).nodes]


def iadd(x: Tensor) -> Tensor:
    y = x * 2
    y += x
    return y


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x + x,
        lambda m, x: torch.add(x, x),
        lambda m, x: x.add(x),
        lambda m, x: operator.add(x, x),
        lambda m, x: operator.iadd(x.clone(), x),
        lambda m, x: x.clone().add_(x),
        lambda m, x: 1 + x,
        lambda m, x: x.__radd__(1),
        lambda m, x: torch.add(input=x, other=x, alpha=2),
    ],
)
def test_every_way_to_add_is_add(function: Callable[..., Any]) -> None:
    assert ops(function)[-1] == "add"


P = torch.nn.Parameter
WRITTEN: list[tuple[str, Callable[..., Any]]] = [
    ("add", lambda m, x: iadd(x)),
    ("sub", lambda m, x: 3 - x),
    ("sub", lambda m, x: x - 3),
    ("mul", lambda m, x: 2 * x),
    ("div", lambda m, x: 2 / x),
    ("div", lambda m, x: x / 2),
    ("pow", lambda m, x: x**2),
    ("pow", lambda m, x: 2**x),
    ("neg", lambda m, x: -x),
    ("cat", lambda m, x: torch.cat([x, x], 1)),
    ("cat", lambda m, x: torch.concat((x, x), dim=1)),
    ("cat", lambda m, x: torch.concatenate([x, x], axis=1)),
    ("stack", lambda m, x: torch.stack([x, x], 2)),
    ("mean", lambda m, x: x.mean((2, 3))),
    ("mean", lambda m, x: torch.mean(x, dim=[2, 3], keepdim=True)),
    ("sum", lambda m, x: x.sum(1)),
    ("amax", lambda m, x: x.amax((-1, -2))),
    ("var", lambda m, x: x.var(1, keepdim=True)),
    ("relu", lambda m, x: torch.relu(x)),
    ("relu", lambda m, x: F.relu(x)),
    ("relu", lambda m, x: x.relu()),
    ("relu", lambda m, x: F.relu(x.clone(), inplace=True)),
    ("relu", lambda m, x: torch.relu_(x.clone())),
    ("relu6", lambda m, x: F.relu6(x)),
    ("relu6", lambda m, x: F.hardtanh(x, 0, 6)),
    ("relu6", lambda m, x: x.clamp(0, 6)),
    ("clamp", lambda m, x: x.clamp(min=0)),
    ("silu", lambda m, x: F.silu(x)),
    ("hardswish", lambda m, x: F.hardswish(x)),
    ("sigmoid", lambda m, x: x.sigmoid()),
    ("softmax", lambda m, x: F.softmax(x, 1)),
    ("softmax", lambda m, x: torch.softmax(x, dim=-1)),
    ("softmax", lambda m, x: x.softmax(1)),
    ("dropout", lambda m, x: F.dropout(x, 0.5, m.training)),
    ("max_pool2d", lambda m, x: F.max_pool2d(x, 2)),
    ("avg_pool2d", lambda m, x: F.avg_pool2d(x, 2, stride=1)),
    ("adaptive_avg_pool2d", lambda m, x: F.adaptive_avg_pool2d(x, 1)),
    ("adaptive_max_pool2d", lambda m, x: F.adaptive_max_pool2d(x, (1, 1))),
    ("interpolate", lambda m, x: F.interpolate(x, scale_factor=2)),
    ("pad", lambda m, x: F.pad(x, (0, 0, 0, 0, 1, 1))),
    ("channel_shuffle", lambda m, x: F.channel_shuffle(x, 2)),
    ("pixel_shuffle", lambda m, x: F.pixel_shuffle(x, 2)),
    ("pixel_unshuffle", lambda m, x: F.pixel_unshuffle(x, 2)),
    ("flatten", lambda m, x: x.view(x.size(0), -1)),
    ("flatten", lambda m, x: x.reshape(x.shape[0], -1)),
    ("flatten", lambda m, x: torch.flatten(x, 1)),
    ("flatten", lambda m, x: x.flatten(start_dim=1)),
    ("flatten", lambda m, x: x.view(-1, 4 * 6 * 6)),
    ("flatten", lambda m, x: x.reshape((len(x.shape[:1]) * x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]))),
    ("reshape", lambda m, x: x.view(x.size(0), 2, 2, 6, 6)),
    ("reshape", lambda m, x: x.view(2, -1)),
    ("reshape", lambda m, x: x.flatten()),
    ("reshape", lambda m, x: x.flatten(2)),
    ("reshape", lambda m, x: x.unflatten(1, (2, 2))),
    ("permute", lambda m, x: x.permute(0, 2, 3, 1)),
    ("transpose", lambda m, x: x.transpose(1, -1)),
    ("transpose", lambda m, x: x.swapaxes(1, 2)),
    ("transpose", lambda m, x: x.mT),
    ("getitem", lambda m, x: x[:, 1:3]),
    ("getitem", lambda m, x: x[..., None, 0]),
    ("chunk", lambda m, x: x.chunk(2, 1)[0]),
    ("split", lambda m, x: torch.split(x, [1, 3], dim=1)[1]),
    ("unbind", lambda m, x: x.unbind(1)[0]),
    ("unbind", lambda m, x: next(iter(x))),
    ("narrow", lambda m, x: x.narrow(1, 0, 2)),
    ("select", lambda m, x: x.select(1, 0)),
    ("index_select", lambda m, x: x.index_select(1, torch.tensor([0, 2]))),
    ("squeeze", lambda m, x: x.squeeze(1)),
    ("unsqueeze", lambda m, x: x.unsqueeze(-1)),
    ("expand", lambda m, x: x[:, :1].expand(-1, 4, -1, -1)),
    ("conv2d", lambda m, x: F.conv2d(x, torch.ones(3, 4, 3, 3), padding=1)),
    ("linear", lambda m, x: F.linear(x, torch.ones(3, 6))),
    ("batch_norm", lambda m, x: F.batch_norm(x, torch.zeros(4), torch.ones(4))),
    ("layer_norm", lambda m, x: F.layer_norm(x, (6,))),
    ("matmul", lambda m, x: x @ x),
    ("where", lambda m, x: torch.where(x > 0, x, 0.0)),
    ("maximum", lambda m, x: torch.maximum(x, x)),
    ("normalize", lambda m, x: F.normalize(x)),
    ("glu", lambda m, x: F.glu(x, 1)),
    ("zeros_like", lambda m, x: torch.zeros_like(x)),
    ("detach", lambda m, x: x.data),
    ("torch.cumsum", lambda m, x: x.cumsum(1)),
    ("torch.einsum", lambda m, x: torch.einsum("nchw,ndhw->ncd", x, x)),
]


@pytest.mark.parametrize(("op", "function"), WRITTEN)
def test_functions_have_one_name(op: str, function: Callable[..., Any]) -> None:
    graph = captured(function)
    assert graph.nodes[-1].op == op
    assert graph.nodes[-1].source.startswith("test_capture.py:")


def test_shapes_and_attributes_do_not_depend_on_the_spelling() -> None:
    module = capture(nn.Conv2d(4, 6, 3, stride=2, padding=1), X).nodes[0]
    function = captured(lambda m, x: F.conv2d(x, m.w, stride=2, padding=(1, 1)), w=P(torch.randn(6, 4, 3, 3))).nodes[0]
    assert module.op == function.op == "conv2d"
    for name in ("stride", "padding", "dilation", "groups"):
        assert module.attrs[name] == function.attrs[name]
    assert module.attrs["stride"] == (2, 2)
    assert module.dense_shape == function.dense_shape == (6, 4, 3, 3)
    assert module.output.shape == function.output.shape == (2, 6, 3, 3)
    assert function.params["weight"][0] == "w"
    pool = captured(lambda m, x: F.max_pool2d(x, 2)).nodes[0].attrs
    assert (pool["kernel_size"], pool["stride"], pool["padding"]) == ((2, 2), (2, 2), (0, 0))
    assert captured(lambda m, x: x.mean(-1)).nodes[0].attrs["dim"] == (3,)
    assert captured(lambda m, x: torch.cat([x, x], -3)).nodes[0].attrs["dim"] == 1


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 8)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3), (2, 4, 6, 6)),
    "Conv3d": (lambda: nn.Conv3d(4, 6, 3), (2, 4, 4, 4, 4)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (2, 4, 8)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3), (2, 4, 6, 6)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 6, 3), (2, 4, 4, 4, 4)),
    "Linear": (lambda: nn.Linear(6, 3), (2, 6)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), (2, 4, 8)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(4), (2, 4, 4, 4, 4)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4), (2, 4, 8)),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(4), (2, 4, 4, 4, 4)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (2, 4, 6, 6)),
    "LayerNorm": (lambda: nn.LayerNorm(6), (2, 4, 6, 6)),
    "RMSNorm": (lambda: nn.RMSNorm(6), (2, 4, 6, 6)),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(3), (2, 4, 6, 6)),
    "Threshold": (lambda: nn.Threshold(0.1, 0.2), (2, 4, 6, 6)),
    "Softmax": (lambda: nn.Softmax(1), (2, 4, 6, 6)),
    "LogSoftmax": (lambda: nn.LogSoftmax(1), (2, 4, 6, 6)),
    "GLU": (lambda: nn.GLU(1), (2, 4, 6, 6)),
    "Unflatten": (lambda: nn.Unflatten(1, (2, 2)), (2, 4, 6, 6)),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), (2, 4, 6, 6)),
    "PixelUnshuffle": (lambda: nn.PixelUnshuffle(2), (2, 4, 6, 6)),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), (2, 4, 6, 6)),
    "Upsample": (lambda: nn.Upsample(scale_factor=2), (2, 4, 6, 6)),
    "UpsamplingNearest2d": (lambda: nn.UpsamplingNearest2d(scale_factor=2), (2, 4, 6, 6)),
    "UpsamplingBilinear2d": (lambda: nn.UpsamplingBilinear2d(scale_factor=2), (2, 4, 6, 6)),
}


def _instance(kind: type[nn.Module]) -> tuple[nn.Module, tuple[int, ...]]:
    name = kind.__name__
    if name in MODULES:
        make, shape = MODULES[name]
        return make(), shape
    dims = int(name[-2]) if name[-2:] in ("1d", "2d", "3d") else 2
    shape = (2, 4, *(6,) * dims)
    if "Norm" in name:
        return kind(4), shape
    if name == "ConstantPad1d" or name.startswith("ConstantPad"):
        return kind(1, 0.5), shape  # type: ignore[call-arg]
    if "Pool" in name or "Pad" in name:
        return kind(2), shape  # type: ignore[call-arg]
    return kind(), shape


@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)
def test_every_leaf_module_is_one_node(kind: type[nn.Module]) -> None:
    if kind is nn.SyncBatchNorm:
        pytest.skip("needs a GPU to run")
    module, shape = _instance(kind)
    graph = capture(nn.Sequential(module), torch.randn(shape))
    graph.verify()
    (node,) = graph.nodes
    assert node.module is module
    assert node.name == node.path == "0"
    assert node.op == ROWS[kind][0] or (node.op, kind) == ("reshape", nn.Unflatten)
    assert node.output.shape == tuple(module.eval()(torch.randn(shape)).shape)
    assert set(node.params) == {name for name, _ in (*module.named_parameters(), *module.named_buffers())}


def test_every_row_names_arguments_that_torch_has() -> None:
    checked = 0
    for op, parameters in SIGNATURES.items():
        function = getattr(F, op, None)
        try:
            known = set(inspect.signature(function).parameters)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        if "args" in known:
            continue
        renamed = {"padding": "pad"} if op == "pad" else {}
        assert {renamed.get(name, name) for name, _ in parameters} <= known | {"other"}, op
        checked += 1
    assert checked > 20


def test_a_changed_subclass_is_traced_through_and_a_harmless_one_is_a_leaf() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight - self.weight.mean(), self.bias)

    class Named(nn.Conv2d):
        def extra_repr(self) -> str:
            return "mine"

    graph = capture(nn.Sequential(Standardised(4, 3, 1), Named(3, 2, 1)), X)
    graph.verify()
    assert [node.op for node in graph.nodes] == ["mean", "sub", "conv2d", "conv2d"]
    assert [node.module is None for node in graph.nodes] == [True, True, True, False]


def test_sparse_layers_are_nodes_of_the_operator_that_they_stand_for() -> None:
    model = precut.sparsify(precut.create_model("resnet8"), "PSD1_P16")
    graph = capture(model, torch.randn(1, 3, 32, 32))
    graph.verify()
    sparse = [node for node in graph.layers() if type(node.module).__name__ == "SparseConv2d"]
    assert len(sparse) == 6
    for node in sparse:
        assert node.op == "conv2d"
        assert node.dense_shape == node.module.dense_shape  # type: ignore[union-attr]
        assert node.attrs["kernel_size"] == (3, 3)
        assert node.params["weight"][1].numel() < torch.Size(node.dense_shape).numel()  # type: ignore[arg-type]


def test_names_are_unique_and_modules_keep_their_paths() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add = nn.Conv2d(4, 4, 1)
            self.block = nn.Sequential(self.add, nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x + 1) + self.add(x) + x

    graph = capture(Net(), X)
    graph.verify()
    assert [node.name for node in graph.nodes] == ["add#2", "add", "block.1", "add#3", "add#4", "add#5"]
    assert [node.op for node in graph.nodes] == ["add", "conv2d", "relu", "conv2d", "add", "add"]
    assert graph.nodes[1].params == graph.nodes[3].params
    assert graph.node("block.1").op == "relu"
