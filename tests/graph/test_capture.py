"""What a capture records: operations under one name however they are written, modules, sizes, places in the code."""

from __future__ import annotations

import dataclasses
import inspect
import operator
import threading
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precut
from precut.graph import Graph, capture
from precut.graph._functions import SIGNATURES
from precut.graph._modules import ROWS

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class Call(nn.Module):
    """A module whose forward is a function of the input; parameters are attributes."""

    def __init__(self, function: Callable[..., Any], **members: Any) -> None:
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def captured(function: Callable[..., Any], *inputs: Any, **members: Any) -> Graph:
    graph = capture(Call(function, **members), inputs or X)
    graph.verify()
    return graph


def ops(function: Callable[..., Any], *inputs: Any, **members: Any) -> list[str]:
    return [node.op for node in captured(function, *inputs, **members).nodes]


def iadd(x: Tensor) -> Tensor:
    y = x * 2
    y += x
    return y


# ---- names ---------------------------------------------------------------------------------------------------------


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


# ---- inputs, outputs, sizes ----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Record:
    first: Tensor
    rest: list[Tensor]
    note: str


Pair = namedtuple("Pair", "a b")


def test_nested_inputs_and_outputs() -> None:
    def forward(module: nn.Module, pair: Any, *, extra: dict[str, Any]) -> Any:
        a, b = pair
        record = Record(a + b, [extra["c"] * 2], "kept")
        return {"pair": Pair(a, b - 1), "ordered": OrderedDict(z=record), "number": 3}

    model = Call(forward)
    inputs = {"pair": (X, X + 1), "extra": {"c": X + 2, "d": 5}}
    graph = capture(model, {"pair": (X, X + 1), "extra": inputs["extra"]})

    class Kwargs(nn.Module):
        def forward(self, pair: Any, extra: Any) -> Any:
            return forward(self, pair, extra=extra)

    graph = capture(Kwargs(), inputs)
    graph.verify()
    assert [value.name for value in graph.inputs] == ["pair", "pair_1", "extra"]
    result = graph.run(X, X + 1, X + 2)
    assert isinstance(result["pair"], Pair)
    assert isinstance(result["ordered"], OrderedDict)
    assert result["ordered"]["z"].note == "kept"
    assert torch.equal(result["ordered"]["z"].rest[0], (X + 2) * 2)
    assert result["number"] == 3
    assert len(graph.outputs) == 4


def test_several_inputs_and_a_parameter_as_output() -> None:
    graph = captured(lambda m, x, y: (x * m.w, m.w), X, X, w=P(torch.ones(1)))
    assert len(graph.outputs) == 1
    assert torch.equal(graph.run(X, X)[1], torch.ones(1))


SIZED: list[Callable[..., Any]] = [
    lambda m, x: x.view(x.size(0), -1, x.shape[3] * x.shape[2]),
    lambda m, x: x.reshape(*x.shape[:2], x.size(dim=2) * x.size(3)),
    lambda m, x: x.view(x.shape[0], x.shape[1] // 2, 2, x.shape[2], -1).transpose(1, 2).reshape(x.shape),
    lambda m, x: torch.cat([x, torch.zeros(x.shape[0], 1, *x.shape[2:])], 1),
    lambda m, x: x[:, :, : x.shape[2] // 2 + 1, 1 - x.shape[3] :],
    lambda m, x: F.interpolate(F.max_pool2d(x, 2), size=x.shape[2:]),
    lambda m, x: x.new_ones(x.size()) + x,
    lambda m, x: x.mean(1).expand(x.shape[1], *x.shape[0:1], -1, -1),
    lambda m, x: F.adaptive_avg_pool2d(x, (x.shape[2] - 1, -(-x.shape[3] // 2))),
    lambda m, x: x * (x.shape[2] % 4) + x.numel() * 0,
    lambda m, x: torch.arange(x.shape[2]) + x,
]


@pytest.mark.parametrize("function", SIZED)
@pytest.mark.parametrize("shape", [(2, 4, 6, 6), (5, 4, 6, 6), (1, 4, 8, 7)])
def test_sizes_that_come_from_shapes_follow_other_inputs(function: Callable[..., Any], shape: tuple[int, ...]) -> None:
    if shape[3] == 7 and "arange" in inspect.getsource(function):
        shape = (1, 4, 8, 8)
    capture(Call(function), X).verify(torch.randn(shape))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x.sum(1) * int(x.shape[2]),
        lambda m, x: x.sum(1) if x.shape[2] < 7 else x,
        lambda m, x: x * x.shape[3] ** -0.5,
        lambda m, x: x * (x.size(2) / 2.5),
        lambda m, x: x.view(len(x), -1),
        lambda m, x: x + 1 if x.shape == x[:, :, :6].shape else x,
    ],
)
def test_what_code_learned_from_sizes_is_fixed_and_said(function: Callable[..., Any]) -> None:
    graph = capture(Call(function), X)
    graph.verify()
    with pytest.raises(precut.PrecutError) as error:
        graph.run(torch.randn(3, 4, 7, 7))
    line = f"test_capture.py:{function.__code__.co_firstlineno}"
    assert str(error.value) == (
        f"the model's code at {line} would do something else with inputs of these sizes than with the example's: "
        "capture it with inputs of these sizes"
    )


def test_other_sizes_that_lead_to_the_same_are_fine() -> None:
    graph = capture(Call(lambda m, x: x * 2 if x.shape[2] > 5 and x.shape[2] == x.size(-1) else x), X)
    graph.verify(torch.randn(3, 4, 9, 9))
    assert len(graph.guards) == 2


def test_sizes_are_plain_integers_in_every_other_respect() -> None:
    seen: list[Any] = []

    def forward(module: nn.Module, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        seen.extend(
            [n, c * 2, 10 - h, w // 2, -w, x.size(1) == 4, f"{c}", {4: "four"}[c], list(range(n)), h / 2, c * 0.5]
        )
        return x

    capture(Call(forward), X)
    assert seen == [2, 8, 4, 3, -6, True, "4", "four", [0, 1], 3.0, 2.0]


# ---- in place --------------------------------------------------------------------------------------------------------


def test_writes_in_place_are_followed() -> None:
    def forward(module: nn.Module, x: Tensor) -> Tensor:
        x.mul_(2)
        y = x[:, :2].clone()
        y[:, 0] = 1.0
        z = y.view(-1)
        F.relu(z, inplace=True)
        module.act(x)
        x += 1
        return x.sum() + z.sum()

    x = X.clone()
    graph = captured(forward, x, act=nn.ReLU(inplace=True))
    assert torch.equal(x, X)
    assert "torch.__setitem__" in [node.op for node in graph.nodes]


def test_halves_that_do_not_overlap_may_be_written_apart() -> None:
    def forward(module: nn.Module, x: Tensor) -> Tensor:
        a, b = (x * 1).chunk(2, 1)
        a.relu_()
        return a + b

    captured(forward)


# ---- what is left behind ---------------------------------------------------------------------------------------------


def _state(model: nn.Module) -> Any:
    return [
        (name, module.training, sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(1))
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.calls = self.calls * 2
        x = self.drop(self.norm(x)) + torch.rand_like(x)
        if self.fail:
            raise RuntimeError("stop")
        return x


@pytest.mark.parametrize("training", [False, True, None])
@pytest.mark.parametrize("fail", [False, True])
def test_nothing_is_left_behind(training: bool | None, fail: bool) -> None:
    model = Noisy()
    model.drop.eval()
    model.fail = fail
    model.norm.forward = model.norm.forward  # type: ignore[method-assign]  # somebody's own
    before, own = _state(model), vars(model.norm)["forward"]
    tensors = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    random_state = torch.get_rng_state()
    if fail:
        with pytest.raises(RuntimeError, match="stop"):
            capture(model, X, training=training)
    else:
        capture(model, X, training=training)
    assert _state(model) == before
    assert vars(model.norm)["forward"] is own
    assert torch.equal(torch.get_rng_state(), random_state)
    after = model.state_dict(keep_vars=True)
    for name, (tensor, copy) in tensors.items():
        assert after[name] is tensor
        assert torch.equal(tensor, copy)


def test_modes() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(4))
    assert capture(model, X).nodes[0].attrs["training"] is False
    assert capture(model, X, training=True).nodes[0].attrs["training"] is True
    model[0].eval()
    graph = capture(model, X, training=None)
    assert graph.nodes[0].attrs["training"] is False
    assert [module.training for module in model] == [False, True]


def test_gradients_are_not_recorded_and_run_records_them() -> None:
    model = nn.Conv2d(4, 2, 1)
    graph = capture(model, X)
    graph.run(X).sum().backward()
    assert model.weight.grad is not None


def test_another_thread_may_run_the_model_meanwhile() -> None:
    inside, done = threading.Event(), threading.Event()
    results: list[Tensor] = []

    class Waiting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            if threading.current_thread() is threading.main_thread():
                inside.set()
                done.wait(5)
            return self.conv(x)

    model = Waiting()

    def other() -> None:
        inside.wait(5)
        with torch.no_grad():
            results.append(model(X))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    graph = capture(model, X)
    thread.join()
    assert [node.op for node in graph.nodes] == ["conv2d"]
    with torch.no_grad():
        assert torch.equal(results[0], model(X))


# ---- other people's code ---------------------------------------------------------------------------------------------


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


def scale(x: Tensor) -> Tensor:
    return x * 2 + 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_functions_that_hide_their_operations() -> None:
    captured(lambda m, x: Double.apply(x) + 1)
    captured(lambda m, x: torch.jit.script(scale)(x) - 1)
    captured(lambda m, x: m.inner(x) - 1, inner=torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())))
    captured(lambda m, x: torch.utils.checkpoint.checkpoint(torch.relu, x, use_reentrant=False))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_recurrent_and_attention_modules_run() -> None:
    captured(lambda m, x: m.lstm(x.flatten(2))[0], lstm=nn.LSTM(36, 5, batch_first=True))
    captured(lambda m, x: m.gru(x.flatten(2))[0], gru=nn.GRU(36, 5, batch_first=True))
    captured(
        lambda m, x: m.mha(x.flatten(2), x.flatten(2), x.flatten(2))[0],
        mha=nn.MultiheadAttention(36, 4, batch_first=True),
    )
    captured(lambda m, x: m.emb((x > 0).long()), emb=nn.Embedding(2, 3))


def test_hooks_run_once_and_what_they_compute_is_recorded() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
    calls: list[int] = []

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        calls.append(1)
        return output * 2

    model[0].register_forward_hook(hook)
    graph = capture(model, X)
    assert [node.op for node in graph.nodes] == ["conv2d", "mul", "relu"]
    assert len(calls) == 1
    graph.verify()


def test_computed_weights_run() -> None:
    model = nn.Sequential(
        torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
        torch.nn.utils.spectral_norm(nn.Conv2d(4, 4, 1)),
    )
    torch.nn.utils.prune.random_unstructured(pruned := nn.Conv2d(4, 4, 1), "weight", 0.5)
    model.append(pruned)
    graph = capture(model, X)
    graph.verify()
    assert [node.op for node in graph.layers()] == ["conv2d", "conv2d", "conv2d"]


def test_run_on_another_model_takes_its_parameters() -> None:
    first, second = nn.Sequential(nn.Conv2d(4, 2, 1)), nn.Sequential(nn.Conv2d(4, 2, 1))
    graph = capture(first, X)
    assert torch.equal(graph.run(X, model=second), second(X))
    functional = Call(lambda m, x: x * m.w, w=P(torch.ones(4, 1, 1)))
    graph = capture(functional, X)
    other = Call(functional.function, w=P(torch.full((4, 1, 1), 3.0)))
    assert torch.equal(graph.run(X, model=other), X * 3)


def test_inference_mode_compiled_and_meta_models() -> None:
    model = nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2), nn.ReLU(inplace=True))
    with torch.inference_mode():
        made = nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU(inplace=True))
        graph = capture(made, X.clone())
        graph.verify()
    assert [node.op for node in graph.nodes] == ["conv2d", "relu"]
    assert [node.name for node in capture(torch.compile(model, backend="eager"), X).nodes] == ["0", "1", "2"]
    assert capture(model.to("meta"), X.to("meta")).outputs[0].shape == (2, 2, 6, 6)


def test_a_model_that_is_a_leaf_or_does_nothing() -> None:
    assert [node.name for node in capture(nn.Linear(6, 2), X).nodes] == ["linear"]
    graph = capture(nn.Sequential(), X)
    assert graph.nodes == []
    assert graph.outputs == graph.inputs
    assert len(graph.spaces) == 1
    graph.verify()


# ---- questions -----------------------------------------------------------------------------------------------------


def test_depth_layers_links_and_table() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.b(self.a(x).relu())
            y += x
            return self.c(torch.cat([y, x], 1))

    graph = capture(Block(), X)
    assert graph.depth() == 3
    assert graph.depth(graph.node("a").output) == 1
    assert [node.name for node in graph.layers()] == ["a", "b", "c"]
    told = [(link.kind, link.layers, link.skips, link.long_range, link.channels) for link in graph.links()]
    assert told == [
        ("add", ("b",), 0, False, 4),
        ("add", ("x",), 2, True, 4),
        ("cat", ("b", "x"), 0, False, 4),
        ("cat", ("x",), 2, True, 4),
    ]
    lines = graph.table().splitlines()
    assert lines[0].split() == ["node", "op", "inputs", "shape", "source"]
    assert lines[1].split()[:4] == ["a", "conv2d", "x", "2x4x6x6"]
    assert len(lines) == 1 + len(graph.nodes)
    assert [node.name for node in graph.node("a").output.consumers] == ["relu"]
    assert graph.inputs[0].consumers[0].name == "a"
    assert repr(graph) == "Graph(Block, 6 nodes, 3 layers)"
    assert repr(graph.node("c")) == "Node('c': conv2d(cat) -> (2, 2, 6, 6))"
    assert repr(graph.inputs[0]) == "Value('x', (2, 4, 6, 6), float32)"


@pytest.mark.parametrize(
    ("name", "depth", "skips"), [("resnet20", 20, 9), ("resnet50", 50, 16), ("wide_resnet16_4", 14, 6)]
)
def test_published_depths(name: str, depth: int, skips: int) -> None:
    model = precut.create_model(name, width_mult=0.25)
    graph = capture(model, torch.randn(1, 3, 32, 32))
    assert graph.depth() == depth
    assert sum(link.long_range for link in graph.links()) == skips
