"""What prune keeps, what it gives back, and how it says no."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import precut
from precut.errors import PrecutError
from precut.layers import SparseConv2d, SparseLinear
from precut.ops import reference_only
from precut.pruning import allocations, as_masks, score_weights
from precut.pruning._select import Piece, keep_above, keep_highest

X = torch.zeros(1, 3, 8, 8)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1, groups=4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip


def wrong(message: str, *args: object, **options: object) -> None:
    with pytest.raises(PrecutError) as raised:
        precut.prune(*args, **options)  # type: ignore[arg-type]
    assert str(raised.value) == message


# ---- selection -------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 0.5, 1.0, 3.0]), min_size=1, max_size=60),
    cut=st.integers(0, 60),
    share=st.floats(0, 1),
    hole=st.integers(0, 5),
)
def test_the_highest_are_kept_and_of_equal_ones_the_first(
    values: list[float], cut: int, share: float, hole: int
) -> None:
    """Against a stable sort."""
    flat = torch.tensor(values)
    alive = torch.arange(len(values)) % (hole + 2) != hole
    pieces = [flat[: cut % len(values)], flat[cut % len(values) :]]
    masks = [alive[: cut % len(values)], alive[cut % len(values) :]]
    for living in (None, masks):
        there = [i for i in range(len(values)) if living is None or alive[i]]
        k = round(share * len(there))
        expected = sorted(sorted(there, key=lambda i: -values[i])[:k])
        found = torch.cat(keep_highest(pieces, k, living)).nonzero().squeeze(1).tolist()
        assert found == expected


@pytest.mark.parametrize("shape", ["normal", "ties", "zeros", "sorted", "one high"])
@pytest.mark.parametrize("k", [1, 2, 1000, 150_000, 299_999, 300_000])
def test_selection_among_many(shape: str, k: int) -> None:
    """Enough numbers for the sample to lead, or to mislead."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(300_000, generator=generator, dtype=torch.float64)
    if shape == "ties":
        flat = (flat * 3).round()
    elif shape == "zeros":
        flat = torch.where(torch.rand(300_000, generator=generator) < 0.99, 0.0, flat)
    elif shape == "sorted":
        flat = flat.sort().values
    elif shape == "one high":  # where the sample's stride never looks
        flat = torch.where(torch.arange(300_000) % 9 == 1, flat + 100, flat)
    other = torch.rand(300_000, generator=generator, dtype=torch.float64) + 0.5
    for pieces, numbers in (
        ([flat[:7], flat[7:200_000].view(-1, 1), flat[200_000:]], flat),
        ([Piece(flat, other)], flat * other),
    ):
        expected = torch.zeros(300_000, dtype=torch.bool)
        expected[numbers.argsort(descending=True, stable=True)[:k]] = True
        assert torch.equal(torch.cat([mask.flatten() for mask in keep_highest(pieces, k)]), expected)


def test_the_published_rule_drops_all_ties() -> None:
    scores = [torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0, 0.0])]
    assert [mask.tolist() for mask in keep_above(scores, 0)] == [[True, True], [True, True, True]]
    assert [mask.tolist() for mask in keep_above(scores, 3)] == [[False, False], [False, True, False]]


# ---- allocation ------------------------------------------------------------------------------------------------------


def shares(report: object) -> dict[str, float]:
    return {name: report.kept[name] / report.dense[name] for name in report.kept}  # type: ignore[attr-defined]


def test_uniform() -> None:
    _, report = precut.prune(net(), "random", 0.25, X, "uniform")
    assert report.kept == {"0": 54, "3": 36, "7": 20}


def test_erdos_renyi_by_hand() -> None:
    """Densities in proportion to (in + out [+ kernel]) / (in x out [x kernel]), a full layer's surplus to the others."""
    model = nn.Sequential(nn.Conv2d(2, 64, 3, bias=False), nn.Conv2d(64, 64, 5, bias=False), nn.Conv2d(64, 4, 1))
    x = torch.zeros(1, 2, 9, 9)
    _, report = precut.prune(model, "random", 0.1, x, "erdos-renyi-kernel")
    raw = {"0": (64 + 2 + 6) / (64 * 2 * 9), "1": (64 + 64 + 10) / (64 * 64 * 25), "2": (64 + 4 + 2) / (64 * 4)}
    total = 1152 + 102_400 + 256
    assert report.kept["2"] == 256  # both outer layers are full
    assert report.kept["0"] == 1152
    assert report.kept["1"] == math.ceil(0.1 * total) - 1152 - 256
    _, report = precut.prune(model, "random", 0.005, x, "erdos-renyi-kernel")
    found = shares(report)
    assert found["0"] / found["1"] == pytest.approx(raw["0"] / raw["1"], rel=0.02)
    assert found["2"] / found["1"] == pytest.approx(raw["2"] / raw["1"], rel=0.02)
    _, report = precut.prune(model, "random", 0.005, x, "erdos-renyi")
    found = shares(report)
    assert found["0"] / found["1"] == pytest.approx((66 / 128) / (128 / 4096), rel=0.02)


def test_densities_by_hand_and_copied() -> None:
    model = net()
    given = {"0": 1.0, "[37]": 0.2}
    _, report = precut.prune(model, "random", None, X, given)
    assert report.kept == {"0": 216, "3": 29, "7": 16}
    assert report.density is None
    _, scaled = precut.prune(model, "random", 0.1, X, given)
    assert scaled.k == math.ceil(0.1 * 440)
    assert scaled.kept["0"] / 216 == pytest.approx(5 * scaled.kept["3"] / 144, rel=0.15)
    for other in (report, report.masks(), report.kept and {n: k / report.dense[n] for n, k in report.kept.items()}):
        _, again = precut.prune(model, "random", None, X, other, seed=9)
        assert again.kept == report.kept
        assert not torch.equal(again.masks()["3"], report.masks()["3"])


class Wide(nn.Module):
    """One layer of 100 x 100 weights and 25 of 15."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(100, 100)
        self.b = nn.ModuleList([nn.Linear(3, 5) for _ in range(25)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)[:, :3]
        return torch.stack([layer(y) for layer in self.b]).sum(0)


def test_densities_without_a_density_are_taken_as_they_are() -> None:
    x = torch.zeros(1, 100)
    _, report = precut.prune(Wide(), "magnitude", None, x, {"a": 0.01, "b.*": 0.1})
    assert report.kept == {"a": 100, **{f"b.{number}": 2 for number in range(25)}}
    two, x = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10)), torch.zeros(1, 10)
    _, report = precut.prune(two, "magnitude", None, x, {"0": 0.5, "1": 0.07})
    assert report.kept == {"0": 50, "1": 7}  # though 0.07 * 100 is a little more than 7
    masks = report.masks()
    assert precut.prune(two, "random", None, x, masks)[1].kept == report.kept
    assert precut.prune(two[:1], "magnitude", 0.07, x)[1].k == 7
    for allocation in ("uniform", "erdos-renyi", "erdos-renyi-kernel"):
        wrong(
            "density is needed where the allocation gives none of its own; a number above 0, up to 1",
            *(two, "random", None, x, allocation),
        )


def test_random_with_the_densities_of_synflow() -> None:
    model = net()
    _, synflow = precut.prune(model, "synflow", 0.1, X, rounds=100)
    _, report = precut.prune(model, "random", 0.1, X, "like:synflow")
    assert report.kept == synflow.kept
    _, copied = precut.prune(model, "random", 0.1, X, synflow)
    assert copied.kept == synflow.kept


def test_min_per_layer() -> None:
    model = net()
    with torch.no_grad():
        model[3].weight.mul_(1e-3)
    _, free = precut.prune(model, "magnitude", 0.1, X)
    assert free.kept["3"] == 0
    assert free.empty == ["3"]
    assert free.held == {}
    for rounds in (1, 6):
        _, held = precut.prune(model, "magnitude", 0.1, X, rounds=rounds, min_per_layer=5)
        assert held.kept["3"] == 5
        assert held.k == free.k
        assert held.held == {name: 5 - kept for name, kept in free.kept.items() if kept < 5}
        assert "min_per_layer kept weights that would have gone: 0 (4), 3 (5)" in str(held)
    best = model[3].weight.detach().abs().flatten().topk(5).indices
    assert held.masks()["3"].flatten()[best].all()
    _, each = precut.prune(model, "magnitude", None, X, {"0": 0.5, "3": 0.0, "7": 0.1}, min_per_layer=4)
    assert each.kept == {"0": 104, "3": 4, "7": 8}
    assert each.held == {"3": 4}
    wrong(
        "min_per_layer=20 asks for 60 weights in 3 layers; the density leaves 44",
        *(model, "magnitude", 0.1, X),
        min_per_layer=20,
    )


def test_rounds_and_schedules() -> None:
    seen: list[tuple[int, int, int]] = []
    for schedule, middle in (("exponential", 0.1), ("linear", 0.505), (lambda done, density: 0.3, 0.3)):
        seen.clear()
        precut.prune(net(), "magnitude", 0.01, X, rounds=2, schedule=schedule, on_round=lambda *told: seen.append(told))
        assert seen == [(1, 2, math.ceil(middle * 440)), (2, 2, 5)]
    wrong(
        "what the schedule gives at 0.5 must be a density from 0 to 1; got 2.0",
        *(net(), "magnitude", 0.1, X),
        rounds=2,
        schedule=lambda done, density: 2.0,
    )


# ---- the model -------------------------------------------------------------------------------------------------------


def test_the_model_holds_the_kept_weights_and_nothing_else(tmp_path: Path) -> None:
    model = precut.create_model("resnet8", in_channels=1, input_size=28)
    x = torch.zeros(1, 1, 28, 28)
    pruned, report = precut.prune(model, "synflow", 0.05, x, rounds=20)
    held = {name: layer for name, layer in pruned.named_modules() if isinstance(layer, (SparseConv2d, SparseLinear))}
    assert {name: layer.weight.numel() for name, layer in held.items()} == report.kept
    assert all(torch.equal(mask, as_masks(pruned)[name]) for name, mask in as_masks(report).items())
    modules = dict(model.named_modules())
    for name, layer in held.items():
        assert torch.equal(layer.dense_weight(), modules[name].weight * layer.support.mask())
    sizes = sum(p.numel() for p in model.parameters()) - report.size + report.k
    assert sum(p.numel() for p in pruned.parameters()) == sizes
    counts = precut.summary(pruned, x)
    assert (counts.params, counts.params_dense) == (sizes, sizes - report.k + report.size)
    path = precut.save(pruned, tmp_path / "pruned.safetensors")
    again = precut.load(path)
    batch = torch.randn(3, 1, 28, 28)
    assert torch.equal(again(batch), pruned.eval()(batch))
    # One step moves the kept weights and nothing else.
    pruned.train()
    optimizer = torch.optim.SGD(precut.param_groups(pruned), lr=0.1)
    nn.functional.cross_entropy(pruned(batch), torch.arange(3)).backward()
    optimizer.step()
    assert {name: int((layer.dense_weight() != 0).sum()) for name, layer in held.items()} == report.kept


def test_empty_layers_run_save_and_load(tmp_path: Path) -> None:
    model = precut.create_model("resnet8", in_channels=1, input_size=28)
    x = torch.randn(2, 1, 28, 28)
    pruned, report = precut.prune(model, "random", None, x, {"stages.1.*": 0.0, "*": 0.5})
    assert len(report.empty) == 3
    assert "layer collapse: 3 of 10 layers are empty" in str(report)
    assert torch.equal(precut.load(precut.save(pruned, tmp_path / "a.safetensors"))(x), pruned.eval()(x))


class Odd(nn.Module):
    """Shared, frozen, transposed, 1-D and 3-D layers, and a weight that an embedding shares."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.tied = nn.Conv2d(4, 4, 3, padding=1)
        self.tied.weight = self.twice.weight
        self.up = nn.ConvTranspose2d(4, 4, 2, 2, groups=2)
        self.frozen = nn.Conv2d(4, 2, 3).requires_grad_(False)
        self.line = nn.Conv1d(2, 4, 3)
        self.space = nn.Conv3d(1, 2, (1, 3, 3))
        self.table = nn.Embedding(3, 8)
        self.head = nn.Linear(8, 3)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(torch.relu(self.twice(self.first(x))))
        x = torch.relu(self.frozen(self.up(torch.relu(self.tied(x)))))
        x = self.space(x.unsqueeze(1)).flatten(3).mean(1)
        return self.head(torch.cat([self.line(x).mean(2), self.line(x).amax(2)], 1))


@pytest.mark.parametrize("score", ["synflow", "random", "snip"])
def test_odd_layers(score: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Odd().eval()
    data = [(torch.randn(4, 3, 6, 6), torch.arange(4) % 3)]
    pruned, report = precut.prune(model, score, 0.4, torch.zeros(1, 3, 6, 6), data=data)
    assert list(report.kept) == ["first", "twice", "up", "frozen", "line", "space"]
    assert report.notes[0] == "head stays dense: it shares its weight with table"
    assert report.k == math.ceil(0.4 * sum(report.dense.values()))
    assert pruned.tied.weight is pruned.twice.weight
    assert pruned.head.weight is pruned.table.weight
    assert not pruned.frozen.weight.requires_grad
    with torch.no_grad():
        masks = report.masks()
        for name, mask in masks.items():
            model.get_submodule(name).weight.mul_(mask)
    x = torch.randn(2, 3, 6, 6)
    with reference_only():
        assert torch.equal(pruned(x), model(x))
    torch.testing.assert_close(pruned(x), model(x))
    assert (
        sum(p.numel() for p in pruned.parameters())
        == sum(p.numel() for p in model.parameters()) - report.size + report.k
    )
    path = precut.save(pruned, tmp_path / "odd.safetensors")
    for instance in (Odd(), pruned):
        again = precut.load(path, model=instance)
        assert torch.equal(again(x), pruned(x))
        assert again.tied.weight is again.twice.weight
    pruned.train()
    pruned(x).sum().backward()
    assert pruned.up.parametrizations.weight.original.grad.shape == (report.kept["up"], 1)


class Mirror(nn.Module):
    """A decoder that reads its encoder's weight transposed, behind an attention that reads its own projection's."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(6, 2, batch_first=True)
        self.encode = nn.Linear(6, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        seen, _ = self.attend(x, x, x, need_weights=False)
        return F.linear(torch.relu(self.encode(seen)), self.encode.weight.t())


def test_weights_that_other_code_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Mirror().eval()
    x = torch.randn(2, 3, 6)
    pruned, report = precut.prune(model, "magnitude", 0.4, x)
    assert report.kept.keys() == {"attend.out_proj", "encode"}
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        for name, mask in report.masks().items():
            model.get_submodule(name).weight.mul_(mask)
    assert torch.equal(pruned(x), model(x))
    path = precut.save(pruned, tmp_path / "mirror.safetensors")
    assert torch.equal(precut.load(path, model=Mirror())(x), pruned(x))
    with pytest.raises(PrecutError, match=r"'attend\.out_proj' has a weight that other layers read"):
        precut.prune(Mirror(), "magnitude", 0.4, x, structure="block:2")


def test_a_transformer_runs_without_gradients() -> None:
    """Then torch's encoder layer hands its linear layers' weights to one fused function."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8)
    pruned, report = precut.prune(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), "magnitude", 0.4, x)
    assert report.kept.keys() == {"self_attn.out_proj", "linear1", "linear2"}
    expected = pruned.eval()(x)
    with torch.no_grad():
        torch.testing.assert_close(pruned(x), expected)


def test_remove_dead_cuts_channels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)
    )

    def score(network: object) -> dict[str, Tensor]:
        """Channels 2 and 5 of the first layer are made and never read; channel 1 of the second reads what is never
        made."""
        first, second, third = torch.ones(8, 3, 3, 3), torch.ones(6, 8, 3, 3), torch.ones(4, 96)
        second[:, [2, 5]] = 0
        first[7] = 0
        return {"0": first, "2": second, "5": third}

    allocation = {"0": 189 / 216, "2": 324 / 432, "5": 1.0}
    kept, report = precut.prune(model, score, None, X, allocation)
    smaller, told = precut.prune(model, score, None, X, allocation, remove_dead=True)
    assert report.kept == told.kept == {"0": 189, "2": 324, "5": 384}
    assert report.live == {"0": 135, "2": 270, "5": 384}
    assert smaller[0].weight.shape == (5, 27)
    assert smaller[2].weight.shape == (6, 45)
    assert told.dead_removed == 54 + 54
    assert told.channels_removed == 3
    x = torch.randn(4, 3, 8, 8)
    assert torch.allclose(smaller(x), kept(x), atol=1e-6)


def test_wrong_uses() -> None:
    model = net()
    wrong("prune takes an nn.Module; got int 3", 3, "random", 0.1, X)
    wrong(
        "prune needs example_inputs: a tensor of the shape that the model takes, torch.zeros(1, 3, 32, 32)",
        *(model, "random", 0.1),
    )
    wrong(
        "example_inputs must be a tensor, a tuple of arguments or a dict of them, with at least one tensor; got tuple "
        "(1, 3, 8, 8)",
        *(model, "random", 0.1, (1, 3, 8, 8)),
    )
    for density in (0, 1.5, "0.1", True, float("nan")):
        wrong(
            f"density (kept / prunable weights) must be a number above 0 and at most 1; got {density!r}",
            *(model, "random", density, X),
        )
    wrong(
        "density is needed where the allocation gives none of its own; a number above 0, up to 1",
        *(model, "random", None, X),
    )
    wrong("rounds must be a whole number of at least 1; got 0", model, "random", 0.1, X, rounds=0)
    wrong("unknown allocation 'unifrom': did you mean 'uniform'?", model, "random", 0.1, X, "unifrom")
    wrong("unknown schedule 'cubic': choose one of 'exponential', 'linear'", model, "random", 0.1, X, schedule="cubic")
    wrong(
        "allocation must be one of 'global', 'uniform', 'erdos-renyi', 'erdos-renyi-kernel', a dict of densities or masks by "
        "layer, or the report of another pruning; got list [0.1]",
        *(model, "random", 0.1, X, [0.1]),
    )
    wrong(
        "the allocation gives no density for layer '7': add it (names and globs do), or keep the layer dense with "
        "ignored_layers=['7']",
        *(model, "random", 0.1, X, {"[03]": 0.1}),
    )
    wrong(
        "unknown prunable layer in allocation '9': choose one of '0', '3', '7'",
        *(model, "random", 0.1, X, {"9": 0.1, "*": 0.1}),
    )
    wrong("the density of layer '*' must be a number from 0 to 1; got 2", model, "random", 0.1, X, {"*": 2})
    wrong(
        "the allocation has room for 80 weights and 220 are to be kept: densities of 0 stay 0",
        *(model, "random", 0.5, X, {"[03]": 0.0, "7": 0.1}),
    )
    wrong("the densities leave no weight at all", model, "random", None, X, {"*": 0.0})
    wrong(
        "no layer to prune: the model has no convolution or linear layer that is not ignored",
        *(model, "random", 0.1, X),
        ignored_layers="*",
    )
    sparse, _ = precut.prune(model, "random", 0.5, X)
    wrong(
        "layer '0' is sparse already; prune the dense model, or keep this layer as it is: ignored_layers=['0']",
        *(sparse, "random", 0.1, X),
    )
    wrong(
        "official=True follows code that knows allocation='global' or 'uniform', schedule='exponential' or 'linear', no "
        "min_per_layer and no structure; leave the others out",
        *(model, "random", 0.1, X, "erdos-renyi"),
        official=True,
    )
    for options in ({"allocation": {"*": 0.1}}, {"min_per_layer": 3}, {"budget": "macs"}):
        wrong(
            f"structure '2:4' fixes how many weights there are; leave the {next(iter(options))} out",
            *(model, "random", None, X),
            **options,
            structure="2:4",
        )
    wrong(
        "on_round must be a function of (rounds done, rounds, weights left); got 5",
        *(model, "random", 0.1, X),
        on_round=5,
    )
    wrong("loss must be a function of (the model's result, targets); got 'ce'", model, "snip", 0.1, X, loss="ce")
    wrong(
        "what the schedule gives at 0.5 must be a density from 0 to 1; got None",
        *(model, "random", 0.1, X),
        rounds=2,
        schedule=lambda done, density: None,
    )
    with pytest.raises(PrecutError, match="as_masks takes a report of prune, or its model; got int"):
        as_masks(3)  # type: ignore[arg-type]
    with pytest.raises(PrecutError, match="as_masks found no sparse layer in the model"):
        as_masks(model)


LABELS = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize("score", ["snip", "grasp"])
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.zeros(4, 5, 6, 6), LABELS), r"\(4, 5, 6, 6\) torch.float32, \(4,\) torch.int64\): RuntimeError: "),
        (
            (X.expand(4, -1, -1, -1), LABELS + 77),
            r"\(4, .*\) torch.float32, \(4,\) torch.int64\): IndexError: Target 77",
        ),
        ((np.zeros((4, *X.shape[1:]), np.float32), np.zeros(4)), r"\(4, .*\) float32, \(4,\) float64\): TypeError: "),
    ],
)
def test_batches_that_do_not_fit(score: str, batch: tuple[Any, Any], message: str) -> None:
    with pytest.raises(PrecutError, match=f"^the model and its loss do not take this batch of data \\({message}"):
        precut.prune(net(), score, 0.1, X, data=[batch])


def test_scores_that_are_none() -> None:
    with pytest.raises(PrecutError, match=r"^score '<lambda>' must give a dict of tensors by layer; got int$"):
        score_weights(net(), lambda network: 5, X)  # type: ignore[arg-type, return-value]
    with pytest.raises(PrecutError, match=r"^masks holds '0' of shape list, which is no prunable layer's$"):
        score_weights(net(), "magnitude", X, masks={"0": [1]})  # type: ignore[dict-item]


def test_masks_of_layers_without_a_sparse_form() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    pruned, report = precut.prune(model, "magnitude", 0.3, X)
    found = as_masks(pruned)
    assert found.keys() == {"0", "2"}
    assert all(torch.equal(mask, report.masks()[name]) for name, mask in found.items())


def test_numbers_of_numpy_are_densities() -> None:
    assert precut.prune(net(), "random", np.float32(0.25), X)[1].k == 110
    assert precut.prune(net(), "random", None, X, {"*": np.float32(0.5)})[1].k == 220


def test_the_tables_drive_the_lists() -> None:
    assert list(allocations) == ["global", "uniform", "erdos-renyi", "erdos-renyi-kernel"]
    assert sorted(precut.pruning.scores) == sorted(
        ["random", "magnitude", "snip", "grasp", "synflow", "force", "ntk-sap"]
    )
