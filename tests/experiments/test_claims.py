"""Claims as data, and the queue: what is finished is kept, what is interrupted is resumed."""

import csv

import pytest
import torch
import yaml

import precut
from precut import data
from precut.experiments import list_claims, load_claim, read_rows, run_claim, spread
from precut.measure import summary

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
        path.write_text(yaml.safe_dump({**QUEUE, **changes}))
        return path

    return write


@pytest.mark.parametrize("name", list_claims())
def test_bundled_claims_can_be_built(name):
    from precut.experiments._runner import recipe_of

    claim = load_claim(name)
    assert claim.question
    assert claim.data in data.list_datasets()
    for run in claim.runs:
        recipe_of(run)
        model = precut.create_model(run.model, input_size=claim.input_size, **run.kwargs)
        precut.sparsify(model, run.support, ignored_layers=run.ignored_layers, init=run.init)


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


def test_spread():
    assert spread([1.0]) is None
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)


WRONG = {
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
