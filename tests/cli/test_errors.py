"""Every wrong use ends with one line on standard error that says what to do, and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from precut.cli._show import show

WRONG = [
    (["trian"], "unknown command 'trian': did you mean 'train'?"),
    (["--versoin"], "unknown option of precut '--versoin': did you mean '--version'?"),
    (["demo", "--thread", "2"], "unknown option of precut demo '--thread': did you mean '--threads'?"),
    (["train", "--modle", "resnet20"], "unknown option of precut train '--modle': did you mean '--model'?"),
    (["train"], "the following arguments are required: --model; see precut train --help"),
    (["train", "--model"], "argument --model: expected one argument; see precut train --help"),
    (
        ["train", "--model", "resnet20", "--epochs", "1.5"],
        "argument --epochs: expected a whole number of at least 1, got '1.5'; see precut train --help",
    ),
    (
        ["train", "--model", "resnet20", "--lr", "-1"],
        "argument --lr: expected a number above 0, got '-1'; see precut train --help",
    ),
    (
        ["train", "--model", "resnet20", "--seed", "-3"],
        "argument --seed: expected a whole number of at least 0, got '-3'; see precut train --help",
    ),
    (["train", "--model", "resnet20", "--set", "epochs"], "--set takes NAME=VALUE (such as epochs=2); got 'epochs'"),
    (["train", "--model", "resnet20", "--set", "epoch=2"], "unknown recipe field 'epoch': did you mean 'epochs'?"),
    (
        ["train", "--model", "resnet20", "--set", "epochs=[2"],
        "--set epochs: '[2' is not a number, a word, true, false or a [list]",
    ),
    (["train", "--model", "resnet20", "--recipe", "dmeo"], "unknown recipe 'dmeo': did you mean 'demo'?"),
    (
        ["train", "--model", "resnet20", "--name", "a/b"],
        "--name must be the name of one folder below 'runs'; got 'a/b'",
    ),
    (
        ["train", "--model", "resnet20", "--resume", "--overwrite"],
        "--resume and --overwrite exclude each other; choose one",
    ),
    (
        ["train", "--model", "resnet20", "--data", "fashion-minst"],
        "unknown dataset 'fashion-minst': did you mean 'fashion-mnist'?",
    ),
    (["train", "--model", "resnet-20"], "unknown model 'resnet-20': did you mean 'resnet20'?"),
    (
        ["train", "--model", "resnet20", "--init", "frehs", "--support", "PS4_P4"],
        "unknown init 'frehs': did you mean 'fresh'?",
    ),
    (["eval", "no.safetensors"], "there is no model file at 'no.safetensors'"),
    (["summary", "resnet20", "extra"], "precut summary cannot use the word 'extra'; see precut summary --help"),
    (["summary", "no.safetensors"], "there is no model file at 'no.safetensors'"),
    (
        ["summary", "speednet", "--model-set", "width=[1,2,3]"],
        "unknown argument of model 'speednet' 'width': did you mean 'widths'?",
    ),
    (["bench", "--layer", "64@0"], "a layer is written like 64@32 or, with stride 2, 64-128@32; got '64@0'"),
    (
        ["bench", "speednet", "--model-set", "in_channels=x"],
        "--model-set in_channels must be a whole number of at least 1; got 'x'",
    ),
    (
        ["bench", "resnet18", "--model-set", "width_mult=0.5"],
        "width_mult is set by a network's name (width:0.5), not among the model's arguments",
    ),
    (
        ["bench", "resnet18", "--model-set", "input_size=8"],
        "the side of the images is set by --input-size, not by --model-set",
    ),
    (
        ["bench", "--layer", "4@4", "--networks", "width:0.5"],
        "width: and narrow: are for models; the chain 4@4 has the channels of its name alone",
    ),
    (
        ["bench", "resnet20", "--layer", "4@8"],
        "--layer is timed instead of a model: leave MODEL, --model-set and --input-size out",
    ),
    (
        ["summary", "resnet20", "--seed", "99999999999999999999"],
        "argument --seed: expected a whole number of at most 9223372036854775807, got '99999999999999999999'; "
        "see precut summary --help",
    ),
    (
        ["summary", "resnet20", "--input-size", "1000000"],
        "argument --input-size: expected a whole number of at most 65536, got '1000000'; see precut summary --help",
    ),
    (
        ["profile", "x.safetensors", "--name", "../x"],
        "--name must be the name of one folder below 'runs'; got '../x'",
    ),
    (
        ["profile", "x.safetensors", "--resume", "--overwrite"],
        "--resume and --overwrite exclude each other; choose one",
    ),
    (["list", "modles"], "unknown kind of name 'modles': did you mean 'models'?"),
    (["list", "recipes", "x*"], "none of the 4 recipes is like 'x*'; precut list recipes shows all"),
    (["reproduce", "no.yaml"], "there is no claim file 'no.yaml'"),
    (["reproduce", "budget-frontir"], "unknown claim 'budget-frontir': did you mean 'budget-frontier'?"),
    (["checks", "--data-root", "no"], "root='no' is not a folder; expected the one that holds the datasets"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda value: " ".join(value) if type(value) is list else "")
@pytest.mark.parametrize("as_json", [False, True])
def test_wrong_use(precut, words, message, as_json, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = precut(*words, *(["--json"] if as_json and words[0][0] != "-" and words[-1] != "--model" else []))
    assert done.err == [f"precut: error: {message}"]
    assert done.code == 2
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_system_s_failures_are_one_line_too(precut, tiny, tmp_path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    small = ("--set", "val_count=4", "batch_size=20", "crop_padding=0")
    done = precut("demo", "--data", tiny, "--runs-dir", tmp_path / "runs", *small)
    assert done.code == 1
    assert done.err[-1].startswith("precut: error: Not a directory: ")


def test_eval_on_other_channels(precut, tmp_path) -> None:
    import precut as library

    path = library.save(library.create_model("resnet8"), tmp_path / "colour.safetensors")
    done = precut("eval", path, "--data", "fashion-mnist-sample")
    assert done.code == 2
    assert done.err[-1] == (
        f"precut: error: {str(path)!r} takes images of 3 channels, 'fashion-mnist-sample' has 1; "
        "pass the --data that it was trained on"
    )
    assert precut("eval", path).err == [
        f"precut: error: {str(path)!r} does not say what it was trained on; pass --data NAME"
    ]


def test_json_has_no_word_that_is_none(capsys) -> None:
    show("", {"loss": float("nan"), "rows": [{"x": float("inf")}]}, True)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"loss": None, "rows": [{"x": None}]}


def test_terminals_without_a_sign_and_disks_without_room() -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "precut", "reproduce", "budget-frontier", "--show"]
    done = subprocess.run(command, capture_output=True, env=env)
    assert done.returncode == 0, done.stderr
    assert b"test %  ? sd" in done.stdout
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = subprocess.run([sys.executable, "-m", "precut", "list", "data"], stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 1
        assert done.stderr.startswith(b"precut: error: No space left on device; check")


def test_a_wrong_place_for_results_is_told_before_the_work(precut, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    done = precut("bench", "resnet8", "--out", tmp_path / "file")
    assert (done.code, done.err) == (
        1,
        [f"precut: error: File exists: {tmp_path / 'file'}; check the path and the disk"],
    )
