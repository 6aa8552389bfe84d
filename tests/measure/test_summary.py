"""The summary as a table and as data, what it leaves untouched, and its errors."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import precut
from golden import check_golden
from precut.errors import PrecutError
from precut.measure import count_macs, summary

GOLDEN = Path(__file__).parent / "golden"
IMAGES = torch.zeros(2, 3, 32, 32)


class Odd(nn.Module):
    """A bit of everything that a table must place: functional weights, a module used twice, one never used."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, bias=False)
        self.kernels = nn.ParameterList([torch.zeros(8, 8, 1, 1)])
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.PReLU())
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)
        self.unused = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.conv2d(self.stem(x), self.kernels[0])
        x = self.block(self.block(x)).mean(2).transpose(1, 2)
        return self.head(self.attend(x, x, x, need_weights=False)[0]).mean(1)


def masked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 2))
    prune.ln_structured(model[0], "weight", amount=0.5, n=1, dim=0)
    return model


TABLES = {
    "resnet20_PS4_P4": (lambda: precut.sparsify(precut.create_model("resnet20"), "PS4_P4"), None),
    "resnet18_PSD1_P16_depth2": (lambda: precut.sparsify(precut.create_model("resnet18"), "PSD1_P16"), 2),
    "odd": (Odd, None),
    "masked": (masked, None),
}


@pytest.mark.parametrize("name", TABLES)
def test_table(name):
    make, depth = TABLES[name]
    text = str(summary(make(), IMAGES, depth=depth))
    check_golden(text, GOLDEN / f"summary_{name}.txt")
    assert max(map(len, text.splitlines())) <= 120


def test_data():
    model = precut.sparsify(precut.create_model("resnet20"), "PS4_P4")
    found = summary(model, IMAGES)
    data = json.loads(found.to_json())
    for key in ("params", "params_dense", "macs", "macs_dense"):
        assert data[key] == getattr(found, key) == sum(row[key] for row in data["layers"])
    assert found.params == sum(p.numel() for p in model.parameters())
    assert found.params_dense == sum(p.numel() for p in precut.create_model("resnet20").parameters())
    names = dict(model.named_modules())
    assert all(row["name"] in names for row in data["layers"])
    assert data["layers"][0]["output_shape"] == [2, 16, 32, 32]
    assert data["batch"] == 2
    assert json.loads(found.table().to_json())["totals"][0]["macs"] == found.macs


def test_depths_add_up():
    found = summary(precut.sparsify(precut.create_model("resnet20"), "PSD2_P8"), IMAGES)
    for depth in (None, 1, 2, 3, 9):
        rows = found.table(depth).rows
        for key in ("params", "params_dense", "macs", "macs_dense"):
            assert sum(row[key] for row in rows) == getattr(found, key)


def test_parametrizations_belong_to_their_layer():
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))
    assert [(row.name, row.op, row.params, row.macs) for row in summary(model, IMAGES).layers] == [
        ("0", "conv2d", 3 * 4 * 9 + 4 + 4, 3 * 4 * 9 * 900)
    ]


def test_wrong_depth_table():
    found = summary(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(PrecutError):
        found.table(0)


class Stateful(nn.Module):
    """Draws random numbers, counts its calls, notes its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.register_buffer("calls", torch.zeros(()))
        self.cached: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.cached = torch.rand(4, 1, 1)
        assert not self.training
        return self.conv(x) * self.cached


def test_the_model_is_left_as_it_was():
    model = Stateful()
    model.conv[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    fast, grad = torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled()
    summary(model, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert (torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled()) == (fast, grad)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    (model.conv(torch.zeros(2, 3, 8, 8)) * model.cached).sum().backward()  # what it cached can still be trained with


def test_the_model_is_left_as_it_was_after_an_error():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(7, 2)).train()
    with pytest.raises(PrecutError):
        summary(model, IMAGES)
    assert model.training
    assert all(module.training and not module._forward_hooks for module in model.modules())


class Pair(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor, scale: float) -> dict[str, torch.Tensor]:
        return {"out": x @ y * scale}


def test_several_inputs():
    assert summary(Pair(), (torch.zeros(2, 3, 4), torch.zeros(2, 4, 5), 2.0)).macs == 60


WRONG = {
    "shape": (
        lambda: summary(nn.Linear(2, 2), (1, 2)),
        "example_inputs must be a tensor or a tuple of tensors; got the shape (1, 2): pass torch.zeros(1, 2)",
    ),
    "string": (
        lambda: summary(nn.Linear(2, 2), "x"),
        "example_inputs must be a tensor or a tuple of tensors, batch first; got str 'x'",
    ),
    "nothing": (
        lambda: summary(nn.Linear(2, 2), ()),
        "example_inputs must be a tensor or a tuple of tensors, batch first; got tuple ()",
    ),
    "empty batch": (
        lambda: summary(nn.Linear(2, 2), torch.zeros(0, 2)),
        "example_inputs holds no example: its shape is (0, 2)",
    ),
    "class": (
        lambda: summary(nn.Linear, torch.zeros(1, 2)),
        "summary takes an nn.Module; got type <class 'torch.nn.modules.linear.Linear'>: pass an instance, Linear(...)",
    ),
    "function": (lambda: summary(3, torch.zeros(1, 2)), "summary takes an nn.Module; got int 3"),
    "lazy": (
        lambda: summary(nn.LazyLinear(2), torch.zeros(1, 2)),
        "parameter 'weight' has no shape yet (a lazy layer): run the model once first",
    ),
    "wrong shape": (
        lambda: summary(nn.Linear(2, 2), torch.zeros(1, 3)),
        "Linear cannot run on example_inputs of shape (1, 3): RuntimeError: mat1 and mat2 shapes cannot be multiplied "
        "(1x3 and 2x2)",
    ),
    "depth": (
        lambda: summary(nn.Linear(2, 2), torch.zeros(1, 2), depth=0),
        "depth (levels of the module tree) must be a whole number of at least 1; got 0",
    ),
    "formula name": (lambda: count_macs("relu"), "an operator's name has the form 'namespace::name'; got 'relu'"),
    "second formula": (
        lambda: count_macs("aten::linear")(len),
        "operator 'aten::linear' is registered already; choose another name",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use(case):
    call, message = WRONG[case]
    with pytest.raises(PrecutError) as caught:
        call()
    assert str(caught.value) == message


library = torch.library.Library("precut_summary_tests", "DEF")
library.define("half(Tensor x) -> Tensor")
library.impl("half", lambda x: x / 2, "CompositeExplicitAutograd")


def test_a_formula_that_returns_nonsense():
    class Half(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.precut_summary_tests.half(x)

    count_macs("precut_summary_tests::half")(lambda out, x: 1.5)
    with pytest.raises(PrecutError) as caught:
        summary(Half(), torch.zeros(1, 2))
    assert str(caught.value) == (
        "the formula of operator 'precut_summary_tests::half' must return the number of multiply-adds, or (done, "
        "dense), as ints from 0; got 1.5"
    )
