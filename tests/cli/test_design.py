"""``precut design``: from a number, a model, a file and finished runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from precut import create_model, save
from precut.topology import cell_mass


def test_the_partner_of_a_mobilenet(precut, tmp_path: Path) -> None:
    words = ("mobilenetv2", "--width-mult", 1.4, "--input-size", 224, "--num-classes", 1000, "--params", "4.4M")
    done = precut("design", *words, "--top", 3, "--plot", tmp_path / "family.png")
    assert done.code == 0, done.err
    assert done.out.startswith("networks of NN-Mass 1807")
    assert "3 of 89" not in done.out
    assert "89 of 1104 networks of this mass; mass within 1 %, params <= 4.4e+06; counted" in done.out
    assert (tmp_path / "family.png").stat().st_size > 1000
    data = json.loads(precut("design", *words, "--json", "--top", 200).out)
    found = [c["kwargs"]["repeats"] for c in data["candidates"] if c["kwargs"]["width_mult"] == 1.1]
    assert found == [[2, 3, 4, 5, 4, 3, 1]]


def test_a_number_and_options(precut) -> None:
    words = ("160", "--family", "random_densenet", "--option", "widths=[16,32,64]", "depthwise=true", "depths=[4,8]")
    done = precut("design", *words, "--tolerance", 0.03, "--order", "params", "--json")
    candidates = json.loads(done.out)["candidates"]
    assert [c["kwargs"]["depth"] for c in candidates] == [4, 8]
    assert all(c["kwargs"]["depthwise"] for c in candidates)


def test_a_saved_model(precut, tmp_path: Path) -> None:
    save(create_model("dense_mlp", width=8, depth=12, links=5, in_features=7), tmp_path / "m.safetensors")
    done = precut("design", tmp_path / "m.safetensors", "--json", "--top", 100)
    data = json.loads(done.out)
    assert data["target"] == pytest.approx(cell_mass(8, 12, 5))
    assert any(c["kwargs"]["depth"] == 12 and c["kwargs"]["links"] == 5 for c in data["candidates"])
    assert all(c["kwargs"]["in_features"] == 7 for c in data["candidates"])


def test_an_accuracy_from_finished_runs(precut, tmp_path: Path) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["model", "kwargs", "params", "test_accuracy"])
        writer.writeheader()
        for depth, links, accuracy in ((4, 2, 0.6), (5, 4, 0.65), (6, 6, 0.72), (7, 8, 0.79)):
            kwargs = json.dumps({"width": 8, "depth": depth, "links": links})
            writer.writerow({"model": "dense_mlp", "kwargs": kwargs, "params": 100 * depth, "test_accuracy": accuracy})
    words = (tmp_path / "rows.csv", "--accuracy", 0.75, "--family", "dense_mlp", "--tolerance", 0.05, "--json")
    done = precut("design", *words)
    assert done.code == 0, done.err
    assert "n = 4: R^2 " in done.err[0]
    assert "so few points carry no claim" in done.err[0]
    assert cell_mass(8, 6, 6) < json.loads(done.out)["target"] < cell_mass(8, 7, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("160",), "design needs family=, such as 'random_densenet'"),
        (("vgg11",), "VGG has no cells"),
        (("mobilnetv2",), "unknown model 'mobilnetv2': did you mean 'mobilenetv2'?"),
        (("none.csv", "--accuracy", "0.9"), "--accuracy needs the rows.csv of a claim as target; 'none.csv' is none"),
        (("none.safetensors",), "there is no model file at 'none.safetensors'"),
        (("160", "--params", "many"), "argument --params: expected a number above 0, got 'many'"),
        (("160", "--family", "dense_mlp", "--option", "width"), "--option takes NAME=VALUE"),
    ],
)
def test_wrong_uses(precut, words, message) -> None:
    done = precut("design", *words)
    assert done.code == 2
    assert len(done.err) == 1
    assert message in done.err[0]
