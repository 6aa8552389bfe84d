"""Traffic and modelled energy by hand for small networks."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import precut
from golden import check_golden
from precut.errors import PrecutError
from precut.layers import SparseConv2d
from precut.measure import HOROWITZ_45NM, EnergyConstants, modelled_energy, traffic

GOLDEN = Path(__file__).parent / "golden"


def parts(found):
    return {f"{row.phase} {row.part}": (row.kept, row.dense) for row in found.rows}


def test_two_linear_layers_by_hand():
    """4 -> 6 -> 2 without biases, batch 3, float32: every tensor written out."""
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False))
    w1, w2, x, h, y = 24 * 4, 12 * 4, 12 * 4, 18 * 4, 6 * 4
    found = traffic(model, torch.zeros(3, 4), optimizer="adam")
    forward = (w1 + x + h) + (w2 + h + y)
    expected = {
        "inference weights": w1 + w2,
        "inference activations": (x + h) + (h + y),
        "training forward": forward,
        "training data gradient": w2 + y + h,  # the first layer reads the input, which needs no gradient
        "training weight gradient": (h + x + w1) + (y + h + w2),
        "training optimizer": (w1 + w2) * (3 + 2 * 2),
    }
    assert parts(found) == {name: (value, value) for name, value in expected.items()}
    assert found.total("inference") == (forward, forward)
    assert found.batch == 3


@pytest.mark.parametrize(("optimizer", "moves"), [("sgd", 3), ("sgd_momentum", 5), ("adam", 7), ("adamw", 7)])
def test_a_sparse_layer_moves_what_exists(optimizer, moves):
    layer = SparseConv2d(8, 16, 3, padding=1, bias=False, support="PS4_P4")
    kept, dense = 4 * layer.support.nnz, 4 * layer.support.numel
    x, y = 2 * 8 * 25 * 4, 2 * 16 * 25 * 4
    found = parts(traffic(layer, torch.zeros(2, 8, 5, 5), optimizer))
    assert found["inference weights"] == (kept, dense)
    assert found["inference activations"] == (x + y, x + y)
    assert found["training data gradient"] == (0, 0)
    assert found["training weight gradient"] == (kept + x + y, dense + x + y)
    assert found["training optimizer"] == (moves * kept, moves * dense)


def test_frozen_layers_have_no_weight_gradient_and_no_optimizer():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).requires_grad_(False)
    found = parts(traffic(model, torch.zeros(1, 4)))
    assert found["training weight gradient"] == found["training optimizer"] == (0, 0)


class Gram(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + 1
        return x @ x.transpose(1, 2)


def test_a_product_without_weights():
    """Both operands are data: each is read for the other's gradient, and both gradients are written."""
    x, y = 2 * 3 * 4 * 4, 2 * 3 * 3 * 4
    found = parts(traffic(Gram(), torch.zeros(2, 3, 4)))
    assert found["inference weights"] == found["training weight gradient"] == (0, 0)
    assert found["inference activations"] == (2 * x + y, 2 * x + y)
    assert found["training data gradient"] == (4 * x + y, 4 * x + y)


def test_weights_move_once_a_batch():
    model = precut.sparsify(precut.create_model("resnet8"), "PS4_P4")
    one, four = (parts(traffic(model, torch.zeros(n, 3, 32, 32))) for n in (1, 4))
    assert four["inference weights"] == one["inference weights"]
    assert four["inference activations"][0] == 4 * one["inference activations"][0]


def test_half_precision_moves_half():
    model, x = nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)
    whole = traffic(model, x).total("training")[0]
    assert traffic(model.bfloat16(), x.bfloat16()).total("training")[0] * 2 == whole


def test_energy_by_hand():
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 2, bias=False))
    x = torch.zeros(1, 4)
    costs = EnergyConstants("made up", mac_pj=2.0, cache_pj_per_byte=3.0, dram_pj_per_byte=5.0)
    found = modelled_energy(model, x, constants=costs)
    moved = traffic(model, x)
    rows = {(row["phase"], row["part"]): row["kept"] * 1e12 for row in found.rows}
    assert rows["inference", "arithmetic"] == pytest.approx(2.0 * (24 + 12))
    # A training step multiplies forward, for both weights, and for the data gradient of the second layer alone.
    assert rows["training", "arithmetic"] == pytest.approx(2.0 * (2 * 24 + 3 * 12))
    for phase in ("inference", "training"):
        assert rows[phase, "cache"] == pytest.approx(3.0 * moved.total(phase)[0])
        assert rows[phase, "DRAM"] == pytest.approx(5.0 * moved.total(phase)[0])


def test_the_published_constants():
    assert HOROWITZ_45NM.mac_pj == pytest.approx(4.6)
    assert HOROWITZ_45NM.cache_pj_per_byte == 2.5
    assert HOROWITZ_45NM.dram_pj_per_byte == 162.5
    assert "ISSCC 2014" in HOROWITZ_45NM.source


def test_tables_and_data():
    model, x = precut.sparsify(precut.create_model("resnet8"), "PSD2_P8"), torch.zeros(2, 3, 32, 32)
    moved, energy = traffic(model, x), modelled_energy(model, x)
    check_golden(str(moved), GOLDEN / "traffic.txt")
    check_golden(str(energy), GOLDEN / "energy.txt")
    assert str(energy).count("modelled") == 2
    data = json.loads(moved.to_json())
    assert data["totals"]["training"]["kept"] == moved.total("training")[0]
    assert json.loads(energy.to_json())["modelled"] is True
    assert all("ratio" not in row for row in json.loads(energy.to_json())["rows"])


@pytest.mark.parametrize("measure", [traffic, modelled_energy])
def test_unknown_optimizer(measure):
    with pytest.raises(PrecutError) as caught:
        measure(nn.Linear(2, 2), torch.zeros(1, 2), "adamz")
    assert str(caught.value) == "unknown optimizer 'adamz': did you mean 'adam'?"


def test_unknown_phase():
    with pytest.raises(PrecutError) as caught:
        traffic(nn.Linear(2, 2), torch.zeros(1, 2)).total("train")
    assert str(caught.value) == "unknown phase 'train': did you mean 'training'?"


def test_the_optimizers_dense_bytes_are_those_of_the_dense_network():
    net = nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    pruned, _ = precut.prune(net, "magnitude", 0.1, torch.zeros(1, 3, 8, 8))
    dense = 4 * sum(parameter.numel() for parameter in net.parameters())
    assert parts(traffic(pruned, torch.zeros(1, 3, 8, 8)))["training optimizer"][1] == 5 * dense


def test_a_frozen_weight_is_frozen_whatever_its_bias_is():
    net = nn.Sequential(nn.ConvTranspose2d(3, 8, 3))
    pruned, _ = precut.prune(net, "magnitude", 0.1, torch.zeros(1, 3, 8, 8))
    for parameter in pruned.parameters():
        parameter.requires_grad = parameter.dim() == 1  # the bias alone is trained
    assert parts(traffic(pruned, torch.zeros(1, 3, 8, 8)))["training optimizer"] == (5 * 4 * 8, 5 * 4 * 8)
