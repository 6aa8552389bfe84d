import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import precut
from precut.errors import PrecutError
from precut.training import _devices, fit
from training.toy import RECIPE, toy_dataset, toy_model

TOY = str(Path(__file__).with_name("toy.py"))


def launch(folder: Path, processes: int, *options: str, epochs: int = 3) -> None:
    """toy.py by torchrun."""
    environment = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, TOY, str(folder), str(epochs), *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """The same global batches: the same weights but for the order in which gradients are summed. Without batch norm,
    whose statistics come from each process's own share, and without dropout, which each draws for itself."""
    launch(tmp_path / "two", 2)
    model = toy_model(norm=False, dropout=0.0)
    one = fit(model, toy_dataset(), RECIPE, progress=False)
    loaded = precut.load(tmp_path / "two" / "model.safetensors", toy_model(norm=False))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    two = json.loads((tmp_path / "two" / "result.json").read_text())
    assert json.loads((tmp_path / "two" / "config.json").read_text())["processes"] == 2
    for mine, theirs in zip(one.history, two["history"], strict=True):
        assert theirs["step"] == mine["step"]
        assert theirs["train_loss"] == pytest.approx(mine["train_loss"], rel=1e-4)
        assert theirs["val_loss"] == pytest.approx(mine["val_loss"], rel=1e-4)
        assert theirs["val_accuracy"] == mine["val_accuracy"]
    assert two["test_accuracy"] == one.test_accuracy


@pytest.mark.slow
def test_two_processes_resume(tmp_path: Path) -> None:
    """With batch norm and dropout: every process's random numbers and sums come back."""
    launch(tmp_path / "whole", 2, "norm")
    launch(tmp_path / "cut", 2, "norm", "stop=7")
    launch(tmp_path / "cut", 2, "norm")
    for name in ("state.safetensors", "best.safetensors", "model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_batch_that_cannot_be_shared() -> None:
    class Two:
        """Stands for a Fabric of two processes."""

        world_size, global_rank, device = 2, 0, torch.device("cpu")

        class strategy:  # noqa: N801
            class precision:  # noqa: N801
                precision = "32-true"

    with pytest.raises(PrecutError) as caught:
        fit(toy_model(), toy_dataset(), RECIPE.replace(batch_size=25), fabric=Two())  # type: ignore[arg-type]
    assert str(caught.value) == "recipe batch_size=25 cannot be shared by 2 processes; expected a multiple of 2"
    with pytest.raises(PrecutError) as caught:
        fit(toy_model(), toy_dataset(), RECIPE, fabric=Two(), precision="32-true")  # type: ignore[arg-type]
    assert str(caught.value) == "fit got both fabric and precision; a Fabric has its own precision"


@pytest.mark.parametrize("native", [False, True])
def test_auto_takes_bfloat16_where_it_is_native(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_devices, "has_fast_bf16", lambda device: native)
    cpu = torch.device("cpu")
    assert _devices.resolve_precision("auto", cpu) == ("bf16-mixed" if native else "32-true")
    assert _devices.resolve_precision("32-true", cpu) == "32-true"


def test_what_importing_costs() -> None:
    """Fabric, the progress bar and YAML are loaded when they are needed."""
    code = "import sys, precut.training; print([m for m in ('lightning_fabric', 'rich', 'yaml') if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_fabric_of_ones_own() -> None:
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    mine = fit(toy_model(), toy_dataset(), RECIPE, fabric=fabric, progress=False)
    made = fit(toy_model(), toy_dataset(), RECIPE, progress=False)
    assert mine.test_loss == made.test_loss
