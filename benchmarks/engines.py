"""precut.compile against dense engines on the same network: interleaved rounds, ratios of paired medians.

    python benchmarks/engines.py --model resnet18 --batch 1 --threads 1 --supports PS4_P4,PSD1_P16

Rivals run the *dense* network of the same shape: torch eager in channels_last, and OpenVINO where it is installed. Speed-ups
are over OpenVINO (else torch), with a bootstrap 90 % interval; the claim is the interval's lower end.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch

import precut
from precut.measure import compare_latency


def rivals(model: torch.nn.Module, x: torch.Tensor, threads: int) -> dict[str, Callable[[Any], Any]]:
    """Dense engines by name."""
    found: dict[str, Callable[[Any], Any]] = {}
    eager = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run_eager(image: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return eager(image.contiguous(memory_format=torch.channels_last))

    found["torch channels_last"] = run_eager
    try:
        import openvino
    except ImportError:
        return found
    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(openvino.convert_model(model, example_input=x), "CPU", options)
    found["openvino f32"] = lambda image: compiled(image.numpy())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--input-size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--supports", default="dense,PS4_P4,PSD4_P8,PS2_P4,PSD1_P16,PS1_P8")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    dense = precut.create_model(arguments.model, input_size=arguments.input_size).eval()
    x = torch.randn(arguments.batch, 3, arguments.input_size, arguments.input_size)
    runs: dict[str, Callable[[Any], Any]] = {}
    for support in arguments.supports.split(","):
        model = precut.sparsify(dense, support).eval()
        compiled = precut.compile(model, x, threads=arguments.threads)
        with torch.inference_mode():
            error = (compiled(x) - model(x)).abs().max() / model(x).abs().max()
        assert error < 1e-4, f"{support} is wrong by {error:.1e}"
        runs[f"precut {support}"] = compiled
    others = rivals(dense, x, arguments.threads)
    baseline = list(others)[-1]
    print(compare_latency(runs | others, x, rounds=arguments.rounds, threads=arguments.threads, baseline=baseline))


if __name__ == "__main__":
    main()
