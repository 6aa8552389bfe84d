"""A saved model as a file for other programs: .onnx (runs everywhere, at dense cost) or .precut (libprecut and
precut.runtime run it, at the cost of the weights that exist). What was written is run and compared with torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from precut.cli._parser import MOST_PIXELS, whole
from precut.cli._show import show

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a model.safetensors that precut wrote")
    parser.add_argument("output", metavar="OUTPUT", help="to write: ends in .onnx or .precut")
    parser.add_argument(
        "--input-size", metavar="N", type=whole(most=MOST_PIXELS), help="side of the images (default: the model's)"
    )
    parser.add_argument("--batch", metavar="N", type=whole(), default=1, help="of the example; others work too")


def run(arguments: argparse.Namespace) -> None:
    """Writes, checks and reports."""
    import torch

    from precut.checkpoint import load
    from precut.engine import export

    model = load(arguments.file)
    kwargs: dict[str, Any] = model.precut_spec["kwargs"]  # type: ignore[assignment, index]
    side = arguments.input_size or kwargs["input_size"]
    shape = (arguments.batch, kwargs["in_channels"], side, side)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = export(model, Path(arguments.output), x)
    show(made, {**vars(made), "path": str(made.path)}, arguments.json)
