"""Parameters and multiply-adds of a model, layer by layer, beside those of the dense network. All of it is counted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from precut.cli._options import add_model, build, keep_form, refuse_form
from precut.cli._parser import MOST_PIXELS, whole
from precut.cli._show import show

__all__ = ["configure", "run"]

_FORM = ("support", "width_mult", "model_set", "ignored_layers", "init", "seed", "num_classes", "in_channels")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL_OR_FILE", help="a name (precut list models) or a saved model's file")
    add_model(parser)
    parser.add_argument(
        "--input-size", metavar="N", type=whole(most=MOST_PIXELS), help="side of the images in pixels (default 32)"
    )
    parser.add_argument("--in-channels", metavar="N", type=whole(), default=3)
    parser.add_argument("--num-classes", metavar="N", type=whole(), default=10)
    parser.add_argument("--depth", metavar="N", type=whole(), help="levels of the module tree to show")
    parser.add_argument("--storage", action="store_true", help="also bytes on disk, by form of index")
    parser.add_argument("--traffic", action="store_true", help="also bytes moved, in inference and in a training step")
    keep_form(parser, _FORM)


def _is_file(name: str) -> bool:
    return name.endswith(".safetensors") or Path(name).is_file()


def run(arguments: argparse.Namespace) -> None:
    """Counts and reports."""
    import torch

    from precut.checkpoint import load
    from precut.measure import storage, summary, traffic

    if _is_file(arguments.model):
        refuse_form(arguments)
        model = load(arguments.model)
        kwargs: dict[str, Any] = model.precut_spec["kwargs"]  # type: ignore[assignment, index]
        channels, side = kwargs["in_channels"], arguments.input_size or kwargs["input_size"]
    else:
        channels, side = arguments.in_channels, arguments.input_size or 32
        model = build(arguments, arguments.num_classes, side, channels)
    x = torch.zeros(1, channels, side, side)
    counts = summary(model, x, depth=arguments.depth)
    data, texts = counts.to_dict(), [str(counts)]
    for wanted, name, part in (
        (arguments.storage, "storage", lambda: storage(model)),
        (arguments.traffic, "traffic", lambda: traffic(model, x)),
    ):
        if wanted:
            found = part()
            data[name] = found.to_dict()
            texts.append(str(found))
    show("\n\n".join(texts), data, arguments.json)
