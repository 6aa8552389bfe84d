"""Claims as data, and the queue: what is finished is kept, what is interrupted is resumed."""

import csv
import dataclasses
import json

import pytest
import torch
import yaml

import precut
from precut import data
from precut._files import locked
from precut.experiments import _runner, list_claims, load_claim, read_rows, run_claim, spread
from precut.experiments._runner import build, recipe_of
from precut.measure import summary
from precut.supports import ClassTable
from precut.training import MovingSupports, whiten_stem_

QUEUE = {
    "question": "does it run?",
    "data": "fashion-mnist-sample",
    "input_size": 28,
    "recipe": {"name": "demo", "epochs": 1, "batch_size": 500, "val_count": 1000},
    "runs": [
        {"name": "a", "model": "speednet", "kwargs": {"widths": [4, 8, 8]}, "seeds": [0, 1]},
        {"name": "b", "model": "speednet", "kwargs": {"widths": [4, 8, 8]}, "support": "PS4_P4"},
    ],
}


@pytest.fixture
def queue(tmp_path):
    def write(**changes):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({**QUEUE, **changes}, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="module")
def noise():
    """Noise in the form of CIFAR-10."""
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = data.Split(images, torch.arange(40) % 10, "noise")
    return data.Dataset("noise", split, split, [str(n) for n in range(10)], (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("name", list_claims())
def test_bundled_claims_can_be_built(name, noise):
    claim = load_claim(name)
    assert claim.question
    assert claim.data in data.list_datasets()
    for run in claim.runs:
        recipe_of(run)
        MovingSupports.of(run.move or {})
        assert run.described
        if run.prune is not None:  # one round says whether the words can be read
            prune = {**run.prune, "rounds": 1, "images": 20}
            run = dataclasses.replace(run, prune=prune, changes={**run.changes, "val_count": 10})
        if claim.input_size == 32:
            build(run, noise, claim.input_size)


@pytest.mark.slow
def test_budgets_of_moving_supports_are_met(noise):
    x = torch.zeros(1, 3, 32, 32)
    budget = summary(precut.create_model("speednet", width_mult=0.5), x).macs / 5.6
    for run in load_claim("moving-supports").runs:
        changes = {**run.changes, "val_count": 10}
        run = dataclasses.replace(run, changes=changes, prune=run.prune and {**run.prune, "images": 20})
        assert summary(build(run, noise, 32), x).macs == pytest.approx(budget, rel=0.03), run.name


def test_supports_by_layer(queue, noise):
    support = {"groups.2.conv2": "dense", "groups.0.*": "center", "*": {"kind": "nm", "n": 2, "m": 4}}
    path = queue(runs=[{"name": "a", "model": "speednet", "kwargs": {"widths": [8, 8, 8]}, "support": support}])
    run = load_claim(path).runs[0]
    layers = {name: layer for name, layer in build(run, noise, 32).named_modules() if "conv" in name}
    found = {name: str(layer.support.maker) if hasattr(layer, "support") else "dense" for name, layer in layers.items()}
    assert found == {
        "groups.0.conv1": "center",
        "groups.0.conv2": "center",
        "groups.1.conv1": "2:4",
        "groups.1.conv2": "2:4",
        "groups.2.conv1": "2:4",
        "groups.2.conv2": "dense",
    }
    assert run.described == "dense, center, 2:4"


def test_pruned_and_moved_runs_leave_their_rows(queue, tmp_path):
    runs = [
        {
            "name": "p",
            "model": "speednet",
            "kwargs": {"widths": [4, 8, 8]},
            "ignored_layers": ["stem", "head"],
            "prune": {"score": "snip", "structure": "class:2", "density": 0.5, "images": 50},
            "move": {"every": 5, "end": 1.0},
        }
    ]
    rows = run_claim(load_claim(queue(runs=runs)), tmp_path / "r.csv", tmp_path / "runs", progress=False)
    assert rows[0]["support"] == "snip class:2, moved by rigl"
    assert (json.loads(rows[0]["prune"]), json.loads(rows[0]["move"])) == (runs[0]["prune"], runs[0]["move"])
    assert int(rows[0]["macs"]) < int(rows[0]["macs_dense"])
    model = precut.load(tmp_path / "runs" / "tiny" / "p-s0" / "model.safetensors")
    fresh = build(load_claim(queue(runs=runs)).runs[0], data.load("fashion-mnist-sample"), 28)
    moved, began = (m.groups[1].conv1.support for m in (model, fresh))
    assert isinstance(moved.maker, ClassTable)
    assert moved != began
    assert moved.nnz == began.nnz


def test_budgets_of_the_budget_frontier_are_met():
    claim = load_claim("budget-frontier")
    x = torch.zeros(1, 3, 32, 32)
    dense = summary(precut.create_model("speednet", width_mult=0.5), x).macs
    share = {"full": 1.0, "1/2.2": 1 / 2.2, "1/5.6": 1 / 5.6}
    for run in claim.runs:
        model = precut.sparsify(precut.create_model(run.model, **run.kwargs), run.support)
        assert summary(model, x).macs / dense == pytest.approx(share[run.group], rel=0.03)


def test_first_seeds_come_first(queue):
    assert [run.key for run in load_claim(queue()).runs] == ["a-s0", "b-s0", "a-s1"]


def test_a_queue_is_done_once(queue, tmp_path):
    results = tmp_path / "rows.csv"
    done = []
    arguments = {"progress": False, "on_row": lambda row: done.append(row["run"])}
    run_claim(load_claim(queue()), results, tmp_path / "runs", only="b-*", **arguments)
    assert done == ["b"]
    rows = run_claim(load_claim(queue()), results, tmp_path / "runs", **arguments)
    assert done == ["b", "a", "a"]
    assert rows == read_rows(results)
    run_claim(load_claim(queue()), results, tmp_path / "runs", **arguments)
    assert len(done) == 3
    with results.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [(row["run"], row["seed"]) for row in written] == [("b", "0"), ("a", "0"), ("a", "1")]
    assert int(written[0]["macs"]) < int(written[0]["macs_dense"]) == int(written[1]["macs"])
    assert all(0 <= float(row["test_accuracy"]) <= 1 for row in written)


def test_a_row_of_other_settings_is_not_taken_for_this_run(queue, tmp_path):
    arguments = {"progress": False, "only": "b-*"}
    run_claim(load_claim(queue()), tmp_path / "r.csv", tmp_path / "runs", **arguments)
    longer = load_claim(queue(recipe={**QUEUE["recipe"], "lr": 0.01}))
    with pytest.raises(
        precut.PrecutError, match=r"the row b-s0 was made with changes '.*and the claim now says .*0\.01"
    ):
        run_claim(longer, tmp_path / "r.csv", tmp_path / "runs", **arguments)
    assert len(read_rows(tmp_path / "r.csv")) == 1


def test_a_run_that_another_process_has_is_left_to_it(queue, tmp_path):
    with locked(tmp_path / "runs" / "tiny" / "a-s0.lock") as mine:
        assert mine
        rows = run_claim(load_claim(queue()), tmp_path / "r.csv", tmp_path / "runs", only="[ab]-s0", progress=False)
    assert [row["run"] for row in rows] == ["b"]
    with locked(tmp_path / "x.lock") as mine, locked(tmp_path / "x.lock") as other:
        assert (mine, other) == (True, False)


def test_a_run_without_validation_images(queue, tmp_path):
    path = queue(recipe={**QUEUE["recipe"], "val_count": 0})
    rows = run_claim(load_claim(path), tmp_path / "r.csv", tmp_path / "runs", only="b-*", progress=False)
    assert rows[0]["val_accuracy"] == ""
    assert 0 <= float(rows[0]["test_accuracy"]) <= 1


def test_a_run_from_few_images(queue, tmp_path):
    entry = {"model": "speednet", "kwargs": {"widths": [4, 8, 8]}, "recipe": {"val_count": 100, "batch_size": 100}}
    path = queue(runs=[{"name": "all", **entry}, {"name": "few", "per_class": 30, **entry}])
    rows = run_claim(load_claim(path), tmp_path / "r.csv", tmp_path / "runs", progress=False)
    assert [row["per_class"] for row in rows] == ["", "30"]
    images = [json.loads((tmp_path / "runs/tiny" / f"{row['run']}-s0/config.json").read_text()) for row in rows]
    whole = len(data.load("fashion-mnist-sample").train)
    assert [config["dataset"]["train_images"] for config in images] == [whole, 300]


PRUNED = {"name": "a", "model": "speednet", "kwargs": {"widths": [4, 8, 8]}, "init": "project"}


def test_scores_do_not_see_the_images_that_choose_the_epoch(queue, monkeypatch):
    seen = []
    monkeypatch.setattr(_runner, "BatchLoader", lambda split, *a, **k: seen.append(len(split)) or iter([None]))
    monkeypatch.setattr(_runner, "prune", lambda model, **options: (model, None))
    entry = PRUNED | {"prune": {"score": "snip"}}
    dataset = data.load("fashion-mnist-sample")
    build(load_claim(queue(runs=[entry])).runs[0], dataset, 28)
    assert seen == [len(dataset.train) - QUEUE["recipe"]["val_count"]]


def test_scores_see_the_stem_that_is_trained(queue, monkeypatch):
    stems = []

    def scored(model, **options):
        stems.append(model.stem.weight.detach().clone())
        return model, None

    monkeypatch.setattr(_runner, "prune", scored)
    entry = PRUNED | {"prune": {"score": "synflow"}}
    dataset = data.load("fashion-mnist-sample").take(50)
    run = load_claim(queue(runs=[entry])).runs[0]
    run = dataclasses.replace(run, changes={**run.changes, "val_count": 50, "whiten": True})
    model = build(run, dataset, 28)
    whiten_stem_(model, dataset, recipe_of(run))
    assert torch.equal(stems[0], model.stem.weight)
    run = dataclasses.replace(run, changes={**run.changes, "whiten": False})
    build(run, dataset, 28)
    assert not torch.equal(stems[0], stems[1])


def test_spread():
    assert spread([1.0]) is None
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)


WRONG = {
    "a recipe by name": (lambda queue: load_claim(queue(recipe="demo")), "recipe of claim 'tiny' must be {name: ..."),
    "no data": (
        lambda queue: load_claim(queue(data=None)),
        "data of claim 'tiny' must be the name of a dataset; got None",
    ),
    "a number for a support": (
        lambda queue: load_claim(queue(runs=[{"name": "a", "model": "m", "support": 124}])),
        "run 'a' of claim 'tiny': support must be a support's name (quote one with a colon: '2:4'), or a mapping; got 124",
    ),
    "no name": (
        lambda queue: load_claim(queue(runs=[{"model": "m"}])),
        "a run of claim 'tiny' is a mapping with name and model; got {'model': 'm'}",
    ),
    "seeds": (
        lambda queue: load_claim(queue(runs=[{"name": "a", "model": "m", "seeds": 3}])),
        "run 'a' of claim 'tiny': seeds must be a list of whole numbers; got 3",
    ),
    "no images": (
        lambda queue: load_claim(queue(runs=[{"name": "a", "model": "m", "per_class": 0}])),
        "run 'a' of claim 'tiny': per_class must be a whole number of at least 1; got 0",
    ),
    "moves of a ladder": (
        lambda queue: load_claim(queue(runs=[{"name": "a", "model": "m", "move": {}, "dynamic": {}}])),
        "run 'a' of claim 'tiny' has both dynamic and move; choose one",
    ),
    "unknown claim": (lambda queue: load_claim("budget-frontear"), "unknown claim 'budget-frontear'"),
    "missing file": (lambda queue: load_claim("nowhere/x.yaml"), "there is no claim file 'nowhere/x.yaml'"),
    "unknown field": (lambda queue: load_claim(queue(runz=[])), "unknown field of claim 'tiny' 'runz'"),
    "unknown field of a run": (
        lambda queue: load_claim(queue(runs=[{"name": "a", "modle": "speednet"}])),
        "unknown field of a run of claim 'tiny' 'modle': did you mean 'model'?",
    ),
    "no runs": (lambda queue: load_claim(queue(runs=None)), "claim 'tiny' must be a mapping with a list of 'runs'"),
    "the same twice": (
        lambda queue: load_claim(queue(runs=[{"name": "a", "model": "speednet"}] * 2)),
        "claim 'tiny' has the run 'a-s0' twice; names with seeds must differ",
    ),
    "support and prune": (
        lambda queue: load_claim(queue(runs=[{"name": "a", "model": "m", "support": "dense", "prune": {}}])),
        "run 'a' of claim 'tiny' has both support and prune; choose one",
    ),
    "nothing chosen": (
        lambda queue: run_claim(load_claim(queue()), queue().parent / "r.csv", queue().parent, only="c*"),
        "unknown run of claim 'tiny' 'c*': choose one of 'a-s0', 'a-s1', 'b-s0'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_uses(case, queue):
    act, message = WRONG[case]
    with pytest.raises(precut.PrecutError) as raised:
        act(queue)
    assert message in str(raised.value)
