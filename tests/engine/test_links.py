"""Channel gathers on the engine: networks with random links, whole and with links cut away."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precut
from precut import runtime
from precut.graph import capture, take

pytestmark = pytest.mark.skipif(not runtime.available(), reason="the native library was not built")


def compiled_gap(model: nn.Module, x: Tensor) -> float:
    """Largest difference to torch, as a share of the largest output; the whole network must run natively."""
    compiled = precut.compile(model.eval(), x, threads=1, autotune=False)
    assert "run in torch" not in str(compiled.explain())
    with torch.no_grad():
        want = model(x)
    return float((compiled(x) - want).abs().max() / want.abs().max())


class Picks(nn.Module):
    """Two gathers of one value meet in a concatenation, and the value is read again afterwards."""

    def __init__(self, width: int, first: list[int], second: list[int]) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        reads = width + len(first) + len(second)
        self.norm, self.three = nn.BatchNorm2d(reads), nn.Conv2d(reads, width, 3, padding=1)
        self.last = nn.Conv2d(width, 5, 1)
        self.register_buffer("first", torch.tensor(first))
        self.register_buffer("second", torch.tensor(second))
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.one(x)
        parts = [self.two(a.relu()), a.index_select(1, self.first), a.index_select(1, self.second)]
        return self.last(self.three(self.norm(torch.cat(parts, 1)).relu()) + a)


@pytest.mark.parametrize("width", [8, 16, 24, 40])
@pytest.mark.parametrize(
    ("first", "second"), [([1, 6, 3], [4]), ([1, 6, 3], [4, 3, 0, 7, 2]), ([5], [5]), (list(range(8)), [7, 6, 5])]
)
def test_gathers_that_share_a_value(width: int, first: list[int], second: list[int]) -> None:
    torch.manual_seed(0)
    assert compiled_gap(Picks(width, first, second), torch.randn(2, 3, 9, 9)) < 1e-5


NETWORKS = {
    "mlp": ("dense_mlp", {"depth": 12, "links": 7}),
    "few": ("random_densenet", {"widths": [8, 16], "depth": 6, "links": [3, 7]}),
    "many": ("random_densenet", {"widths": [8, 24], "depth": 5, "links": 60}),
    "depthwise": ("random_densenet", {"widths": [8, 16, 24], "depth": 6, "links": [3, 5, 9], "depthwise": True}),
    "published": ("random_densenet", {"widths": [16, 32], "depth": 6, "links": [9, 20], "official": True}),
    "none": ("random_densenet", {"widths": [8, 16], "depth": 4, "links": 0}),
}


@pytest.mark.parametrize("support", ["dense", "PSD4_P8"])
@pytest.mark.parametrize("case", NETWORKS)
def test_random_links(case: str, support: str) -> None:
    name, kwargs = NETWORKS[case]
    torch.manual_seed(0)
    model = precut.create_model(name, **kwargs)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    if support != "dense" and name != "dense_mlp" and case != "depthwise":
        model = precut.sparsify(model, support)
    assert compiled_gap(model, torch.randn(2, 3, 32, 32)) < 2e-5


@pytest.mark.parametrize("seed", range(4))
def test_networks_that_lost_links_still_run_whole(seed: int) -> None:
    """Half of all channels go, and with them some indices' last entries: what picks nothing is left out."""
    torch.manual_seed(0)
    model = precut.create_model("random_densenet", widths=[8, 8], depth=6, links=2).eval()
    x = torch.randn(2, 3, 32, 32)
    spaces = capture(model, x).spaces
    generator = torch.Generator().manual_seed(seed)
    kept = {
        space: torch.randperm(space.size, generator=generator)[: max(1, space.size // 2)]
        for space in spaces
        if space.frozen is None and space.droppable
    }
    small = take(model, kept)
    assert any(len(buffer) == 0 for name, buffer in small.named_buffers() if "from_" in name)
    assert compiled_gap(copy.deepcopy(small), x) < 1e-5


class Made(nn.Module):
    """A random network of convolutions, gathers of anything before, concatenations, additions and activations."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.steps: list[tuple[Any, ...]] = []
        self.layers = nn.ModuleList()
        sizes = [3]
        width = draw.choice([8, 12, 16, 24, 40])
        for number in range(draw.randint(6, 15)):
            kind = draw.choice(["conv", "pick", "pick", "cat", "add", "relu"]) if number else "conv"
            source = draw.randrange(1, len(sizes)) if number else 0
            if kind == "conv":
                made = draw.choice([width, width, 8, 5, 17]) if number else width
                self.layers.append(nn.Conv2d(sizes[source], made, 3, padding=1))
                self.steps.append((kind, source, len(self.layers) - 1))
            elif kind == "pick":
                made = draw.randint(1, sizes[source])
                index = draw.sample(range(sizes[source]), made)
                if draw.random() < 0.15:
                    index = [draw.randrange(sizes[source]) for _ in index]
                self.register_buffer(f"index_{number}", torch.tensor(index))
                self.steps.append((kind, source, f"index_{number}"))
            elif kind == "cat":
                parts = [draw.randrange(1, len(sizes)) for _ in range(draw.randint(2, 3))]
                made = sum(sizes[part] for part in parts)
                self.steps.append((kind, parts))
            else:
                made = sizes[source]
                other = draw.choice([k for k in range(1, len(sizes)) if sizes[k] == made])
                self.steps.append((kind, source, other))
            sizes.append(made)
        self.ends = [len(sizes) - 1, *(draw.randrange(1, len(sizes)) for _ in range(2))]
        self.heads = nn.ModuleList(nn.Conv2d(sizes[end], 4, 1) for end in self.ends)

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        for kind, source, *rest in self.steps:
            if kind == "conv":
                made.append(self.layers[rest[0]](made[source]))
            elif kind == "pick":
                made.append(made[source].index_select(1, getattr(self, rest[0])))
            elif kind == "cat":
                made.append(torch.cat([made[part] for part in source], 1))
            else:
                made.append(made[source] + made[rest[0]] if kind == "add" else made[source].relu())
        return sum(head(made[end]) for head, end in zip(self.heads, self.ends, strict=True))


@pytest.mark.parametrize("seed", [*range(60), *(pytest.param(k, marks=pytest.mark.slow) for k in range(60, 400))])
def test_made_up_networks(seed: int) -> None:
    torch.manual_seed(seed)
    assert compiled_gap(Made(seed), torch.randn(2, 3, 7, 7)) < 2e-5
