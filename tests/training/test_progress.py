import io
import sys

import pytest

from precut.training import fit
from precut.training._progress import make_progress
from training.toy import RECIPE, toy_dataset, toy_model


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    result = fit(toy_model(), toy_dataset(), RECIPE)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3
    row = result.history[1]
    assert lines[1] == (
        f"epoch 2/3  train loss {row['train_loss']:.4f}  accuracy {100 * row['train_accuracy']:.2f} %  "
        f"validation loss {row['val_loss']:.4f}  accuracy {100 * row['val_accuracy']:.2f} %  {row['seconds']:.1f} s"
    )


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    fit(toy_model(), toy_dataset(), RECIPE, progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    bar = make_progress(True, 20)
    bar.advance(5)
    bar.note("epoch [1/4]")
    bar.close()
    shown = terminal.getvalue()
    assert "epoch [1/4]" in shown
    assert "5/20" in shown
