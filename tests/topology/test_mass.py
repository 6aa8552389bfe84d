"""NN-Mass by counting: published values, closed forms, however a model writes its links, and wrong uses."""

from __future__ import annotations

import itertools
import operator
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precut
from precut import PrecutError, create_model
from precut.graph import capture
from precut.topology import bottleneck_mass, cell_degree, cell_density, cell_mass, nn_mass
from precut.topology._mass import count_cells, of_cells
from topology.facts import REFERENCE


def found(model: nn.Module, x: Tensor) -> float:
    """The mass without what modules say of themselves."""
    return of_cells(count_cells(capture(model, x), declared=False)).mass


# ---- published values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", REFERENCE["mlp"], ids=lambda row: f"{row['width']}-{row['depth']}-{row['tc']}")
def test_published_mlps(row: dict[str, Any]) -> None:
    model = create_model(
        "dense_mlp", num_classes=row["classes"], width=row["width"], depth=row["depth"], links=row["tc"],
        in_features=row["input_dims"],
    )  # fmt: skip
    mass = nn_mass(model)
    assert float(mass) == pytest.approx(row["nn_mass"], abs=1e-9)
    assert mass.density == (pytest.approx(row["density"], abs=1e-9),)
    assert found(model, torch.zeros(2, row["input_dims"])) == pytest.approx(row["nn_mass"], abs=1e-9)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("row", REFERENCE["cnn"], ids=lambda row: f"{row['cell_depth']}-{row['tc'][0]}")
def test_published_densenets(row: dict[str, Any], depthwise: bool) -> None:
    kwargs = {"depth": row["cell_depth"], "widths": row["widths"], "links": row["tc"], "depthwise": depthwise}
    for official in (False, True):
        mass = nn_mass(create_model("random_densenet", official=official, **kwargs))
        assert mass.mass == pytest.approx(row["nn_mass"], abs=1e-9)
        assert mass.density == pytest.approx(row["density"], abs=1e-9)
        # The published code's layers read channels twice; right ones do not.
        assert (sum(cell.repeated for cell in mass.cells) > 0) == (official and row["nn_mass"] > 0)


def test_correct_densenets_are_cells_without_saying_so() -> None:
    for depthwise in (False, True):
        model = create_model("random_densenet", depth=6, widths=[8, 12], links=5, depthwise=depthwise)
        assert found(model, torch.zeros(1, 3, 32, 32)) == pytest.approx(2 * cell_mass(8, 6, 5))


@pytest.mark.parametrize("official", [False, True])
def test_networks_without_numbers_have_the_same_mass(official: bool) -> None:
    kwargs = {"depth": 6, "widths": [8, 12], "links": [5, 30], "official": official}
    with torch.device("meta"):
        model = create_model("random_densenet", **kwargs)
    assert nn_mass(model).mass == nn_mass(create_model("random_densenet", **kwargs)).mass


@pytest.mark.parametrize("row", REFERENCE["resnet"], ids=lambda row: row["model"])
def test_published_resnets(row: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = create_model(row["model"], num_classes=1000, input_size=224)
        assert sum(p.numel() for p in model.parameters()) == row["params"]
        assert nn_mass(model).mass == pytest.approx(row["nn_mass"], abs=1e-9)


def test_published_mobilenets() -> None:
    rows = [({"width_mult": row["width_mult"]}, row["nn_mass"]) for row in REFERENCE["mobilenetv2"]]
    rows += [({"width_mult": 1.4}, 1807), ({"width_mult": 1.1, "repeats": [2, 3, 4, 5, 4, 3, 1]}, 1797)]
    for kwargs, mass in rows:
        with torch.device("meta"):
            assert nn_mass(create_model("mobilenetv2", **kwargs)).mass == pytest.approx(mass, abs=1e-9)


# ---- counting equals the closed form -------------------------------------------------------------------------------


class Cell(nn.Module):
    """A dense cell in plain code, its links drawn by torch: a second writing of what ``dense_mlp`` is."""

    def __init__(self, width: int, depth: int, links: int) -> None:
        super().__init__()
        counts = [0, 0, *(min(links, width * (i - 1)) for i in range(2, depth))]
        self.layers = nn.ModuleList(
            nn.Linear(5 if i == 0 else width + counts[i], 3 if i == depth - 1 else width) for i in range(depth)
        )
        self.picks = [torch.randperm(width * max(0, i - 1))[: counts[i]].tolist() for i in range(depth)]

    def forward(self, x: Tensor) -> Tensor:
        made = [self.layers[0](x)]
        for i, layer in enumerate(self.layers[1:], 1):
            x = made[-1]
            if self.picks[i]:
                x = torch.cat([x, torch.cat(made[:-1], 1)[:, self.picks[i]]], dim=1)
            made.append(layer(torch.tanh(x)))
        return made[-1]


@pytest.mark.parametrize("depth", [3, 4, 5, 6, 7, 9])
def test_counting_equals_the_closed_form(depth: int) -> None:
    """6 depths x 7 widths x 12 numbers of links: 504 cells."""
    torch.manual_seed(depth)
    for width in range(1, 8):
        for links in (1, 2, 3, 4, 5, 6, 8, 11, 15, 22, 35, 60):
            graph = capture(Cell(width, depth, links), torch.zeros(1, 5))
            (cell,) = count_cells(graph)
            assert cell.mass == pytest.approx(cell_mass(width, depth, links), abs=1e-9)
            assert cell.density == pytest.approx(cell_density(width, depth, links), abs=1e-9)
            assert cell.degree == pytest.approx(cell_degree(width, depth, links), abs=1e-9)


class Dense(nn.Module):
    """Layers that read all before them; ``cumulative`` as DenseNets are often written, else with a list."""

    def __init__(self, depth: int, cumulative: bool, bottleneck: bool) -> None:
        super().__init__()
        self.cumulative = cumulative
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.layers = nn.ModuleList()
        for i in range(1, depth):
            narrow = [nn.Conv2d(6 * i, 9, 1), nn.BatchNorm2d(9), nn.ReLU()] if bottleneck else []
            last = nn.Conv2d(9 if bottleneck else 6 * i, 6, 3, padding=1)
            self.layers.append(nn.Sequential(nn.BatchNorm2d(6 * i), nn.ReLU(), *narrow, last))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        features = [x]
        for layer in self.layers:
            new = layer(x if self.cumulative else torch.cat(features, 1))
            x = torch.concat((x, new), 1)
            features.append(new)
        return self.head(features[-1].mean((2, 3)))


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize("depth", [3, 5, 8])
def test_full_dense_cells(depth: int, cumulative: bool, bottleneck: bool) -> None:
    """All links: density 1 and mass width x depth, a bottleneck and its convolution counting as one layer."""
    model = Dense(depth, cumulative, bottleneck)
    assert nn_mass(model, torch.zeros(1, 3, 8, 8)).mass == pytest.approx(6 * depth)


@pytest.mark.parametrize("depth", [3, 5])
def test_concatenations_however_written(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Dense(depth, False, False), torch.zeros(1, 3, 8, 8)
    monkeypatch.setattr(torch, "cat", lambda items, dim: torch.hstack(items))
    assert nn_mass(model, x).mass == pytest.approx(6 * depth)


def iadd(a: Tensor, b: Tensor) -> Tensor:
    a += b
    return a


ADDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": lambda a, b: a + b,
    "turned": lambda a, b: b + a,
    "+=": iadd,
    "operator.add": operator.add,
    "operator.iadd": operator.iadd,
    "torch.add": torch.add,
    "Tensor.add": lambda a, b: a.add(b),
    "Tensor.add_": lambda a, b: a.add_(b),
    "sum": lambda a, b: sum([a, b]),  # type: ignore[return-value]
    "scaled": lambda a, b: torch.add(a, b, alpha=0.5),
}


class Block(nn.Module):
    def __init__(self, add: Callable[[Tensor, Tensor], Tensor], widths: tuple[int, ...], project: bool) -> None:
        super().__init__()
        self.add = add
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.skip = nn.Conv2d(widths[0], widths[-1], 1) if project else nn.Identity()
        self.stem, self.head = nn.Conv2d(3, widths[0], 1), nn.Conv2d(widths[-1], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = x
        for layer in self.layers:
            y = layer(F.relu(y))
        return self.head(F.relu(self.add(y, self.skip(x))))


@pytest.mark.parametrize("add", ADDS)
def test_additions_however_written(add: str) -> None:
    x = torch.zeros(1, 3, 6, 6)
    assert nn_mass(Block(ADDS[add], (8, 8, 8), False), x).mass == 16
    assert nn_mass(Block(ADDS[add], (8, 12, 12), True), x).mass == 8 + 12
    assert nn_mass(Block(ADDS[add], (16, 5, 5, 16), False), x).mass == pytest.approx(bottleneck_mass(16, 5))


def test_longer_and_shorter_blocks() -> None:
    """Four layers: places 2, 3 and 4 could take 7, 7 + 5 and 7 + 5 + 5; one layer: its own skip is all there is."""
    x = torch.zeros(1, 3, 6, 6)
    four = nn_mass(Block(operator.add, (7, 5, 5, 5, 7), False), x)
    assert four.density == (pytest.approx(7 / (7 + 12 + 17)),)
    assert four.mass == pytest.approx((7 + 5 + 5 + 5) * 7 / 36)
    assert nn_mass(Block(operator.add, (7, 7), False), x).mass == 7


class Partial(nn.Module):
    """A skip that carries every other channel, zeros elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x)) + F.pad(x[:, ::2], (0, 0, 0, 0, 3, 3)))


def test_a_skip_of_some_channels_counts_these() -> None:
    assert nn_mass(Partial(), torch.zeros(1, 4, 6, 6)).mass == pytest.approx((4 + 8) * 2 / 4)


class Gated(nn.Module):
    """Squeeze and excitation: layers on the gate's way are none of the block's."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(6, 9, 3, padding=1), nn.Conv2d(9, 6, 3, padding=1)
        self.down, self.up = nn.Linear(9, 3), nn.Linear(3, 9)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        gate = torch.sigmoid(self.up(F.relu(self.down(y.mean((2, 3))))))
        return self.head(self.two(y * gate[:, :, None, None]) + x)


def test_gates_are_no_layers_of_the_block() -> None:
    assert nn_mass(Gated(), torch.zeros(1, 6, 8, 8)).mass == 6 + 9


class Parallel(nn.Module):
    """Branches of equal depth, joined both ways: no layer is skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 4, 3, padding=1) for _ in range(3))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.a(x) + self.b(x), self.c(x)], 1))


def test_parallel_branches_are_no_links() -> None:
    with pytest.raises(PrecutError, match="Parallel has no cells: no addition or concatenation in it skips a layer"):
        nn_mass(Parallel(), torch.zeros(1, 3, 6, 6))


def test_mass_does_not_know_kernels_groups_or_resolution() -> None:
    with torch.device("meta"):
        small, large = (nn_mass(create_model("mobilenetv2", input_size=size)).mass for size in (32, 224))
    assert small == large


def test_supports_keep_mass_and_dropped_links_lower_it() -> None:
    model = create_model("random_densenet", depth=5, widths=[16], links=12)
    before = nn_mass(model)
    assert nn_mass(precut.sparsify(model, "PSD4_P8")).mass == before.mass
    spaces = capture(model, torch.zeros(1, 3, 32, 32)).spaces
    picks = next(space for space in spaces if "from_0" in space.occurrences[0].owner and space.size > 1)
    fewer = precut.graph.restrict(model, picks, 1)
    assert nn_mass(fewer, torch.zeros(1, 3, 32, 32)).mass < before.mass


def test_a_graph_is_taken_as_it_is_and_fast() -> None:
    """Under a second after capture, at 224 pixels: a hundred layers with many links among them."""
    models = {
        "resnet50": {}, "mobilenetv2": {}, "random_densenet": {"depth": 33, "widths": [16, 32, 64], "links": [20, 40, 80]}
    }  # fmt: skip
    for name, kwargs in models.items():
        with torch.device("meta"):
            graph = capture(create_model(name, input_size=224, **kwargs), torch.zeros(1, 3, 224, 224))
        began = time.process_time()
        assert nn_mass(graph).mass > 0
        assert time.process_time() - began < 1


def test_the_result_is_a_table_and_data() -> None:
    mass = nn_mass(create_model("resnet8"))
    assert str(mass).splitlines()[0] == "CifarResNet: NN-Mass 176"
    assert mass.to_dict()["mass"] == float(mass) == sum(cell["mass"] for cell in mass.to_dict()["cells"])
    assert mass.to_json()
    assert mass.degree > 0


# ---- wrong uses ----------------------------------------------------------------------------------------------------


class Again(nn.Module):
    """One layer, twice in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.relu(self.layer(x))) + x


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "plain": (lambda: nn_mass(create_model("vgg11")), "VGG has no cells"),
    "twice": (lambda: nn_mass(Again(), torch.zeros(1, 4, 6, 6)), "layer 'layer' reads what it made itself"),
    "no example": (lambda: nn_mass(Parallel()), "Parallel is not from create_model: pass example_inputs="),
    "no module": (lambda: nn_mass(3), "topology takes an nn.Module or a captured Graph; got int"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_uses(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(PrecutError) as raised:
        call()
    assert message in str(raised.value)


def test_a_layer_shared_side_by_side_is_no_cycle() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x)) + x + self.one(-x)

    assert nn_mass(Twins(), torch.zeros(1, 4, 6, 6)).mass > 0
