"""Sparse layers under DistributedDataParallel, in two real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from layers.ddp_worker import batch, network, train

WORKER = Path(__file__).with_name("ddp_worker.py")


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([sys.executable, str(WORKER), str(tmp_path), str(rank)], env=environment) for rank in (0, 1)
    ]
    assert [worker.wait(timeout=180) for worker in workers] == [0, 0]
    for name, unstructured in (("rule", False), ("bits", True)):
        alone = network(unstructured)
        train(alone, *batch())
        for rank in (0, 1):
            result = torch.load(tmp_path / f"{name}{rank}.pt")
            assert set(result["state"]) == set(alone.state_dict())
            for key, value in alone.state_dict().items():
                torch.testing.assert_close(result["state"][key], value, rtol=1e-4, atol=1e-6)
            # A support that is a rule has nothing to broadcast, step after step.
            assert result["broadcasts"] == unstructured
