"""A compiled model that runs without torch."""

from __future__ import annotations

import ctypes as c
import json
import os
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from precut.errors import PrecutError, whole
from precut.runtime._lib import BORROW, MAX_THREADS, NOT_PREPARED, Options, Tensor, call, library

__all__ = ["Model", "load"]

Floats = npt.NDArray[np.float32]
_MOST = 2**31 - 1  # of numbers that go to C, where larger ones would wrap round


def load(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview,
    threads: int | None = None,
    autotune: bool = True,
    isa: str | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Model:
    """Opens a compiled model (`.precut`).

    Args:
        source: a path (the file is mapped, not copied), or the file's bytes (kept; copied only where they can be
            written to).
        threads: threads of one run, the caller's included, at most 1024; None is one per core.
        autotune: time the candidates of each layer when a new input shape is first seen; False takes the choice of a
            cost model.
        isa: "avx512", "avx2", "neon", "portable" or "reference"; None is the best that the CPU has.
        cache: the file that keeps autotuning results; None is the user's, "" keeps none.

    Raises:
        PrecutError: another argument than these, a file that cannot be read, is damaged, or that this library cannot
            run.
    """
    options = Options()
    library().precut_default_options(c.byref(options))
    options.threads = 0 if threads is None else whole("threads", threads, 1, MAX_THREADS)
    if not isinstance(autotune, bool):
        raise PrecutError(f"autotune must be True or False; got {autotune!r}")
    options.autotune = int(autotune)
    options.isa = _text("isa", isa, "a name such as 'portable'")
    options.cache = _text("cache", cache, "a path")
    handle = c.c_void_p()
    keep: object = None
    if isinstance(source, (bytes, bytearray, memoryview)):
        spread = isinstance(source, memoryview) and not source.c_contiguous
        raw = np.frombuffer(bytes(source) if spread else source, dtype=np.uint8)
        # The library reads them until the model is closed: as it checked them, so they have to stay.
        if raw.flags.writeable or raw.ctypes.data % 4:
            raw = raw.copy()
        keep = raw
        options.flags = BORROW
        call("precut_load", raw.ctypes.data, raw.size, c.byref(options), c.byref(handle))
    else:
        path = _text("source", source, "a path or the bytes of a .precut file")
        if path is None:
            raise PrecutError("source must be a path or the bytes of a .precut file; got None")
        call("precut_load_file", path, c.byref(options), c.byref(handle))
    return Model(handle, keep)


def _text(name: str, given: object, expected: str) -> bytes | None:
    """A path or a name as C takes it; None stays None."""
    if given is None:
        return None
    try:
        raw = os.fsencode(given)  # type: ignore[arg-type]
    except (TypeError, UnicodeEncodeError):
        raise PrecutError(f"{name} must be {expected}; got {given!r:.60}") from None
    if b"\0" in raw:  # C would read it only up to there
        raise PrecutError(f"{name} holds a zero byte: {given!r:.60}")
    return raw


def _floats(given: object) -> Floats:
    """An input as the float32 array that the library reads."""
    try:
        array = np.asarray(given)
    except (
        Exception
    ) as error:  # what other libraries' arrays raise is their own (a tensor that requires grad: detach it)
        raise PrecutError(f"an input of type {type(given).__name__} is no array of numbers: {error}") from error
    if not np.can_cast(array.dtype, np.float32, "same_kind"):
        raise PrecutError(f"inputs are arrays of numbers, converted to float32; got an array of dtype {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float32)


class Model:
    """Runs a compiled model on NumPy arrays. Made by :func:`load`; a context manager that closes itself.

    Different models run at the same time from different threads; runs of one model take turns.
    """

    def __init__(self, handle: c.c_void_p, keep: object) -> None:
        self._handle: c.c_void_p | None = handle
        self._keep = keep  # the bytes that the library reads from
        self._outputs: dict[tuple[tuple[int, ...], ...], list[tuple[int, ...]]] = {}
        # Runs take turns in the library anyway. Held here too, no thread frees the model under another's run, or has
        # the library drop a plan between another's prepare and run.
        self._turn = threading.RLock()
        self._n_inputs = int(library().precut_input_count(handle))
        self._n_outputs = int(library().precut_output_count(handle))

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """The input shapes that the model was compiled for; batch, height and width may differ in a run."""
        shapes = []
        with self._turn:
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
        arrays = [_floats(x) for x in inputs]
        shapes = tuple(a.shape for a in arrays)
        with self._turn:
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
        key = tuple(tuple(whole("an input's size", d, 1, _MOST) for d in shape) for shape in shapes)
        outs = (Tensor * self._n_outputs)()
        with self._turn:
            call("precut_prepare", self._open(), self._tensors(key), len(key), outs, self._n_outputs)
            self._outputs[key] = [tuple(t.dims[: t.rank]) for t in outs]
            return self._outputs[key]

    def describe(self, *shapes: Sequence[int], rounds: int = 0) -> dict[str, Any]:
        """What the plan for these input shapes (default: those it was compiled for) does, op by op.

        Args:
            shapes: one shape for each input.
            rounds: forwards over which every op is timed first; 0 does not time.
        """
        whole("rounds", rounds, 0, _MOST)
        key = tuple(tuple(s) for s in shapes) or tuple(self.input_shapes)
        text = c.c_void_p()
        with self._turn:
            self.prepare(*key)
            call("precut_describe", self._open(), self._tensors(key), len(key), rounds, c.byref(text))
        try:
            return dict(json.loads(c.string_at(text.value or 0).decode()))
        finally:
            library().precut_free(text)

    def close(self) -> None:
        """Frees the model, after the run that another thread may be in; further calls raise."""
        with self._turn:
            if self._handle is not None:
                library().precut_close(self._handle)
                self._handle = None
                self._keep = None

    def __reduce__(self) -> Any:
        # A copy would free the same model a second time.
        raise PrecutError("an opened model cannot be copied or pickled: load the file again")

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
