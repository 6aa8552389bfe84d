"""Time precut's engine against every other engine that is installed: the same networks, a process for each engine, in
interleaved rounds. Networks: dense, a support's name, mask:0.05 (random masks), synflow:0.05 and erk:0.05 (the whole
network pruned), width:0.5 (narrower dense), narrow:PSD1_P16 (dense, narrowed until it is as slow as that support's network)."""

from __future__ import annotations

import argparse
from pathlib import Path

from precut.cli._parser import MOST_PIXELS, assignments, whole
from precut.cli._show import say, show
from precut.errors import PrecutError
from precut.errors import whole as checked

__all__ = ["configure", "run"]

_NETWORKS = ["dense", "PS4_P4", "PSD4_P8", "PS2_P4", "PSD1_P16", "PS1_P8"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a name (precut list models; default resnet18)")
    parser.add_argument("--networks", metavar="NAME", nargs="+", default=_NETWORKS, help="the first is the dense one")
    parser.add_argument(
        "--layer", metavar="C@S", help="a chain of one convolution instead of a model: 64@32, 64-128@32"
    )
    parser.add_argument("--model-set", metavar="NAME=VALUE", nargs="+", default=[], help="the model's own arguments")
    parser.add_argument(
        "--input-size", metavar="N", type=whole(most=MOST_PIXELS), help="side of the images (default 32)"
    )
    parser.add_argument("--batch", metavar="N", type=whole(), default=1)
    parser.add_argument("--threads", metavar="N", type=whole(), default=1, help="of each engine (default 1)")
    parser.add_argument("--engines", metavar="NAME", nargs="+", help="default: all that are installed")
    parser.add_argument("--rounds", metavar="N", type=whole(), default=40, help="30 make a claim (default 40)")
    parser.add_argument("--list", action="store_true", help="which engines there are, and which are installed")
    parser.add_argument(
        "--install-deepsparse", action="store_true", help="make the environment that DeepSparse needs (300 MB), once"
    )
    parser.add_argument("--out", metavar="FOLDER", help="also write table, CSV, JSON and a picture there")
    parser.add_argument("--name", metavar="NAME", help="of those files (default: made of the options)")


def run(arguments: argparse.Namespace) -> None:
    """Times and reports."""
    import torch

    from precut.bench import bench, chained, engines, installed, make_deepsparse, network, registered

    if arguments.install_deepsparse:
        say(f"DeepSparse is at {make_deepsparse()}")
    if arguments.list or arguments.install_deepsparse:
        there = {name: installed(name) for name in engines}
        lines = [f"{name}: {'installed' if here else 'not here'}" for name, here in there.items()]
        show("\n".join(lines), there, arguments.json)
        return
    if arguments.out:
        Path(arguments.out).mkdir(parents=True, exist_ok=True)  # a wrong place is told before the work
    torch.set_num_threads(arguments.threads)
    kwargs = assignments(arguments.model_set, "--model-set")
    model = arguments.model or "resnet18"
    if arguments.layer:
        if kwargs or arguments.model or arguments.input_size:
            raise PrecutError("--layer is timed instead of a model: leave MODEL, --model-set and --input-size out")
        build = chained(arguments.layer)
        channels, side = next(build(1.0).parameters()).shape[1], int(arguments.layer.split("@")[1])
    else:
        if "input_size" in kwargs:
            raise PrecutError("the side of the images is set by --input-size, not by --model-set")
        channels, side = checked("--model-set in_channels", kwargs.get("in_channels", 3)), arguments.input_size or 32
        build = registered(model, input_size=side, **kwargs)
    x = torch.randn(arguments.batch, channels, side, side, generator=torch.Generator().manual_seed(0))
    networks = dict(network(name, build, x, arguments.threads, say) for name in arguments.networks)
    measured = bench(networks, x, arguments.threads, arguments.engines, arguments.rounds, progress=say)
    show(measured, measured.to_dict(), arguments.json)  # before files are written, which may fail
    if arguments.out:
        what = arguments.layer or f"{model}-{side}px"
        name = arguments.name or f"{what}-batch{arguments.batch}-threads{arguments.threads}"
        say(f"written: {', '.join(map(str, measured.write(Path(arguments.out), name)))}")
