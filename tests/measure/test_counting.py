"""Counts against brute force: masks multiplied out, and torch's own counter for dense networks."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import precut
from precut.layers import SparseConv2d, SparseLinear
from precut.measure import count_macs, summary
from precut.measure._trace import _run
from precut.supports import Unstructured


def flop_counter_macs(model: nn.Module, *inputs: torch.Tensor) -> int:
    model.eval()
    # With gradients on, torch takes no fused path that its own counter would miss.
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() // 2


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[SparseConv2d, tuple[int, int]]:
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    channels = [groups * draw(st.integers(1, 4)) for _ in range(2)]
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 2), (5, 5)]))
    shape = (channels[1], channels[0] // groups, *kernel)
    seed = draw(st.integers(0, 99))
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < draw(st.sampled_from([0.1, 0.5, 1.0]))
    assume(mask.any())
    layer = SparseConv2d(
        *channels,
        kernel,
        stride=draw(st.integers(1, 3)),
        padding=draw(st.integers(0, 2)),
        dilation=draw(st.integers(1, 2)),
        groups=groups,
        bias=draw(st.booleans()),
        support=Unstructured(mask),
    )
    return layer, (draw(st.integers(9, 12)), draw(st.integers(9, 12)))


def products_by_brute_force(layer: SparseConv2d, size: tuple[int, int]) -> int:
    """Every product as a 1: a convolution of ones (padding included) by the mask, summed up."""
    rows, columns = layer.padding
    ones = torch.ones(1, layer.in_channels, size[0] + 2 * rows, size[1] + 2 * columns)
    mask = layer.support.mask().float()
    return int(F.conv2d(ones, mask, None, layer.stride, 0, layer.dilation, layer.groups).sum())


@given(convolutions(), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_sparse_convolution(drawn, batch):
    layer, size = drawn
    found = summary(layer, torch.zeros(batch, layer.in_channels, *size))
    assert found.macs == products_by_brute_force(layer, size)
    dense = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
    )
    assert found.macs_dense == flop_counter_macs(dense, torch.zeros(1, layer.in_channels, *size))
    assert found.params == sum(p.numel() for p in layer.parameters())
    assert found.params_dense - found.params == layer.support.numel - layer.support.nnz
    assert found.bytes == 4 * found.params
    assert found.bytes_dense == 4 * found.params_dense


@pytest.mark.parametrize("support", ["PS4_P4", "PSD2_P8", "pSC2", "center", "dense"])
def test_groups_padding_modes_and_same_padding(support):
    layer = SparseConv2d(16, 32, 3, padding="same", groups=2, padding_mode="reflect", support=support)
    found = summary(layer, torch.zeros(2, 16, 5, 7))
    assert found.macs == layer.support.nnz * 35
    assert found.macs_dense == 32 * 8 * 9 * 35
    assert found.layers[0].support == support


def test_an_example_without_a_batch_dimension():
    layer = SparseConv2d(4, 8, 3, support="PS4_P4")
    assert (
        summary(nn.Sequential(nn.Unflatten(0, (1, 4)), layer), torch.zeros(4, 6, 6)).macs * 4 == layer.support.nnz * 16
    )


@pytest.mark.parametrize("leading", [(3,), (3, 5), (3, 5, 2)])
def test_sparse_linear(leading):
    layer = SparseLinear(8, 6, support="2:4")
    found = summary(layer, torch.zeros(*leading, 8))
    positions = int(torch.Size(leading[1:]).numel())
    assert (found.macs, found.macs_dense) == (layer.support.nnz * positions, 48 * positions)
    assert found.layers[0].output_shape == (*leading, 6)


DENSE = {
    "conv1d": (nn.Conv1d(4, 6, 3, padding=1, groups=2), (2, 4, 9)),
    "conv3d": (nn.Conv3d(2, 3, 2, stride=2), (2, 2, 6, 6, 6)),
    "depthwise": (nn.Conv2d(6, 12, 3, groups=6), (2, 6, 9, 9)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 5, 5)),
    "transposed1d": (nn.ConvTranspose1d(4, 6, 3), (2, 4, 5)),
    "linear": (nn.Linear(5, 7), (2, 3, 5)),
    "lstm cell": (nn.LSTMCell(4, 3), (2, 4)),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_layers_agree_with_torch(name):
    model, shape = DENSE[name]
    found = summary(model, torch.zeros(shape))
    assert found.macs * 2 == flop_counter_macs(model, torch.zeros(shape))
    assert found.macs_dense == found.macs
    assert found.params == sum(p.numel() for p in model.parameters())


def test_a_transformer_layer_by_hand():
    """torch's counter misses its attention on the CPU, so by the formula: length 5, width 8, hidden 16."""
    projections, attention, feed_forward = 5 * 8 * (24 + 8), 2 * 5 * 5 * 8, 2 * 5 * 8 * 16
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert summary(model, torch.zeros(2, 5, 8)).macs == projections + attention + feed_forward


@pytest.mark.parametrize("name", precut.list_models())
def test_the_zoo_agrees_with_torch(name):
    model = precut.create_model(name, width_mult=0.25) if "speed" not in name else precut.create_model(name)
    x = torch.zeros(2, 3, 32, 32)
    found = summary(model, x)
    assert found.macs * 2 == flop_counter_macs(model, x)
    assert found.params == found.params_dense == sum(p.numel() for p in model.parameters())
    assert found.not_counted == []


class Products(nn.Module):
    """Functional forms, each with a known count."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.kernel = nn.Parameter(torch.randn(2, 1, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        forms = {
            "conv2d": lambda: F.conv2d(x.unsqueeze(1), self.kernel),
            "linear": lambda: F.linear(x, self.weight),
            "matmul": lambda: x @ self.weight.t(),
            "matmul weight first": lambda: self.weight @ x,
            "bmm": lambda: torch.bmm(x, x.transpose(1, 2)),
            "einsum": lambda: torch.einsum("bij,kj->bik", x, self.weight),
            "einsum sum": lambda: torch.einsum("bij,bij->b", x, x),
            "attention": lambda: F.scaled_dot_product_attention(x, x, x),
            "vmap": lambda: torch.vmap(lambda row: self.weight @ row)(x),
            "elementwise": lambda: (x * self.weight).sum(1),
        }
        return forms[self.form]()


FUNCTIONAL = {"conv2d": 4 * 18, "linear": 64, "matmul": 64, "matmul weight first": 64, "bmm": 64, "einsum": 64,
              "einsum sum": 16, "attention": 128, "vmap": 64, "elementwise": 0}  # fmt: skip


@pytest.mark.parametrize(("form", "macs"), FUNCTIONAL.items())
def test_functional_forms(form, macs):
    assert summary(Products(form), torch.randn(3, 4, 4)).macs == macs


RECURRENT = [
    (nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True), 4 * 2 * (4 * 5 + 25 + 10 * 5 + 25)),
    (nn.LSTM(4, 5, proj_size=3, batch_first=True), 4 * (4 * 5 + 5 * 3) + 15),
    (nn.GRU(4, 5, batch_first=True), 3 * (4 * 5 + 25)),
    (nn.RNN(4, 5, batch_first=True), 4 * 5 + 25),
]


@pytest.mark.parametrize(("model", "macs_a_step"), RECURRENT, ids=["lstm", "lstm-proj", "gru", "rnn"])
def test_recurrent_layers(model, macs_a_step):
    assert summary(model, torch.zeros(2, 7, 4)).macs == 7 * macs_a_step


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(nn.utils.rnn.pack_sequence([x[0], x[1, :2]]))[0].data


def test_packed_sequences_count_their_real_steps():
    assert summary(Packed(), torch.zeros(2, 6, 4)).macs == (6 + 2) * 3 * (4 * 5 + 25) // 2


class Calls(nn.Module):
    """One layer called twice."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.again = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(self.layer(x))


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 8, 3, padding=1), SparseConv2d(8, 8, 3, padding=1, support="PS4_P4")])
def test_a_layer_called_twice_has_its_parameters_once(layer):
    once, twice = (summary(model, torch.zeros(1, 8, 6, 6)) for model in (layer, Calls(layer)))
    assert (twice.params, twice.params_dense) == (once.params, once.params_dense)
    assert (twice.macs, twice.macs_dense) == (2 * once.macs, 2 * once.macs_dense)
    assert [row.calls for row in twice.layers] == [2]


class Tied(nn.Module):
    """A decoder that shares the encoder's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.decode.weight = self.encode.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x))


def test_tied_weights():
    found = summary(Tied(), torch.zeros(2, 4))
    assert (found.params, found.macs) == (16, 32)
    assert [(row.name, row.params, row.macs) for row in found.layers] == [("encode", 16, 16), ("decode", 0, 16)]


def test_frozen_parameters_count():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).requires_grad_(False)
    assert summary(model, torch.zeros(1, 4)).params == 30


class ThirdParty(nn.Module):
    """A sparse layer by the protocol alone: it multiplies by its scattered weight itself."""

    precut_op = "linear"
    dense_shape = (6, 4)

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by = by
        self.weight = nn.Parameter(torch.randn(3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dense = x.new_zeros(24).index_copy(0, torch.tensor([0, 9, 20]), self.weight.view(-1)).view(6, 4)
        return F.linear(x, dense) if self.by == "linear" else x @ dense.t()


@pytest.mark.parametrize("by", ["linear", "matmul"])
def test_a_foreign_sparse_layer_is_never_counted_dense(by):
    found = summary(nn.Sequential(ThirdParty(by)), torch.zeros(5, 4))
    assert (found.params, found.params_dense, found.macs, found.macs_dense) == (3, 24, 3, 24)
    assert found.layers[0].support == "sparse"


@pytest.mark.parametrize("support", ["PSD4_P8", "pSC1", "2:4"])
def test_operators_in_parts_give_the_same_counts(support):
    """Where a model needs autograd inside, sparse operators arrive as a scatter and a dense convolution."""
    model = precut.sparsify(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=2, stride=2)), support)
    x = torch.zeros(2, 3, 9, 9)
    whole, parts = (_run(model, (x,), below_autograd=flag) for flag in (True, False))
    assert [vars(call) for call in whole.calls] == [vars(call) for call in parts.calls]
    assert sum(call.macs for call in whole.calls) < sum(call.macs_dense for call in whole.calls)


class NeedsAutograd(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            y = x.clone().requires_grad_()
            return torch.autograd.grad((y @ y).sum(), y)[0]


def test_a_model_that_differentiates_inside():
    assert summary(NeedsAutograd(), torch.zeros(3, 3)).macs * 3 == 3 * 27


def test_sparse_tensors_count_what_is_stored():
    class Eye(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sparse.mm(torch.eye(4).to_sparse(), x.t()).t()

    assert summary(Eye(), torch.zeros(1, 4)).macs == 4


library = torch.library.Library("precut_tests", "DEF")
library.define("blur(Tensor image, int size) -> Tensor")
library.define("mix(Tensor image) -> Tensor")
for _name, _function in (("blur", lambda image, size: image + size), ("mix", lambda image: image * 2)):
    library.impl(_name, _function, "CompositeExplicitAutograd")


class Custom(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.precut_tests.blur(torch.ops.precut_tests.mix(torch.ops.precut_tests.mix(x)), 3)


def test_an_opaque_operator_is_listed_until_it_has_a_formula():
    model = nn.Sequential(Custom(), nn.Flatten(), nn.Linear(16, 2))
    found = summary(model, torch.zeros(2, 1, 4, 4))
    assert found.macs == 32
    assert found.not_counted == [
        {"op": "precut_tests::mix", "layer": "0", "calls": 2},
        {"op": "precut_tests::blur", "layer": "0", "calls": 1},
    ]
    assert str(found).splitlines()[-2:] == [
        "not counted: precut_tests::mix in 0 (2 calls); add a formula with precut.measure.count_macs",
        "not counted: precut_tests::blur in 0; add a formula with precut.measure.count_macs",
    ]
    count_macs("precut_tests::mix")(lambda out, image: 0)
    count_macs("precut_tests::blur")(lambda out, image, size: (out.numel() * size, out.numel() * 10))
    found = summary(model, torch.zeros(2, 1, 4, 4))
    assert found.not_counted == []
    assert (found.macs, found.macs_dense) == (32 + 48, 32 + 160)


def test_torch_operators_without_a_count_are_listed():
    class Spectrum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.inv(torch.fft.rfft(x, dim=0).abs() + torch.eye(4))

    listed = [item["op"] for item in summary(Spectrum(), torch.randn(2, 4, 4)).not_counted]
    assert listed == ["aten::_fft_r2c", "aten::linalg_inv_ex"]


@given(st.integers(1, 6))
@settings(max_examples=6, deadline=None)
def test_macs_are_those_of_one_example(batch):
    model = precut.sparsify(precut.create_model("resnet8"), "PS4_P4")
    assert summary(model, torch.zeros(batch, 3, 32, 32)).macs == summary(model, torch.zeros(1, 3, 32, 32)).macs


def test_channels_last_and_half_precision():
    model = precut.sparsify(precut.create_model("resnet8"), "PS4_P4")
    plain = summary(model, torch.zeros(1, 3, 32, 32))
    half = summary(
        model.to(torch.bfloat16, memory_format=torch.channels_last),
        torch.zeros(1, 3, 32, 32, dtype=torch.bfloat16).to(memory_format=torch.channels_last),
    )
    assert (half.macs, half.params, half.bytes) == (plain.macs, plain.params, plain.bytes // 2)


@pytest.mark.slow  # the compiler takes seconds to import
def test_a_compiled_model_counts_as_it_is():
    model = precut.sparsify(precut.create_model("resnet8"), "PS4_P4")
    x = torch.zeros(1, 3, 32, 32)
    plain, compiled = summary(model, x), summary(torch.compile(model, backend="eager"), x)
    assert compiled.to_dict() == plain.to_dict()
