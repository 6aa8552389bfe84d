"""A compiled model that runs without torch."""

from __future__ import annotations

import ctypes as c
import json
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from precut.errors import PrecutError
from precut.runtime._lib import BORROW, NOT_PREPARED, Options, Tensor, call, library

__all__ = ["Model", "load"]

Floats = npt.NDArray[np.float32]


def load(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview,
    threads: int | None = None,
    autotune: bool = True,
    isa: str | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Model:
    """Opens a compiled model (`.precut`).

    Args:
        source: a path (the file is mapped, not copied), or the file's bytes (kept, not copied).
        threads: threads of one run, the caller's included; None is one per core.
        autotune: time the candidates of each layer when a new input shape is first seen; False takes the choice of a
            cost model.
        isa: "avx512", "avx2", "neon", "portable" or "reference"; None is the best that the CPU has.
        cache: the file that keeps autotuning results; None is the user's, "" keeps none.

    Raises:
        PrecutError: the file cannot be read, is damaged, or this library cannot run it.
    """
    if threads is not None and threads < 1:
        raise PrecutError(f"threads must be at least 1, or None for one per core; got {threads}")
    options = Options()
    library().precut_default_options(c.byref(options))
    options.threads = threads or 0
    options.autotune = int(autotune)
    options.isa = isa.encode() if isa is not None else None
    options.cache = os.fsencode(cache) if cache is not None else None
    handle = c.c_void_p()
    keep: object = None
    if isinstance(source, (bytes, bytearray, memoryview)):
        raw = np.frombuffer(source, dtype=np.uint8)
        if raw.ctypes.data % 4:
            raw = raw.copy()
        keep = raw
        options.flags = BORROW
        call("precut_load", raw.ctypes.data, raw.size, c.byref(options), c.byref(handle))
    else:
        call("precut_load_file", os.fsencode(source), c.byref(options), c.byref(handle))
    return Model(handle, keep)


class Model:
    """Runs a compiled model on NumPy arrays. Made by :func:`load`; a context manager that closes itself.

    Different models run at the same time from different threads; runs of one model take turns.
    """

    def __init__(self, handle: c.c_void_p, keep: object) -> None:
        self._handle: c.c_void_p | None = handle
        self._keep = keep  # the bytes that the library reads from
        self._outputs: dict[tuple[tuple[int, ...], ...], list[tuple[int, ...]]] = {}
        self._n_inputs = int(library().precut_input_count(handle))
        self._n_outputs = int(library().precut_output_count(handle))

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """The input shapes that the model was compiled for; batch, height and width may differ in a run."""
        shapes = []
        for i in range(self._n_inputs):
            t = Tensor()
            library().precut_input_shape(self._open(), i, c.byref(t))
            shapes.append(tuple(t.dims[: t.rank]))
        return shapes

    def run(self, *inputs: npt.ArrayLike) -> Floats | tuple[Floats, ...]:
        """One forward.

        Args:
            inputs: one array for each input, (N, C, H, W) or (N, C), converted to float32.

        Returns:
            A float32 array, or a tuple of them where the network has several outputs.
        """
        arrays = [np.ascontiguousarray(x, dtype=np.float32) for x in inputs]
        shapes = tuple(a.shape for a in arrays)
        if shapes not in self._outputs:
            self.prepare(*shapes)
        ins = self._tensors(shapes)
        for t, a in zip(ins, arrays, strict=True):
            t.data = a.ctypes.data
        results: list[Floats] = [np.empty(shape, dtype=np.float32) for shape in self._outputs[shapes]]
        outs = self._tensors([r.shape for r in results])
        for t, r in zip(outs, results, strict=True):
            t.data = r.ctypes.data
        run = ("precut_run", self._open(), ins, len(arrays), outs, len(results))
        if call(*run, passing=(NOT_PREPARED,)) == NOT_PREPARED:  # the library has dropped this old plan
            self.prepare(*shapes)
            call(*run)
        return results[0] if len(results) == 1 else tuple(results)

    __call__ = run

    def prepare(self, *shapes: Sequence[int]) -> list[tuple[int, ...]]:
        """Plans (and, with autotuning, times) a run for these input shapes now; returns the shapes of the outputs."""
        key = tuple(tuple(int(d) for d in shape) for shape in shapes)
        outs = (Tensor * self._n_outputs)()
        call("precut_prepare", self._open(), self._tensors(key), len(key), outs, self._n_outputs)
        self._outputs[key] = [tuple(t.dims[: t.rank]) for t in outs]
        return self._outputs[key]

    def describe(self, *shapes: Sequence[int], rounds: int = 0) -> dict[str, Any]:
        """What the plan for these input shapes (default: those it was compiled for) does, op by op.

        Args:
            shapes: one shape for each input.
            rounds: forwards over which every op is timed first; 0 does not time.
        """
        key = tuple(tuple(int(d) for d in s) for s in shapes) or tuple(self.input_shapes)
        self.prepare(*key)
        text = c.c_void_p()
        call("precut_describe", self._open(), self._tensors(key), len(key), rounds, c.byref(text))
        try:
            return dict(json.loads(c.string_at(text.value or 0).decode()))
        finally:
            library().precut_free(text)

    def close(self) -> None:
        """Frees the model; further calls raise."""
        if self._handle is not None:
            library().precut_close(self._handle)
            self._handle = None
            self._keep = None

    def _open(self) -> c.c_void_p:
        if self._handle is None:
            raise PrecutError("this model has been closed")
        return self._handle

    @staticmethod
    def _tensors(shapes: Sequence[Sequence[int]]) -> Any:
        tensors = (Tensor * max(len(shapes), 1))()
        for t, shape in zip(tensors, shapes, strict=False):
            if len(shape) not in (2, 4):
                raise PrecutError(f"an input has 2 or 4 axes, (N, C) or (N, C, H, W); got shape {tuple(shape)}")
            t.rank = len(shape)
            t.dims[: len(shape)] = [int(d) for d in shape]
        return tensors

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()
