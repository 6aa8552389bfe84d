"""precut prune, and pruning within precut train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import precut as library

SMALL = ("--model", "resnet8", "--in-channels", 1, "--input-size", 12, "--num-classes", 2)


def test_report_model_and_picture(precut, tmp_path: Path) -> None:
    done = precut("prune", *SMALL, "--density", 0.1, "--compare", "magnitude,random", "--runs-dir", tmp_path)
    assert done.code == 0, done.err
    folder = tmp_path / "resnet8-synflow-0.1-s0"
    assert sorted(path.name for path in folder.iterdir()) == [
        "kept.png",
        "model.safetensors",
        "report.json",
        "report.txt",
    ]
    assert done.out.rstrip("\n") == (folder / "report.txt").read_text().rstrip("\n")
    assert "weights kept by layer" in done.out
    data = json.loads((folder / "report.json").read_text())
    assert (data["score"], data["rounds"], data["density"]) == ("synflow", 100, 0.1)
    assert data["k"] == sum(data["kept"].values()) == -(-data["size"] // 10)
    assert {name: (one["rounds"], one["k"]) for name, one in data["compared"].items()} == {
        "magnitude": (1, data["k"]), "random": (1, data["k"])
    }  # fmt: skip
    model = library.load(folder / "model.safetensors")
    assert {name: int(mask.sum()) for name, mask in library.pruning.as_masks(model).items()} == data["kept"]
    assert model(torch.zeros(2, 1, 12, 12)).shape == (2, 2)
    again = precut("prune", *SMALL, "--density", 0.1, "--runs-dir", tmp_path)
    assert (again.code, again.err[-1]) == (
        2,
        f"precut: error: {str(folder)!r} holds a pruning already: choose another --name, or add --overwrite",
    )


def test_json_and_the_other_options(precut, tmp_path: Path, tiny: Path) -> None:
    done = precut(
        "prune", "--model", "resnet8", "--score", "snip", "--data", tiny, "--layer-density", "*=0.2", "head=1",
        "--min-per-layer", 1, "--images", 8, "--remove-dead", "--name", "x", "--runs-dir", tmp_path, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    data = json.loads(done.out)
    assert data["kept"]["head"] == data["dense"]["head"] == 128
    assert data["dead_removed"] is not None
    assert data["density"] is None
    structured = precut("prune", *SMALL, "--structure", "PS4_P4", "--ignored-layers", "stem.0", "head", "*.shortcut",
                        "--name", "y", "--runs-dir", tmp_path, "--json")  # fmt: skip
    assert structured.code == 0, structured.err
    assert json.loads(structured.out)["structure"] == "PS4_P4"


def test_a_saved_model_is_pruned(precut, tmp_path: Path) -> None:
    path = library.save(library.create_model("resnet8", in_channels=1, input_size=12), tmp_path / "dense.safetensors")
    done = precut("prune", "--model", path, "--score", "magnitude", "--density", 0.5, "--runs-dir", tmp_path, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["model"] == str(tmp_path / "dense-magnitude-0.5-s0" / "model.safetensors")


def test_train_takes_the_same_options(precut, tmp_path: Path, tiny: Path) -> None:
    words = (
        "train", "--model", "resnet8", "--data", tiny, "--score", "snip", "--density", 0.2, "--recipe", "demo", "--epochs",
        1, "--batch-size", 8, "--set", "val_count=4", "--runs-dir", tmp_path, "--json",
    )  # fmt: skip
    done = precut(*words)
    assert done.code == 0, done.err
    row = json.loads(done.out)
    assert row["support"] == "snip weights"
    assert row["run"] == str(tmp_path / "resnet8-snip-0.2-tiny-s0")
    trained = library.load(Path(row["run"]) / "model.safetensors")
    masks = library.pruning.as_masks(trained)
    assert sum(int(mask.sum()) for mask in masks.values()) == -(-sum(m.numel() for m in masks.values()) // 5)
    assert json.loads(precut(*words, "--resume").out) == row


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("prune", *SMALL), "density is needed where the allocation gives none of its own; a number above 0, up to 1"),
        (
            ("prune", *SMALL, "--score", "snip", "--density", 0.1),
            "score 'snip' looks at images: add --data NAME (see precut list data)",
        ),
        (
            ("prune", *SMALL, "--density", 0.1, "--compare", "magnitude,grsp"),
            "unknown score 'grsp': did you mean 'grasp'?",
        ),
        (
            ("prune", *SMALL, "--density", 0.1, "--allocation", "uniform", "--layer-density", "*=1"),
            "--layer-density and --allocation exclude each other; choose one",
        ),
        (
            ("prune", *SMALL, "--density", 0.1, "--support", "PS4_P4"),
            "--support fixes the weights beforehand, --score chooses them: leave one out",
        ),
        (
            ("train", "--model", "resnet8", "--density", 0.1, "--support", "PS4_P4"),
            "--score, --density and the like choose the weights: leave --support and --dynamic out",
        ),
    ],
)
def test_wrong_uses(precut, tmp_path: Path, words: tuple[object, ...], message: str) -> None:
    done = precut(*words, "--runs-dir", tmp_path)
    assert (done.code, done.out, done.err[-1]) == (2, "", f"precut: error: {message}")
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_another_command_wrote_is_lost(precut, tmp_path: Path) -> None:
    place = tmp_path / "x"
    place.mkdir()
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_bytes(b"TRAINED")
    done = precut("prune", *SMALL, "--density", 0.1, "--name", "x", "--runs-dir", tmp_path)
    assert (done.code, done.err[-1].split(": ", 2)[2]) == (
        2,
        f"{str(place)!r} holds a training run already: choose another --name, or add --overwrite",
    )
    assert (place / "model.safetensors").read_bytes() == b"TRAINED"
    (place / "config.json").rename(place / "report.json")
    done = precut("train", "--model", "resnet8", "--name", "x", "--runs-dir", tmp_path)
    assert (done.code, "holds a pruning" in done.err[-1]) == (2, True)


def test_a_score_is_not_compared_with_itself(precut, tmp_path: Path) -> None:
    words = ("prune", *SMALL, "--density", 0.1, "--rounds", 2, "--runs-dir", tmp_path, "--name", "x", "--json")
    data = json.loads(precut(*words, "--compare", "synflow, magnitude").out)
    assert (data["rounds"], list(data["compared"])) == (2, ["magnitude"])
    model = library.load(tmp_path / "x" / "model.safetensors")
    assert {name: int(mask.sum()) for name, mask in library.pruning.as_masks(model).items()} == data["kept"]
    again = precut("prune", "--model", tmp_path / "x" / "model.safetensors", "--width-mult", 3, "--density", 0.1)
    assert again.err[-1].startswith("precut: error: --width-mult is for a model's name; the file ")


def test_any_option_of_pruning_asks_for_it(precut, tmp_path: Path, tiny: Path) -> None:
    words = ("train", "--model", "resnet8", "--data", tiny, "--recipe", "demo", "--runs-dir", tmp_path)
    done = precut(*words, "--set", "val_count=4", "--budget", "macs")
    assert done.code == 2  # and not a dense training
    assert "density" in done.err[-1]
