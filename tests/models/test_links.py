"""Networks with random links: the published ones bit for bit, the right ones uniform, and what they compute."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precut
from precut import create_model
from precut.models._links import Links, draw_links
from topology.facts import REFERENCE, formula_inputs, formula_mlp


@pytest.mark.parametrize("row", REFERENCE["mlp"], ids=lambda row: f"{row['width']}-{row['depth']}-{row['tc']}")
def test_published_mlps(row: dict[str, Any]) -> None:
    """Links, parameters and outputs of the authors' network."""
    model = formula_mlp(row)
    links = [model.links[str(i)].index.tolist() if str(i) in model.links else [] for i in range(row["depth"])]
    assert links == row["links"]
    assert sum(p.numel() for p in model.parameters()) == row["params_linear"]
    with torch.no_grad():
        assert float(model(formula_inputs(row)).sum()) == pytest.approx(row["formula_forward_sum"], rel=1e-5)


@pytest.mark.parametrize("row", REFERENCE["cnn"], ids=lambda row: f"{row['cell_depth']}-{row['tc'][0]}")
def test_published_densenets(row: dict[str, Any]) -> None:
    """``official=True`` is the authors' network, weights of seed 0 and links of theirs included."""
    torch.manual_seed(0)
    model = create_model(
        "random_densenet", num_classes=row["classes"], depth=row["cell_depth"], widths=row["widths"], links=row["tc"],
        official=True,
    ).eval()  # fmt: skip
    x = torch.sin(0.1 * torch.arange(1, 3 * 32 * 32 + 1).double()).reshape(1, 3, 32, 32).float()
    counts = precut.summary(model, x)
    assert (counts.params, counts.macs) == (row["params"], row["macs_conv_linear"])
    with torch.no_grad():
        assert model(x)[0].tolist() == pytest.approx(row["seed0_eval_logits"], abs=2e-6)


def test_published_depthwise_parameters() -> None:
    """The authors' log and table: 867,656 and 991,162 parameters, 128.68 M and 147.38 M multiply-adds."""
    for depth, links, params, macs in ((13, [40, 80, 125], 867_656, 128.68), (16, [30, 60, 90], 991_162, 147.38)):
        model = create_model("random_densenet", depth=depth, links=links, depthwise=True, official=True)
        counts = precut.summary(model, torch.zeros(1, 3, 32, 32))
        assert counts.params == params
        assert round(counts.macs / 1e6, 2) == macs


def by_hand(cell: nn.Module, x: Tensor, picks: list[list[int]], official: bool) -> Tensor:
    """A cell written with one concatenation of all that may be linked."""
    made = [cell.layers[0](x)]
    for i, layer in enumerate(cell.layers):
        if i == 0:
            continue
        pool = torch.cat((made if official else made[:-1])[::-1] or [made[-1]], 1)
        order = cell.links[str(i)].order if str(i) in cell.links else []
        made.append(layer(torch.cat([made[-1], pool[:, [picks[i][k] for k in order]]], 1)))
    return made[-1]


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("depthwise", [False, True])
def test_links_pick_what_was_drawn(depthwise: bool, official: bool) -> None:
    torch.manual_seed(1)
    model = create_model(
        "random_densenet", widths=[6, 8], links=[7, 30], depth=6, depthwise=depthwise, official=official, seed=5
    ).eval()
    generator = random.Random(5)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        for cell, width, links in zip(model.cells, (6, 8), (7, 30), strict=True):
            picks = draw_links(width, 6, links, generator)
            torch.testing.assert_close(cell(x), by_hand(cell, x, picks, official))
            x = cell(x)


def test_the_published_links_miss_layer_0_and_repeat_the_direct_input() -> None:
    wrong = create_model("random_densenet", widths=[8], depth=7, links=12, official=True).cells[0]
    right = create_model("random_densenet", widths=[8], depth=7, links=12).cells[0]
    for number in range(2, 7):
        # Sources are counted back from the newest layer that may be linked.
        reached = {number - 1 - source for source in wrong.links[str(number)].sources}
        assert 0 not in reached
        assert {number - 2 - source for source in right.links[str(number)].sources} <= set(range(number - 1))
    assert wrong.links["2"].sources == [0]  # of layer 1, which layer 2 reads anyway


def test_links_are_uniform_without_repetition() -> None:
    """4,000 draws of 3 of 16 channels: each comes 750 times, to within five standard deviations."""
    counts: Counter[int] = Counter()
    for seed in range(4000):
        drawn = draw_links(8, 4, 3, random.Random(seed))[3]
        assert len(set(drawn)) == 3
        counts.update(drawn)
    assert set(counts) == set(range(16))
    spread = math.sqrt(4000 * 3 / 16 * 13 / 16)
    assert all(abs(count - 750) < 5 * spread for count in counts.values())


def test_seeds_are_their_own() -> None:
    random.seed(7)
    torch.manual_seed(7)
    before = random.getstate(), torch.get_rng_state()
    with torch.device("meta"):
        create_model("random_densenet")
    assert random.getstate() == before[0]

    def links(**kwargs: Any) -> list[Tensor]:
        return [buffer for name, buffer in create_model("random_densenet", **kwargs).named_buffers() if "from_" in name]

    def same(a: list[Tensor], b: list[Tensor]) -> bool:
        return len(a) == len(b) and all(map(torch.equal, a, b))

    assert same(links(), links(seed=0))
    assert not same(links(seed=1), links(seed=0))
    assert same(links(official=True), links(official=True, seed=2))


def test_links_travel_with_the_network(tmp_path: Any) -> None:
    """Buffers: in the state, on the device, of the checkpoint, and never trained."""
    model = create_model("random_densenet", widths=[8, 8], links=6, depth=4, seed=3)
    names = [name for name, _ in model.named_buffers() if "from_" in name]
    assert set(names) <= set(model.state_dict())
    assert all(not model.state_dict()[name].is_floating_point() for name in names)
    precut.save(model, tmp_path / "m.safetensors")
    again = precut.load(tmp_path / "m.safetensors")
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(again.eval()(x), model.eval()(x))
    assert model.to("meta").state_dict()[names[0]].is_meta


def test_elu_is_where_the_authors_have_it() -> None:
    model = create_model("dense_mlp", in_features=3, width=4, depth=4, links=2, num_classes=2)
    a, b, c, d = (module for module in model.modules() if isinstance(module, nn.Linear))
    x = torch.randn(5, 3)
    first = F.elu(a(x))
    second = b(first)
    third = c(F.elu(torch.cat([second, first[:, model.links["2"].index]], 1)))
    last = d(torch.cat([third, torch.cat([second, first], 1)[:, model.links["3"].index]], 1))
    torch.testing.assert_close(model(x), last)


def test_images_are_flattened_and_sizes_change() -> None:
    model = create_model("dense_mlp", in_channels=1, input_size=4, depth=3)
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(model(x), model(x.flatten(1)))
    net = create_model("random_densenet", widths=[8, 8], links=2, depth=3).eval()
    assert [net(torch.randn(1, 3, size, size)).shape for size in (32, 20, 48)] == [(1, 10)] * 3


def test_a_layer_without_links() -> None:
    joined = Links([], 4)
    x = torch.randn(1, 4)
    assert torch.equal(joined(x, [x]), x)
    model = create_model("random_densenet", widths=[8], links=0, depth=4)
    assert len(model.cells[0].links) == 0
