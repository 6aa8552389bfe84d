"""A run's folder, and leaving and taking up a run."""

import json
import signal
import sys
import types
from pathlib import Path

import pytest

from precut.errors import PrecutError
from precut.training import TrainingInterrupted, fit
from training.toy import RECIPE, Crash, Drift, Stop, run, same, toy_dataset, toy_model, weights


def test_wrong_uses_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(RuntimeError, match="crash"):
        run(folder, callbacks=[Crash(7)])
    for options, message in (
        (
            {},
            f"{str(folder)!r} holds an unfinished run: resume=True goes on with it, overwrite=True begins anew, "
            "or choose another run_dir",
        ),
        (
            {"resume": True, "overwrite": True},
            "fit got resume=True and overwrite=True; choose one",
        ),
        (
            {"resume": True, "seed": 5, "callbacks": [Crash(99)]},
            f"cannot resume {str(folder)!r}: seed is 5 here, but the run began with 0; "
            "pass the same value, or overwrite=True to begin anew",
        ),
        (
            {"resume": True, "recipe": RECIPE.replace(lr=0.2), "callbacks": [Crash(99)]},
            f"cannot resume {str(folder)!r}: recipe.lr is 0.2 here, but the run began with 0.1; "
            "pass the same value, or overwrite=True to begin anew",
        ),
        (
            {"resume": True, "precision": "bf16-mixed", "callbacks": [Crash(99)]},
            f"cannot resume {str(folder)!r}: precision is 'bf16-mixed' here, but the run began with '32-true'; "
            "pass the same value, or overwrite=True to begin anew",
        ),
        (
            {"resume": True, "model": toy_model(norm=False), "callbacks": [Crash(99)]},
            f"cannot resume {str(folder)!r}: model.parameters is 389 here, but the run began with 405; "
            "pass the same value, or overwrite=True to begin anew",
        ),
        (
            {"resume": True, "threads": 2, "callbacks": [Crash(99)]},
            f"cannot resume {str(folder)!r}: threads is 2 here, but the run began with 1; "
            "pass the same value, or overwrite=True to begin anew",
        ),
        (
            {"resume": True, "callbacks": [Drift()]},
            f"cannot resume {str(folder)!r}: callbacks is [{{'Drift': {{'size': 0.01}}}}] here, "
            "but the run began with [{'Crash': {}}]; pass the same value, or overwrite=True to begin anew",
        ),
        ({"resume": True, "dataset": toy_dataset(seed=1), "callbacks": [Crash(99)]}, None),
    ):
        with pytest.raises(PrecutError) as caught:
            run(folder, **options)
        if message is None:
            assert str(caught.value).startswith(f"cannot resume {str(folder)!r}: dataset.crc32 is ")
        else:
            assert str(caught.value) == message


def test_a_finished_run_is_kept(tmp_path: Path) -> None:
    model, result = run(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(PrecutError) as caught:
        run(tmp_path)
    assert str(caught.value) == (
        f"{str(tmp_path)!r} holds a finished run: resume=True returns its result, overwrite=True begins anew, "
        "or choose another run_dir"
    )
    fresh, again = run(tmp_path, toy_model(seed=3), resume=True)
    assert again == result
    assert same(weights(fresh), weights(model))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == files
    _, other = run(tmp_path, overwrite=True, seed=1)
    assert other.history != result.history
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_a_run_that_resumes(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    whole, expected = run(tmp_path / "whole", callbacks=[Stop(0, number)])
    with pytest.raises(TrainingInterrupted) as caught:
        run(tmp_path / "cut", callbacks=[Stop(7, number)])
    assert (
        str(caught.value)
        == f"stopped at epoch 2, step 7 of 15; {str(tmp_path / 'cut')!r} goes on from here with resume"
    )
    assert caught.value.signal == number
    assert signal.getsignal(number) == before
    with pytest.raises(TrainingInterrupted, match="stopped at epoch 3, step 10 of 15"):
        run(tmp_path / "cut", callbacks=[Stop(10, number)], resume=True)  # the last step of an epoch
    model, result = run(tmp_path / "cut", callbacks=[Stop(0, number)], resume=True)
    assert same(weights(model), weights(whole))
    assert result.test_loss == expected.test_loss
    with pytest.raises(
        TrainingInterrupted, match="stopped at epoch 1, step 3 of 15; nothing is saved, since there is no run_dir"
    ):
        run(None, callbacks=[Stop(3, number)])


def test_threads_of_a_resumed_run(tmp_path: Path) -> None:
    """None means what the run began with, whatever the number is now."""
    with pytest.raises(RuntimeError, match="crash"):
        run(tmp_path, callbacks=[Crash(7)], threads=2)
    _, result = run(tmp_path, callbacks=[Crash(99)], resume=True)
    assert json.loads((tmp_path / "config.json").read_text())["threads"] == 2
    assert len(result.history) == 3


def test_other_conditions_are_remarked_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="crash"):
        run(tmp_path, callbacks=[Crash(7)])
    file = tmp_path / "env.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"cpu": "another"}))
    fit(toy_model(), toy_dataset(), RECIPE, run_dir=tmp_path, callbacks=[Crash(99)], resume=True)
    said = capsys.readouterr().err
    assert "this run began with cpu another, now " in said
    assert "going on from epoch 2, step 5 of 15" in said
    assert "epoch 3/3  train loss " in said


def test_tensorboard_gets_the_rows_if_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.machinery

    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int | None) -> None:
            self.folder, self.purge = folder, purge_step
            written.append((folder, -1.0, purge_step or 0))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None:
            pass

        def close(self) -> None:
            pass

    package = types.ModuleType("tensorboard")
    package.__spec__ = importlib.machinery.ModuleSpec("tensorboard", None)
    writer = types.ModuleType("torch.utils.tensorboard")
    writer.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorboard", package)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", writer)
    with pytest.raises(RuntimeError, match="crash"):
        run(tmp_path, callbacks=[Crash(7)])
    _, result = run(tmp_path, callbacks=[Crash(99)], resume=True)
    assert [entry for entry in written if entry[0] == "val_accuracy"] == [
        ("val_accuracy", row["val_accuracy"], row["step"]) for row in result.history
    ]
    assert [entry for entry in written if entry[1] == -1] == [
        (str(tmp_path / "tensorboard"), -1, 0),
        (str(tmp_path / "tensorboard"), -1, 5),
    ]
