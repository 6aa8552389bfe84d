"""Loss and accuracy of a saved model, measured on the images of a dataset."""

from __future__ import annotations

import argparse

from precut.cli._options import add_data, load_data
from precut.cli._parser import whole
from precut.cli._show import say, show
from precut.errors import PrecutError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a model.safetensors that precut wrote")
    add_data(parser, None)
    parser.add_argument("--split", metavar="NAME", default="test", help="test or train (default test)")
    parser.add_argument(
        "--image-size", metavar="N", type=int, help="bring all images to this side in pixels (default: as in training)"
    )
    parser.add_argument("--batch-size", metavar="N", type=whole(), default=500)
    parser.add_argument("--flip", action="store_true", help="take the mean over each image and its mirror image")
    parser.add_argument("--threads", metavar="N", type=whole(), help="of torch (default: torch's choice)")


def run(arguments: argparse.Namespace) -> None:
    """Evaluates and reports."""
    import torch

    from precut.checkpoint import load, read_spec
    from precut.training import evaluate

    spec = read_spec(arguments.file)
    if arguments.data is None:
        arguments.data = spec["extra"].get("dataset")
        if arguments.data is None:
            raise PrecutError(f"{arguments.file!r} does not say what it was trained on; pass --data NAME")
    model = load(arguments.file)
    dataset = load_data(arguments, arguments.image_size)
    # Without the shape that training writes: the one that the network was made for.
    side = spec["extra"].get("image_shape", [0, spec["model"]["kwargs"].get("input_size")])[1]
    if arguments.image_size is None and side not in (None, dataset.image_shape[1]):
        say(f"bringing the images to {side} pixels, as in training")
        dataset = load_data(arguments, side)
    channels = dataset.image_shape[0]
    expected = spec["model"]["kwargs"]["in_channels"]
    if channels != expected:
        raise PrecutError(
            f"{arguments.file!r} takes images of {expected} channels, {dataset.name!r} has {channels}; "
            "pass the --data that it was trained on"
        )
    say(f"evaluating on the {arguments.split} images of {dataset.name}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    loss, accuracy = evaluate(model, arguments.split, dataset, arguments.batch_size, flip=arguments.flip)
    images = len(dataset.train if arguments.split == "train" else dataset.test)
    data = {
        "file": arguments.file,
        "data": dataset.name,
        "split": arguments.split,
        "images": images,
        "flip": arguments.flip,
        "loss": loss,
        "accuracy": accuracy,
    }
    how = " and their mirror images" if arguments.flip else ""
    text = f"{dataset.name} {arguments.split}, {images:,} images{how}: loss {loss:.4f}, accuracy {100 * accuracy:.2f} %"
    show(text, data, arguments.json)
