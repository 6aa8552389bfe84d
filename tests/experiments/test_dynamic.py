"""Claims about ladders: a joint run leaves its points, a run alone takes one of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from precut.errors import PrecutError
from precut.experiments import load_claim, read_rows, run_claim

QUEUE = {
    "question": "does it run?",
    "data": "fashion-mnist-sample",
    "input_size": 28,
    "recipe": {"name": "demo", "epochs": 1, "batch_size": 1000, "val_count": 1000},
    "runs": [
        {
            "name": "joint",
            "model": "speednet",
            "kwargs": {"widths": [4, 8, 8]},
            "dynamic": {"budgets": [1, 0.6, 0.4], "pretrain": 1, "align": 1, "floor": {"stem": 1.0}},
        },
        {
            "name": "alone",
            "model": "speednet",
            "kwargs": {"widths": [4, 8, 8]},
            "dynamic": {"alone": "joint", "point": 2},
        },
        {
            "name": "rewound",
            "model": "speednet",
            "kwargs": {"widths": [4, 8, 8]},
            "dynamic": {
                "budgets": [1, 0.6, 0.4],
                "pretrain": 1,
                "rewind": True,
                "align": 1,
                "floor": {"stem": 1.0},
            },
        },
    ],
}


def queue(folder: Path, **changes: object) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**QUEUE, **changes}, sort_keys=False))
    return path


def test_a_ladder_and_one_of_its_points_alone(tmp_path: Path) -> None:
    claim = load_claim(queue(tmp_path))
    with pytest.raises(
        PrecutError, match=r"^run 'alone-s0' needs the points of 'joint' with seed 0: do that run first"
    ):
        run_claim(claim, tmp_path / "rows.csv", tmp_path / "runs", only="alone*", progress=False)
    run_claim(claim, tmp_path / "rows.csv", tmp_path / "runs", progress=False, threads=1)
    joint, alone, rewound = read_rows(tmp_path / "rows.csv")
    points = json.loads(joint["points"])
    assert len(points) == 3
    assert points[0]["macs"] == int(joint["macs"])
    assert int(alone["macs"]) == points[2]["macs"] <= 0.4 * points[0]["macs"]
    assert int(alone["params"]) == points[2]["params"]
    assert json.loads(alone["dynamic"]) == {"alone": "joint", "point": 2}
    assert float(alone["test_accuracy"]) > 0
    again = json.loads(rewound["points"])
    assert [p["macs"] for p in again] == [p["macs"] for p in points]  # the same ladder
    assert [p["test_accuracy"] for p in again] != [p["test_accuracy"] for p in points]  # from other weights


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        ({"pretrain": 1}, "run 'joint-s0': dynamic needs budgets, or alone and point; got {'pretrain': 1}"),
        ({"budgets": [1], "rewind": 1}, "rewind is true or false; got 1"),
        ({"budgets": [1], "epochs": 1}, "unknown option of a dynamic training 'epochs'"),
    ],
)
def test_wrong_claims(tmp_path: Path, dynamic: dict[str, object], message: str) -> None:
    runs = [{**QUEUE["runs"][0], "dynamic": dynamic}]  # type: ignore[index]
    claim = load_claim(queue(tmp_path, runs=runs))
    with pytest.raises(PrecutError) as error:
        run_claim(claim, tmp_path / "rows.csv", tmp_path / "runs", progress=False)
    assert str(error.value).startswith(message)
