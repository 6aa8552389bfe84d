"""What NN-Mass tells of trained networks, and what designs of one mass cost.

python benchmarks/iso_mass.py claim      # the rows of `precut reproduce iso-mass`: agreement, line, and the two
                                         # networks of mass 180 that are deepest and shallowest, timed in turns
python benchmarks/iso_mass.py partner    # MobileNetV2 x1.4, the partner that `precut design` finds under 4.4 M
                                         # parameters, and the published one, timed in turns on two engines
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import precut
from precut import create_model
from precut._files import atomic_write
from precut.experiments import read_rows, spread
from precut.measure import Comparison, compare_latency, summary
from precut.report import Column, Table, count, si
from precut.topology import design, fit, nn_mass, rank

LARGE, SMALL = "m180-d8", "m180-d4"
METRICS = ("nn_mass", "degree", "synflow", "naswot", "zen")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def engines(model: nn.Module, x: torch.Tensor, threads: int, folder: Path) -> dict[str, Callable[..., Any]]:
    """The network on precut's engine and on dense engines: ONNX Runtime where it is installed, and torch."""
    found: dict[str, Callable[..., Any]] = {"precut": precut.compile(model, x, threads=threads), "torch": model.eval()}
    try:
        import onnxruntime
    except ImportError:
        return found
    file = folder / f"{id(model)}.onnx"
    precut.export(model, file, example_inputs=x)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return {**found, "onnxruntime": lambda batch: session.run(None, {name: batch.numpy()})}


def timed(models: dict[str, nn.Module], x: torch.Tensor, threads: int, rounds: int) -> Comparison:
    """All networks on all engines, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        rivals = {
            f"{name}, {engine}": call
            for name, model in models.items()
            for engine, call in engines(model, x, threads, Path(folder)).items()
        }
        say(f"timing {len(rivals)} in turns, {rounds} rounds")
        return compare_latency(rivals, x, threads=threads, rounds=rounds, min_time=0.02)


def costs(models: dict[str, nn.Module], x: torch.Tensor, title: str) -> Table:
    rows = []
    for name, model in models.items():
        counts = summary(model, x)
        rows.append({"network": name, "mass": nn_mass(model).mass, "params": counts.params, "macs": counts.macs})
    columns = [
        Column("network"), Column("mass", "NN-Mass", ".1f", "right"), Column("params", format=count, align="right"),
        Column("macs", "MACs", si, "right"),
    ]  # fmt: skip
    return Table(rows, columns, title=title, notes=["counted"])


def partner(arguments: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
    shape = {"num_classes": 1000, "input_size": 224}
    reference = create_model("mobilenetv2", width_mult=1.4, **shape)
    found = design(reference, params=4.4e6)
    published = next(c for c in found if c.kwargs["width_mult"] == 1.1)
    models = {"x1.4": reference, "found": found.create(), "published": published.create()}
    x = torch.randn(1, 3, 224, 224)
    tables = [found.table(8), costs(models, x, "the reference and two partners")]
    said = {"found": found.best.to_dict(), "published": published.to_dict()}
    times = timed(models, x, arguments.threads, arguments.rounds)
    return [*tables, times], {**said, "times": times.to_dict()}


def claim(arguments: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
    rows = read_rows(arguments.results / "iso-mass" / "rows.csv")
    if not rows:
        raise precut.PrecutError("there are no rows yet: precut reproduce iso-mass")
    models: dict[str, nn.Module] = {}
    accuracies: dict[str, list[float]] = {}
    for row in rows:
        if row["run"] not in models:
            torch.manual_seed(0)
            models[row["run"]] = create_model(row["model"], **json.loads(row["kwargs"]))
        accuracies.setdefault(row["run"], []).append(float(row["test_accuracy"]))
    means = {name: sum(values) / len(values) for name, values in accuracies.items()}
    columns = [
        Column("network"), Column("mass", format=".1f", align="right"), Column("params", format=count, align="right"),
        Column("macs", "MACs", si, "right"), Column("accuracy", "test %", ".2f", "right"),
        Column("sd", "± sd", ".2f", "right"), Column("seeds", align="right"),
    ]  # fmt: skip
    shown = []
    for name, model in models.items():
        counts, sd = summary(model, torch.zeros(1, 3, 32, 32)), spread(accuracies[name])
        shown.append({
            "network": name, "mass": nn_mass(model).mass, "params": counts.params, "macs": counts.macs,
            "accuracy": 100 * means[name], "sd": None if sd is None else 100 * sd, "seeds": len(accuracies[name]),
        })  # fmt: skip
    tables: list[Any] = [Table(sorted(shown, key=lambda row: row["mass"]), columns, title="iso-mass on CIFAR-10")]
    data: dict[str, Any] = {"rows": shown}
    if len(models) >= 4:
        ranking = rank(models, METRICS, accuracies=means)
        line = fit(list(models.values()), list(means.values()), scale="linear")
        line.plot(arguments.results / "iso-mass" / "line.png")
        tables += [ranking.agreement_table(), line]
        data |= {"agreements": ranking.to_dict()["agreements"], "line": line.to_dict()}
    if {LARGE, SMALL} <= set(models) and not arguments.untimed:
        pair = {name: models[name] for name in (LARGE, SMALL)}
        times = timed(pair, torch.randn(1, 3, 32, 32), arguments.threads, arguments.rounds)
        tables.append(times)
        data["times"] = times.to_dict()
    return tables, data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["claim", "partner"])
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--untimed", action="store_true")
    parser.add_argument("--out", type=Path, help="also write the text there")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tables, data = (claim if arguments.what == "claim" else partner)(arguments)
    text = "\n\n".join(map(str, tables))
    if arguments.out:
        atomic_write(arguments.out, text + "\n")
    print(json.dumps(data, indent=2) if arguments.json else text)


if __name__ == "__main__":
    main()
