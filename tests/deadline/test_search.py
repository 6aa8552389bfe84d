"""Search: growing by brute force, halving, workers that are killed, studies that stop and go on."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from deadline import toy_search
from precut import PrecutError
from precut.deadline import Plan, SearchResult, Space, _study, search, storage_url
from precut.deadline._grow import next_places
from precut.deadline._halving import keeps_going, rung_of
from precut.deadline._study import counts_of, failures_of, open_study, trials_of, work

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*experimental.*")
TOY = "deadline.toy_search:evaluate"


@pytest.fixture(autouse=True)
def reachable(monkeypatch):
    """Workers are processes of their own: they find the toy by PYTHONPATH."""
    tests = str(Path(__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, *sys.path]))


def plan_in(folder: Path, trials: int = 8, **changes) -> Plan:
    fields = {
        "name": "toy",
        "storage": storage_url(None, folder),
        "space": toy_search.SPACE,
        "settings": {},
        "trials": trials,
        "runs": str(folder),
        "heartbeat_s": 1,
        "grace_s": 2,
        "rungs": 0,
        "objective": TOY,
    }
    return Plan(**{**fields, **changes})


def test_growing_visits_everything_once_and_starts_small():
    space = Space(toy_search.SPACE)
    draw = random.Random(0)
    tried: list[dict[str, int]] = []
    done = []
    for _ in range(len(space)):
        places = next_places(space, done, tried, 0.7, draw)
        assert places not in tried
        tried.append(places)
        candidate = space.candidate(places)
        done.append((places, toy_search.seconds_of(candidate), toy_search.accuracy_of(candidate)))
    assert tried[0] == {"depth": 0, "width": 0, "kind": 0}
    accuracies = [accuracy for _, _, accuracy in done]
    first = next(index for index, accuracy in enumerate(accuracies) if accuracy >= 0.7)
    # until one meets the minimum, every step goes up from the best so far, along one dimension
    for index in range(1, first + 1):
        best = max(done[:index], key=lambda one: one[2])[0]
        assert tried[index] in [step for step in space.neighbours(best) if sum(step.values()) > sum(best.values())]


def test_growing_finds_the_frontier_early():
    """Half of the candidates suffice for nearly all of the true frontier; random search needs more. (Ten seeds.)"""
    space = Space({"depth": list(range(1, 9)), "width": list(range(1, 9))})

    def law(places: dict[str, int]) -> tuple[float, float]:
        depth, width = places["depth"] + 1, places["width"] + 1
        return 1e-3 * depth * width, 1 - 1 / (1 + depth**0.5 * width**0.7)

    values = [law(places) for places in space.all()]
    true = {v for v in values if not any(o[0] <= v[0] and o[1] >= v[1] and o != v for o in values)}
    shares = []
    for seed in range(10):
        tried: list[dict[str, int]] = []
        draw = random.Random(seed)
        for _ in range(32):
            tried.append(next_places(space, [(p, *law(p)) for p in tried], tried, 0.6, draw))
        shares.append(len(true & {law(places) for places in tried}) / len(true))
    assert sum(shares) / 10 > 0.55  # a random half finds half


@pytest.mark.parametrize(("eta", "rungs"), [(3, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("epochs", [4, 8, 9, 27])
def test_rungs_are_met_once_at_the_first_epoch_past_them(eta, rungs, epochs):
    met = {}
    for epoch in range(1, epochs + 1):
        rung = rung_of((epoch - 1) / epochs, epoch / epochs, eta, rungs)
        if rung is not None:
            assert rung not in met
            met[rung] = epoch
    for rung, epoch in met.items():
        assert epoch == math.ceil(epochs / eta ** (rungs - rung))
    assert set(met) >= {rungs - 1}
    assert rung_of(0.6, 1.0, eta, rungs) is None


def test_halving_by_hand():
    rivals = [(1.0, 0.5), (2.0, 0.6), (3.0, 0.7), (4.0, 0.8)]
    assert keeps_going((5.0, 0.75), rivals, 3)  # one of four is better; the best two of five go on
    assert not keeps_going((5.0, 0.65), rivals, 3)
    assert keeps_going((1.5, 0.1), rivals, 3)  # only one is as quick: too few to judge by
    assert not keeps_going((2.5, 0.1), rivals, 3)
    assert keeps_going((0.5, 0.0), rivals, 3)


def run_here(plan: Plan) -> SearchResult:
    """The search with its one worker in this process."""
    told: list[dict[str, int]] = []
    work(plan, on_trial=told.append)
    study = open_study(plan)
    assert told == [] or told[-1] == counts_of(study)
    return SearchResult(plan, trials_of(study), counts_of(study), failures_of(study))


def test_one_worker_finishes_and_a_second_one_adds_nothing(tmp_path):
    result = run_here(plan_in(tmp_path))
    assert result.done
    result.save(tmp_path)
    assert result.counts["finished"] + result.counts["rejected"] == 8
    for row in result.rows:
        assert row["accuracy"] == toy_search.accuracy_of(row)
    values = [(row["seconds"], row["accuracy"]) for row in result.rows]
    beaten = [any(o[0] <= v[0] and o[1] >= v[1] and o != v for o in values) for v in values]
    assert {(row["seconds"], row["accuracy"]) for row in result.best} == {
        v for v, worse in zip(values, beaten, strict=True) if not worse
    }
    assert json.loads((tmp_path / "search.json").read_text())["counts"]["finished"] == result.counts["finished"]
    assert (tmp_path / "search.png").is_file()
    assert "study toy: " in str(result)
    again = run_here(plan_in(tmp_path))
    assert again.rows == result.rows
    more = run_here(plan_in(tmp_path, trials=11))
    assert more.counts["finished"] + more.counts["rejected"] == 11
    assert more.rows[: len(result.rows)] == result.rows


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(tmp_path):
    """Two workers; one is killed in the middle of a trial. The trial is begun again in its folder, finished trials stay,
    and the number asked for is reached."""
    plan = plan_in(tmp_path, trials=8, settings={"sleep": 0.4})
    killed: list[int] = []

    def kill_once(counts) -> None:
        at_work = [path for path in tmp_path.glob("trial-*/begun") if not (path.parent / "ended").exists()]
        if not killed and counts["finished"] >= 2 and at_work:
            killed.append(int(max(at_work, key=lambda path: path.stat().st_mtime).read_text().split()[-1]))
            os.kill(killed[0], signal.SIGKILL)

    result = search(plan, workers=2, on_change=kill_once)
    assert killed
    assert result.done
    assert result.counts["running"] == result.counts["failed"] == 0
    assert result.counts["retried"] == 1
    begun = {folder.name: (folder / "begun").read_text().split() for folder in tmp_path.glob("trial-*")}
    twice = [pids for pids in begun.values() if len(pids) > 1]
    assert len(twice) == 1
    assert twice[0][0] == str(killed[0]) != twice[0][1]
    assert all((tmp_path / name / "ended").is_file() or len(pids) == 1 for name, pids in begun.items())


def test_a_worker_that_was_gone_at_once(tmp_path):
    """A trial that was asked for, by somebody who died before the first sign of life, is taken over as well."""
    plan = plan_in(tmp_path, trials=3, grace_s=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna: heartbeats are not for ask()
        open_study(plan).ask()
    assert counts_of(open_study(plan))["running"] == 1
    result = run_here(plan)
    assert result.done
    assert (result.counts["retried"], result.counts["running"]) == (1, 0)


def test_a_worker_that_stood_still_leaves_its_trial_to_others(tmp_path, monkeypatch):
    """Its trial was taken for lost and begun again just before it told what it had found: it goes on with the next."""
    optuna = pytest.importorskip("optuna")
    plan = plan_in(tmp_path, trials=3)
    plain = optuna.trial.Trial.set_user_attr

    def lost(trial, key, value):
        plain(trial, key, value)
        if key == "facts" and trial.number == 0:
            open_study(plan).tell(0, state=optuna.trial.TrialState.FAIL)

    monkeypatch.setattr(optuna.trial.Trial, "set_user_attr", lost)
    work(plan)
    found = counts_of(open_study(plan))
    assert (found["finished"] + found["rejected"], found["running"]) == (3, 0)


@pytest.mark.slow
def test_a_stopped_study_goes_on(tmp_path):
    """SIGINT to the command: its workers hand their trials back; the same plan goes on to the end."""
    plan = plan_in(tmp_path, trials=8, settings={"sleep": 0.5})
    (tmp_path / "plan.json").write_text(json.dumps(plan.__dict__))
    code = (
        "import json, sys\nfrom precut.deadline import Plan, search\n"
        "search(Plan(**json.load(open(sys.argv[1]))), 2, on_change=lambda c: print(c['finished'], flush=True))"
    )

    def heed() -> None:  # what runs in the background of a script may have inherited that it ignores SIGINT
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "plan.json")],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            preexec_fn=heed,
            start_new_session=True,
        )
    assert first.stdout is not None
    while int(first.stdout.readline()) < 2:
        pass
    os.killpg(first.pid, signal.SIGINT)  # as a terminal's Ctrl-C does, to all that it started
    first.wait(60)
    first.stdout.close()
    ended = {path.parent.name for path in tmp_path.glob("trial-*/ended")}
    assert 2 <= len(ended) < 8
    result = search(plan, workers=2)
    assert result.done
    assert all(
        len((tmp_path / name / "begun").read_text().split()) == 1 for name in ended
    )  # nothing finished is redone


def test_halved_candidates_are_not_trained_to_the_end(tmp_path):
    result = run_here(plan_in(tmp_path, trials=12, rungs=1, settings={"dearer is worse": True}))
    assert result.done
    # the first two have nothing to be compared with; of the others only one that is quicker than most could go on
    assert result.counts["halved"] >= 6
    halved = [folder for folder in tmp_path.glob("trial-*") if not (folder / "ended").exists()]
    assert len(halved) == result.counts["halved"] + result.counts["rejected"]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_optunas_samplers(tmp_path, sampler):
    plan = plan_in(tmp_path, trials=5, sampler=sampler)
    tmp_path.mkdir(exist_ok=True)
    assert work(plan) == 5
    found = counts_of(open_study(plan))
    assert found["finished"] + found["rejected"] == 5


def test_time_is_a_budget_too(tmp_path):
    assert work(plan_in(tmp_path, until=time.time() - 1)) == 0


def test_wrong_uses(tmp_path):
    plan = plan_in(tmp_path)
    with pytest.raises(PrecutError, match="the space has 24 candidates, fewer than the 25 trials"):
        search(replace(plan, trials=25))
    with pytest.raises(PrecutError, match=r"unknown sampler 'growing': did you mean 'grow'\?"):
        search(replace(plan, sampler="growing"))
    with pytest.raises(PrecutError, match=r"trials of study 'toy' failed; one: RuntimeError: no luck"):
        work(replace(plan, settings={"fails": True}))
    with pytest.raises(PrecutError, match=r"study 'toy' was begun with settings .*fails.*; it cannot go on with \{\}"):
        search(plan)
    with pytest.raises(PrecutError, match="there is no objective 'nothing:here'"):
        work(replace(plan, name="other", objective="nothing:here"))
    with pytest.raises(PrecutError, match=r"the database 'sqlite:////none/x.db' cannot be used"):
        open_study(replace(plan, storage="sqlite:////none/x.db"))
    with pytest.raises(PrecutError, match="needs different choices, at least one"):
        Space({"a": [1, 1]})
    with pytest.raises(PrecutError, match="there is no search space"):
        Space.read(tmp_path / "none.yaml")
    (tmp_path / "s.yaml").write_text("- 1")
    with pytest.raises(PrecutError, match="must map names to lists of choices; got list"):
        Space.read(tmp_path / "s.yaml")


def test_urls():
    assert storage_url("postgresql://u@h/d", "x") == "postgresql+psycopg://u@h/d"
    assert storage_url("mysql://u@h/d", "x") == "mysql://u@h/d"
    assert storage_url(None, "/tmp/runs/a") == "sqlite:////tmp/runs/a/study.db"
    assert storage_url("/tmp/b.db", "x") == "sqlite:////tmp/b.db"


def test_all_of_a_space():
    space = Space({"a": [1, 2], "b": ["x", "y", "z"], "c": 5})
    assert len(space) == 6
    found = [tuple(space.candidate(places).values()) for places in space.all()]
    assert found == list(itertools.product([1, 2], "xyz", [5]))
    for places in space.all():
        labels = {name: space.labels(name)[place] for name, place in places.items()}
        assert space.places(labels) == places
    assert space.places({"a": 3, "b": "x", "c": 5}) is None


def test_a_study_that_goes_on_draws_other_candidates(tmp_path):
    plan = plan_in(tmp_path, 6, sampler="random", space={"depth": list(range(1, 40)), "width": [1], "kind": ["a"]})
    work(plan)
    work(replace(plan, trials=12))
    depths = [row["depth"] for row in trials_of(open_study(plan))]
    assert depths[:6] != depths[6:]


def test_a_retried_trial_counts_once_at_its_rung(tmp_path):
    plan = plan_in(tmp_path, 3, rungs=1)
    study = open_study(plan)
    work(replace(plan, trials=1))
    (first,) = study.get_trials()
    again = optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE, values=first.values, params=first.params, distributions=first.distributions,
        user_attrs=first.user_attrs, system_attrs={_study._HISTORY: [first.number]},
    )  # fmt: skip
    study.add_trial(again)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_study, "keeps_going", lambda own, others, eta: seen.append(len(others)) or True)
        work(replace(plan, trials=3))
    assert seen[0] == 1


def test_what_an_objective_raised_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_search, "accuracy_of", lambda candidate: {}["absent"])
    plan = plan_in(tmp_path, 4)
    with pytest.raises(KeyError):
        work(plan)
    assert failures_of(open_study(plan)) == ["KeyError: 'absent'"]


def test_passwords_are_not_shown(tmp_path):
    plan = plan_in(tmp_path, storage="postgresql+psycopg://me:secret@host:5432/db")
    assert plan.shown_storage == "postgresql+psycopg://me:***@host:5432/db"
    assert plan_in(tmp_path).shown_storage == plan_in(tmp_path).storage
