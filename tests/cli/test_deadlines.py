"""precut profile and precut replay, from a trained model to a table."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny):
    from precut.cli import main

    folder = tmp_path_factory.mktemp("runs")
    for width in ("0.25", "0.5"):
        words = f"train --model resnet8 --width-mult {width} --data {tiny} --epochs 1 --batch-size 8 --set val_count=6"
        assert main([*words.split(), "--name", f"w{width}", "--runs-dir", str(folder), "--threads", "1"]) == 0
    return folder


def test_profile_record_and_replay(precut, models, tmp_path, tiny):
    common = ["--runs-dir", tmp_path, "--rounds", 300, "--data", tiny, "--tolerance", 0.9]
    files = [models / "w0.25", models / "w0.5" / "model.safetensors"]
    done = precut("profile", *files, *common, "--batch", 1, 2, "--json")
    assert done.code == 0, done.err
    data = json.loads(done.out)
    assert {(row["point"], row["batch"], row["n"]) for row in data["profile"]} == {
        ("w0.25", 1, 300), ("w0.25", 2, 300), ("w0.5", 1, 300), ("w0.5", 2, 300),
    }  # fmt: skip
    assert data["frontier"]
    folder = tmp_path / "profile"
    assert {path.name for path in folder.iterdir()} == {"profile.json", "frontier.json", "frontier.png"}
    again = precut("profile", *files, *common)
    assert again.code == 2
    assert "holds a profile: add --resume to keep it" in again.err[-1]
    before = (folder / "profile.json").read_bytes()
    kept = precut(
        "profile", *files, *common, "--resume", "--batch", 1, 2, "--record", "idle", "--requests", 120, "--gap-ms", 1
    )
    assert kept.code == 0, kept.err
    assert (folder / "profile.json").read_bytes() == before
    replayed = precut(
        "replay",
        folder / "trace-idle.jsonl",
        "--profile",
        folder / "frontier.json",
        "--json",
        "--plot",
        tmp_path / "r.png",
    )
    assert replayed.code == 0, replayed.err
    names = [row["policy"] for row in json.loads(replayed.out)["policies"]]
    assert {"conformal", "mean-time", "clairvoyant", "law-oracle"} <= set(names)
    assert (tmp_path / "r.png").is_file()


def test_replay_of_a_made_trace(precut, models, tmp_path, tiny):
    assert precut("profile", models / "w0.25", "--runs-dir", tmp_path, "--rounds", 300, "--data", tiny).code == 0
    profile = tmp_path / "profile" / "profile.json"
    words = ["replay", "--made", "markov", "--profile", profile, "--requests", 200, "--seed", 3]
    done = precut(*words, "--policies", "conformal", "smallest", "--save-trace", tmp_path / "t.parquet")
    assert done.code == 0, done.err
    assert "markov, 200 requests, 1 points" in done.out
    from_file = precut("replay", tmp_path / "t.parquet", "--profile", profile, "--json")
    made = precut(*words, "--json")
    digests = [[row["digest"] for row in json.loads(one.out)["policies"]] for one in (from_file, made)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("replay --profile none.json", "takes a TRACE file or --made LOAD"),
        ("replay --made square --profile none.json --policies x", "unknown policy 'x'"),
        ("replay t.jsonl --profile none.json", "there is no profile 'none.json'"),
        ("profile none.safetensors", "there is no model file at 'none.safetensors'"),
        ("profile none.safetensors --record busy", "unknown load 'busy'"),
        ("profile none.safetensors --time p98", "unknown time statistic 'p98': did you mean 'p99'?"),
        ("profile none.safetensors --rounds 298", "--time p99_ucb takes at least 299 rounds; got --rounds 298"),
        ("profile none.safetensors --rounds 99 --time p99", "--time p99 takes at least 100 rounds; got --rounds 99"),
        ("profile none.safetensors --min-accuracy 2", "expected a share above 0, at most 1 (90 % is 0.9), got '2'"),
        ("search --data none", "unknown dataset 'none'"),
        ("search --data fashion-mnist-sample --set val_count=0", "the recipe holds out none: --set val_count=N"),
        ("search --data fashion-mnist-sample --set val_count=90000", "cannot hold out count=90000 of the"),
        ("search --min-accuracy nan", "expected a share above 0, at most 1 (90 % is 0.9), got 'nan'"),
    ],
)
def test_wrong_words(precut, words, message):
    done = precut(*words.split())
    assert done.code == 2
    assert message in done.err[-1]


@pytest.mark.slow
def test_search_and_go_on(precut, tmp_path, tiny):
    pytest.importorskip("optuna")
    space = tmp_path / "space.yaml"
    space.write_text("model: resnet8\nwidth_mult: [0.25, 0.5]\nsupport: [PS4_P4, dense]\n")
    words = f"search --space {space} --data {tiny} --epochs 1 --batch-size 8 --set val_count=6 --rungs 0 --name family"
    words += f" --runs-dir {tmp_path} --grace 5"
    done = precut(*words.split(), "--trials", 2, "--json")
    assert done.code == 0, done.err
    data = json.loads(done.out)
    assert data["counts"]["finished"] == 2
    assert {row["support"] for row in data["rows"]} <= {"PS4_P4", "dense"}
    assert (tmp_path / "family" / "trial-0" / "model.safetensors").is_file()
    assert (tmp_path / "family" / "search.png").is_file()
    more = precut(*words.split(), "--trials", 3)
    assert more.code == 0, more.err
    assert "study family: 3 finished" in more.out
    assert f"--data {tiny} --split test" in more.out
    other = precut(*words.replace("--epochs 1", "--epochs 2").split(), "--trials", 3)
    assert other.code == 2
    assert "study 'family' was begun with settings" in other.err[-1]
    many = precut(*words.split(), "--trials", 5)
    assert "the space has 4 candidates, fewer than the 5 trials" in many.err[-1]
