"""One engine in a process of its own, told over standard input what to do. Standard library, NumPy and the engine alone:
this file also runs in environments where precut is not installed.

    python _worker.py ENGINE MODEL INPUT.npy THREADS

Each line read is a JSON object, each line written answers it:
{"do": "time", "calls": 2, "seconds": 0.05} -> {"seconds": [one for each call]}
{"do": "output", "path": "y.npy"}           -> {"version": "..."} after writing the output for the input
{"do": "stop"}                              -> ends
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any
Call = Callable[[], Array]


def native(path: str, x: Array, threads: int) -> tuple[Call, str]:
    from precut import runtime

    model = runtime.load(path, threads=threads)
    return (lambda: model.run(x)), runtime.version()


def torch_eager(path: str, x: Array, threads: int) -> tuple[Call, str]:
    import torch

    torch.set_num_threads(threads)
    model: Any = torch.export.load(path).module()
    model.to(memory_format=torch.channels_last)
    images = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)

    def run() -> Array:
        with torch.inference_mode():
            return model(images).numpy()

    return run, torch.__version__


def torch_compile(path: str, x: Array, threads: int) -> tuple[Call, str]:
    import torch
    import torch._inductor.config as config

    config.freezing = True
    torch.set_num_threads(threads)
    model: Any = torch.export.load(path).module()
    model = torch.compile(model.to(memory_format=torch.channels_last))
    images = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)

    def run() -> Array:
        with torch.inference_mode():
            return model(images).numpy()

    return run, torch.__version__


def onnxruntime(path: str, x: Array, threads: int) -> tuple[Call, str]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x}
    return (lambda: session.run(None, feed)[0]), ort.__version__


def openvino(path: str, x: Array, threads: int) -> tuple[Call, str]:
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    model.reshape(list(x.shape))
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    request.set_input_tensor(ov.Tensor(x))

    def run() -> Array:
        request.infer()
        return request.get_output_tensor().data

    return run, ov.__version__


def ncnn(path: str, x: Array, threads: int) -> tuple[Call, str]:
    import ncnn as nc

    net = nc.Net()
    net.opt.num_threads = threads
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    net.load_param(path + ".param")
    net.load_model(path + ".bin")

    def one(image: Array) -> Array:
        with net.create_extractor() as extractor:
            extractor.input(net.input_names()[0], nc.Mat(image).clone())
            return np.array(extractor.extract(net.output_names()[0])[1])

    return (lambda: np.stack([one(image) for image in x])), nc.__version__


def deepsparse(path: str, x: Array, threads: int) -> tuple[Call, str]:
    import deepsparse as ds

    engine = ds.compile_model(path, batch_size=len(x), num_cores=threads)
    return (lambda: engine.run([x])[0]), ds.__version__


ENGINES = {
    "native": native,
    "torch_eager": torch_eager,
    "torch_compile": torch_compile,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "ncnn": ncnn,
    "deepsparse": deepsparse,
}


def main() -> None:
    engine, path, given, threads = sys.argv[1:]
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG: a stopped process would outlive a parent that is killed.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    # Engines print banners; the answers' stream must hold nothing else.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    x = np.load(given)
    run, version = ENGINES[engine](path, x, int(threads))
    run()
    print(json.dumps({"version": version}), file=answers)
    for line in sys.stdin:
        told = json.loads(line)
        if told["do"] == "stop":
            return
        if told["do"] == "output":
            np.save(told["path"], np.asarray(run(), dtype=np.float32))
            print(json.dumps({"version": version}), file=answers)
            continue
        run()  # what was cached before the pause is gone
        seconds: list[float] = []
        while len(seconds) < told["calls"] or sum(seconds) < told["seconds"]:
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": seconds}), file=answers)


if __name__ == "__main__":
    main()
