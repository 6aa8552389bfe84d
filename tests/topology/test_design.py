"""Designs: counted costs are those of the built networks, budgets hold, and the published partner is found."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

import precut
from precut import PrecutError, create_model, runtime
from precut.graph import capture
from precut.topology import Candidate, cell_mass, design, fit, nn_mass


def check(candidate: Candidate) -> None:
    """What was counted without building is what the built network has."""
    with torch.device("meta"):
        model = candidate.create()
        kwargs = candidate.kwargs
        features = kwargs.get("in_features")
        side = kwargs["input_size"]
        x = torch.zeros(1, features) if features else torch.zeros(1, kwargs["in_channels"], side, side)
        graph = capture(model, x)
        counts = precut.summary(model, x)
    mass = nn_mass(graph)
    assert (candidate.params, candidate.macs) == (counts.params, counts.macs)
    assert candidate.mass == pytest.approx(mass.mass, abs=1e-9)
    assert candidate.degree == pytest.approx(mass.degree, abs=1e-9)
    assert candidate.depth == len(graph.layers())


@pytest.mark.parametrize("size", [32, 28, 97])
@pytest.mark.parametrize("depthwise", [False, True])
def test_densenets_are_counted_right(depthwise: bool, size: int) -> None:
    found = design(
        90.0, "random_densenet", widths=[8, 20], depthwise=depthwise, depths=[5, 9], input_size=size, in_channels=1,
        num_classes=7, tolerance=0.05,
    )  # fmt: skip
    assert len(found) == 2
    for candidate in found:
        check(candidate)


def test_mlps_are_counted_right() -> None:
    found = design(20.0, "dense_mlp", width=8, in_features=2, num_classes=2, tolerance=0.05)
    for candidate in (found[0], found[len(found) - 1]):
        check(candidate)


@pytest.mark.parametrize("size", [32, 96])
def test_mobilenets_are_counted_right(size: int) -> None:
    for width, repeats in ((0.35, [1, 2, 1, 1, 2, 1, 2]), (1.15, [2, 1, 1, 2, 1, 1, 1])):
        with torch.device("meta"):
            reference = create_model("mobilenetv2", width_mult=width, repeats=repeats, input_size=size)
        found = design(reference, width_mults=[width], tolerance=1e-6)
        same = [c for c in found if c.kwargs["repeats"] == repeats]
        assert len(same) == 1
        check(same[0])


def test_the_published_partner_is_found() -> None:
    """MobileNetV2 x1.4 (mass 1807, 6.109 M, 582.2 M MACs) under 4.4 M parameters, without being told where to look: the
    authors' own variant is among what comes, and the first costs less by both counts."""
    with torch.device("meta"):
        reference = create_model("mobilenetv2", width_mult=1.4, num_classes=1000, input_size=224)
    found = design(reference, params=4.4e6)
    assert found.target == 1807
    assert all(abs(c.mass - 1807) <= 18.07 and c.params <= 4.4e6 for c in found)
    (published,) = [c for c in found if c.kwargs["width_mult"] == 1.1]
    assert published.kwargs["repeats"] == [2, 3, 4, 5, 4, 3, 1]
    assert (published.mass, published.params, published.macs) == (1797, 4_304_504, 419_189_840)
    assert found.best.macs < published.macs
    assert found.best.params < published.params
    assert found.best.macs == min(c.macs for c in found)
    assert design(reference, params=4.4e6, order="degree").best.degree == max(c.degree for c in found)


def test_an_exhaustive_search_finds_the_same() -> None:
    """All combinations of a small range, each built and counted."""
    with torch.device("meta"):
        wanted = nn_mass(create_model("mobilenetv2", repeats=[1, 1, 1, 2, 1, 2, 1])).mass
        expected = set()
        for repeats in itertools.product((1,), (1,), (1, 2), (1, 2), (1, 2), (1, 2), (1,)):
            if sum(repeats) == 7:
                continue  # no block has a shortcut
            mass = nn_mass(create_model("mobilenetv2", repeats=list(repeats))).mass
            if abs(mass - wanted) <= 0.2 * wanted:
                expected.add(repeats)
    found = design(wanted, "mobilenetv2", width_mults=[1.0], repeats=[(1,)] * 2 + [(1, 2)] * 4 + [(1,)], tolerance=0.2)
    assert {tuple(c.kwargs["repeats"]) for c in found} == expected
    assert len(expected) > 1


def test_a_densenet_keeps_the_masses_of_its_cells() -> None:
    reference = create_model("random_densenet", depth=13, widths=[32, 64, 128], links=[40, 80, 125])
    cells = nn_mass(reference).cells
    for candidate in design(reference, depths=[6, 9, 13, 20]):
        links, depth = candidate.kwargs["links"], candidate.kwargs["depth"]
        for cell, width, count in zip(cells, [32, 64, 128], links, strict=True):
            step = cell_mass(width, depth, count + 1) - cell_mass(width, depth, count)
            assert abs(cell_mass(width, depth, count) - cell.mass) <= step + 1e-9
    same = next(c for c in design(reference, depths=[13]) if c.kwargs["depth"] == 13)
    assert same.kwargs["links"] == [40, 80, 125]


def test_any_family_by_search() -> None:
    reference = create_model("resnet20")
    found = design(reference, search={"width_mult": [0.5, 1.0, 2.0], "shortcut": ["pad", "conv_bn"]}, order="params")
    assert [(c.kwargs["width_mult"], c.kwargs["shortcut"]) for c in found] == [(1.0, "pad"), (1.0, "conv_bn")]
    for candidate in found:
        check(candidate)


def test_budgets_orders_and_data(tmp_path: Path) -> None:
    found = design(160.0, "random_densenet", widths=[16, 32, 64], tolerance=0.03, macs=60e6, depth=30, order="params")
    assert all(c.macs <= 60e6 and c.depth <= 30 for c in found)
    assert [c.params for c in found] == sorted(c.params for c in found)
    assert len(found) < found.considered
    table = str(found)
    assert "macs <= 6e+07" in table
    assert "counted" in table
    assert "measured" not in table
    assert found.to_dict()["candidates"][0]["params"] == found.best.params
    assert found.plot(tmp_path / "family.png").stat().st_size > 1000
    assert isinstance(found.create(), nn.Module)


@pytest.mark.skipif(not runtime.available(), reason="the native library was not built")
def test_latency_is_measured_here() -> None:
    found = design(
        30.0, "random_densenet", widths=[8, 16], depths=[4, 8], input_size=8, latency=1.0, measure=2, tolerance=0.1,
        threads=1, order="latency",
    )  # fmt: skip
    assert all(c.latency is not None and c.latency.n >= 30 and 0 < c.latency.median < 1 for c in found)
    assert [c.seconds for c in found] == sorted(c.seconds for c in found)
    assert "measured: median of one forward" in str(found)
    with pytest.raises(
        PrecutError, match=r"none of the 1 networks that were timed takes at most 1\.000 ns; the fastest"
    ):
        design(30.0, "random_densenet", widths=[8], depths=[6], input_size=8, latency=1e-9, tolerance=0.1, threads=1)


WRONG = {
    "family": (lambda: design(100.0), "design needs family=, such as 'random_densenet'"),
    "unknown family": (lambda: design(100.0, "mobilnetv2"), "unknown family 'mobilnetv2': did you mean 'mobilenetv2'?"),
    "option": (
        lambda: design(100.0, "dense_mlp", widths=[3]),
        "unknown option of design for 'dense_mlp' 'widths': did you mean 'width'?",
    ),
    "order": (lambda: design(100.0, "dense_mlp", order="flops"), "unknown order 'flops'"),
    "mass": (lambda: design(-1.0, "dense_mlp"), "design takes a mass above 0, a model, or a fitted line; got -1.0"),
    "budget": (lambda: design(20.0, "dense_mlp", params=0), "params must be a number above 0; got 0"),
    "tolerance": (lambda: design(20.0, "dense_mlp", tolerance=2), "tolerance must be a share between 0 and 1; got 2"),
    "too heavy": (
        lambda: design(1e9, "random_densenet"),
        "no network of this family has NN-Mass 1e+09 (mass within 1 %): widen the search",
    ),
    "too small a budget": (
        lambda: design(20.0, "dense_mlp", in_features=2, params=10, tolerance=0.05),
        "none within the budgets; the least: params ",
    ),
    "plain": (lambda: design(create_model("vgg11")), "VGG has no cells"),
    "search": (lambda: design(100.0, "resnet20"), "design of 'resnet20' needs search=, arguments and the values to try"),
    "search argument": (
        lambda: design(100.0, "resnet20", search={"shortcuts": ["pad"]}),
        "unknown argument of model 'resnet20' 'shortcuts': did you mean 'shortcut'?",
    ),
    "no line": (lambda: design(100.0, "dense_mlp", accuracy=0.9), "accuracy= needs a fitted line as target"),
    "no accuracy": (lambda: design(fit([1, 2, 3], [1, 2, 3]), "dense_mlp"), "from a fitted line needs accuracy="),
    "repeats of a model": (
        lambda: design(1e3, "mobilenetv2", repeats=[1, 2, 3, 4, 3, 3, 1]),
        "repeats must be 7 lists of whole numbers from 1 up; got [1, 2, 3, 4, 3, 3, 1]",
    ),
    "repeats": (lambda: design(1e3, "mobilenetv2", repeats=[[1]]), "repeats must be 7 lists of whole numbers from 1 up"),
    "depth": (lambda: design(9.0, "dense_mlp", depths=[2]), "each of depths must be a whole number of at least 3; got 2"),
    "one width": (lambda: design(9.0, "random_densenet", widths=16), "widths must be a list of values to try; got 16"),
    "one depth": (lambda: design(9.0, "dense_mlp", depths=5), "depths must be a list of values to try; got 5"),
    "one multiplier": (lambda: design(9.0, "mobilenetv2", width_mults=1.1), "width_mults must be a list of values to try; "),
    "one repeat": (lambda: design(9.0, "mobilenetv2", repeats=3), "repeats must be 7 lists of whole numbers from 1 up; got 3"),
    "part of a block": (
        lambda: design(9.0, "mobilenetv2", repeats=[[1.5, 2], *[[1, 2]] * 6]),
        "repeats must be 7 lists of whole numbers from 1 up; got [[1.5, 2],",
    ),
    "one to search": (
        lambda: design(9.0, "resnet20", search={"width_mult": 0.5}),
        "search['width_mult'] must be a list of values to try; got 0.5",
    ),
    "a list to search": (lambda: design(9.0, "resnet20", search=[1]), "search is a mapping, {argument: [values to try]}"),  # type: ignore[arg-type]
    "a word for shares": (lambda: design(9.0, "random_densenet", shares="abc"), "shares must be a list"),
    "negative shares": (lambda: design(9.0, "random_densenet", shares=[-1, 1, 1]), "shares must be one number a cell"),
    "depthwise": (lambda: design(9.0, "random_densenet", depthwise="no"), "depthwise must be True or False; got 'no'"),
    "features": (
        lambda: design(9.0, "dense_mlp", in_features=-3),
        "in_features must be a whole number of at least 1; got -3",
    ),
    "a network of your own": (
        lambda: design(nn.Sequential(nn.Linear(3, 3)), "mobilenetv2"),
        "Sequential is not from create_model: pass its capture, precut.graph.capture(model, x)",
    ),
    "shares": (lambda: design(9.0, "random_densenet", shares=[1.0]), "shares must be one number a cell"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_uses(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(PrecutError) as raised:
        call()
    assert message in str(raised.value)
