"""precut demo on 36 pictures."""

from __future__ import annotations

import json
from pathlib import Path

SMALL = ("--set", "epochs=1", "val_count=4", "batch_size=20", "crop_padding=0", "--threads", 1)


def names(folder: Path) -> list[str]:
    """Every file below it; TensorBoard's without the time in their names."""
    return sorted(str(file.relative_to(folder)).split(".out.")[0] for file in folder.rglob("*"))


def test_demo_twice(precut, tiny, tmp_path) -> None:
    folder = tmp_path / "runs" / "demo"
    words = ("demo", "--data", tiny, "--runs-dir", tmp_path / "runs", *SMALL)
    done = precut(*words)
    assert done.code == 0, done.err
    assert [line[:5] for line in done.err if line.startswith("[")] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert done.out.startswith((folder / "demo.txt").read_text())
    for word in ("counted: params and MACs", "measured: test %", "latency: measured", "center_P4", "narrower"):
        assert word in done.out
    before = names(folder)

    (folder / "dense" / "model.safetensors").write_text("of an older run")
    done = precut(*words, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert names(folder) == before
    assert found == json.loads((folder / "demo.json").read_text())
    dense, narrow, sparse, wide = found["rows"]
    assert (dense["params"], dense["macs"]) == (dense["params_dense"], dense["macs_dense"])
    assert sparse["params_dense"] == dense["params"]
    for row in (sparse, wide):
        assert row["macs"] < row["macs_dense"]
        assert abs(row["macs"] / narrow["macs"] - 1) < 0.05
    for row in found["rows"]:
        assert 0 <= row["test_percent"] <= 100
        assert min(row["latency_ms"], row["train_seconds"], row["bytes"]) > 0
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_the_networks_meet_one_budget() -> None:
    """At the bundled sample's size, as the table's reader is told."""
    import torch

    import precut
    from precut.cli._demo import NETWORKS

    x = torch.zeros(1, 1, 28, 28)
    macs = []
    for network in NETWORKS:
        model = precut.create_model("speednet", in_channels=1, input_size=28, widths=list(network.widths))
        macs.append(precut.summary(precut.sparsify(model, network.support), x).macs)
    assert max(macs[1:]) / min(macs[1:]) < 1.03
    assert 2.1 < macs[0] / macs[1] < 2.4
