"""Compiled networks give what torch gives: the zoo, dense and sparse, other batches and sizes, new weights, wrong uses."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import precut
from precut import runtime

pytestmark = pytest.mark.skipif(not runtime.available(), reason="the native library was not built")

SUPPORTS = ["dense", "PS4_P4", "PSD4_P8", "PS2_P4", "PSD1_P16", "PS2_P6", "center_P4", "pSC2"]
ROOT = Path(__file__).parent.parent.parent


def network(name: str, support: str = "dense", seed: int = 0) -> nn.Module:
    """With batch norms that do something: fresh ones are the identity and would hide a wrong fold."""
    torch.manual_seed(seed)
    # The MLP has no convolution that could take a support.
    model = precut.sparsify(
        precut.create_model(name, width_mult=0.5), "dense" if name == "dense_mlp" else support
    ).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(-1, 1.5)
            module.bias.data.normal_(0, 0.2)
    return model


def agree(compiled, model: nn.Module, x: torch.Tensor, bound: float = 2e-5) -> None:
    with torch.no_grad():
        want = model.double()(x.double())
    model.float()
    have = compiled(x)
    assert have.shape == want.shape
    assert (have - want).abs().max() <= bound * max(1.0, want.abs().max().item())


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("name", precut.list_models())
def test_zoo(name, support):
    model = network(name, support)
    x = torch.randn(1, 3, 32, 32)
    compiled = precut.compile(model, x, threads=1, autotune=False)
    agree(compiled, model, x)
    agree(compiled, model, torch.randn(3, 3, 32, 32))


def test_resnet18_is_one_native_call_whose_explanation_counts_right(tmp_path):
    model = network("resnet18", "PSD1_P16")
    x = torch.randn(1, 3, 32, 32)
    compiled = precut.compile(model, x, threads=1, autotune=False)
    table = compiled.explain()
    assert sum(row.get("macs") or 0 for row in table.rows) == precut.summary(model, x).macs
    assert "run in torch" not in str(table)
    compiled.save(tmp_path / "m.precut")
    code = (
        "import sys, numpy as np; from precut import runtime\n"
        f"with runtime.load({str(tmp_path / 'm.precut')!r}, threads=1) as model:\n"
        f"    np.save({str(tmp_path / 'y.npy')!r}, model.run(np.load({str(tmp_path / 'x.npy')!r})))\n"
        "assert 'torch' not in sys.modules\n"
    )
    np.save(tmp_path / "x.npy", x.numpy())
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT / "src")})
    assert np.abs(np.load(tmp_path / "y.npy") - compiled(x).numpy()).max() < 1e-4


def test_other_image_sizes_and_arrays():
    model = network("resnet8", "PS4_P4")
    compiled = precut.compile(model, torch.randn(1, 3, 32, 32), threads=1, autotune=False)
    for size in (17, 28, 40):
        agree(compiled, model, torch.randn(2, 3, size, size))
    array = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    have = compiled(array)
    assert isinstance(have, np.ndarray)
    assert np.array_equal(have, compiled(torch.from_numpy(array)).numpy())


def test_one_image_is_the_same_alone_and_among_many():
    model = network("speednet", "PSD4_P8")
    compiled = precut.compile(model, torch.randn(1, 3, 32, 32), threads=2, autotune=False)
    images = torch.randn(70, 3, 32, 32)
    together = compiled(images)
    alone = torch.cat([compiled(image[None]) for image in images])
    assert (together - alone).abs().max() < 1e-5


def test_new_weights_are_not_served_from_old_ones():
    x = torch.randn(1, 3, 32, 32)
    for seed in range(3):
        model = network("resnet20", "PS2_P4", seed)
        agree(precut.compile(model, x, threads=1, autotune=False), model, x)


class Odd(nn.Module):
    """Operations that the library lacks, between ones that it has."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 24, 3, padding=1)
        self.two = nn.Conv2d(24, 40, 3, padding=2, dilation=2)

    def forward(self, x):
        x = torch.fft.fft2(F.relu(self.one(x))).real
        return self.two(x).amax((2, 3))


def test_what_the_library_lacks_runs_in_torch():
    model = Odd().eval()
    x = torch.randn(2, 3, 8, 8)
    compiled = precut.compile(model, x, threads=1, autotune=False)
    agree(compiled, model, x, 1e-4)
    assert "run in torch" in str(compiled.explain())


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    channels=st.sampled_from([(8, 40), (96, 24), (16, 16), (20, 33)]),
    size=st.sampled_from([7, 14, 28]),
    supports=st.tuples(st.sampled_from(SUPPORTS), st.sampled_from(SUPPORTS)),
    dilation=st.integers(1, 2),
    stride=st.integers(1, 2),
    end=st.sampled_from(["add", "cat", "gate", "prelu"]),
    batch=st.integers(1, 3),
)
def test_made_up_networks(channels, size, supports, dilation, stride, end, batch):
    a, b = channels

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, a, 3, stride, padding=1)
            self.one = made(nn.Conv2d(a, b, 3, padding=dilation, dilation=dilation, bias=False), supports[0])
            self.norm = nn.BatchNorm2d(b)
            self.two = made(nn.Conv2d(b, b, 3, padding=1), supports[1])
            self.prelu = nn.PReLU(b)
            self.head = nn.LazyLinear(5)

        def forward(self, x):
            x = F.silu(self.norm(self.one(F.relu(self.stem(x)))))
            y = self.two(x)
            if end == "add":
                y = F.relu6(y + x)
            elif end == "cat":
                y = torch.cat([x, y], 1)
            elif end == "gate":
                y = y * torch.sigmoid(x.mean((2, 3), keepdim=True))
            else:
                y = self.prelu(y)
            return self.head(F.max_pool2d(y, 2).flatten(1))

    def made(layer, support):
        return precut.sparsify(nn.Sequential(nn.Conv2d(1, 1, 1), layer), support)[1]

    torch.manual_seed(0)
    model = Net().eval()
    x = torch.randn(batch, 3, size, size)
    model(x)
    agree(precut.compile(model, x, threads=1, autotune=False), model, x)


def test_the_published_table_is_the_code():
    from precut.engine import supported_operations

    assert (ROOT / "docs" / "supported-operations.md").read_text() == supported_operations()


def test_reference_can_be_forced(monkeypatch):
    monkeypatch.setenv("PRECUT_OPS", "reference")
    model = network("resnet8")
    x = torch.randn(1, 3, 32, 32)
    compiled = precut.compile(model, x)
    with torch.no_grad():
        assert torch.equal(compiled(x), model(x))


WRONG = {
    "double": (
        lambda m: precut.compile(m.double(), torch.zeros(1, 3, 32, 32).double()),
        "compile needs a float32 model",
    ),
    "threads": (lambda m: precut.compile(m, torch.zeros(1, 3, 32, 32), threads=0), "threads must be"),
    "autotune": (
        lambda m: precut.compile(m, torch.zeros(1, 3, 32, 32), autotune="yes"),
        "autotune must be True or False",
    ),
    "not a module": (lambda m: precut.compile(3, torch.zeros(1, 3, 32, 32)), "capture takes an nn.Module; got int 3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_uses(case):
    act, message = WRONG[case]
    with pytest.raises(precut.PrecutError) as raised:
        act(network("resnet8"))
    assert message in str(raised.value)
