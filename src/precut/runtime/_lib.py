"""Finds and declares the C library `libprecut`."""

from __future__ import annotations

import ctypes as c
import os
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path

from precut.errors import PrecutError

__all__ = ["MAX_THREADS", "NOT_PREPARED", "Options", "Tensor", "available", "call", "library", "version"]

NOT_PREPARED = 5
MAX_THREADS = 1024  # what the library takes
ERROR_BYTES = 512
BORROW = 1


class Tensor(c.Structure):
    """`precut_tensor`."""

    _fields_ = [("data", c.c_void_p), ("rank", c.c_int32), ("dims", c.c_int64 * 4)]


class Options(c.Structure):
    """`precut_options`."""

    _fields_ = [
        ("struct_size", c.c_uint32),
        ("threads", c.c_int32),
        ("autotune", c.c_int32),
        ("flags", c.c_uint32),
        ("isa", c.c_char_p),
        ("cache", c.c_char_p),
    ]


def _path() -> Path | None:
    override = os.environ.get("PRECUT_LIB")
    if override:
        return Path(override)
    name = {"darwin": "libprecut.dylib", "win32": "precut.dll"}.get(sys.platform, "libprecut.so")
    # beside the package, or (an editable install) where the package would have been installed
    homes = (Path(__file__).resolve().parent.parent, Path(sysconfig.get_path("platlib")) / "precut")
    return next((home / "_lib" / name for home in homes if (home / "_lib" / name).is_file()), None)


def available() -> bool:
    """Whether the native library was built (or PRECUT_LIB names one)."""
    path = _path()
    return path is not None and path.is_file()


@lru_cache(maxsize=1)
def library() -> c.CDLL:
    """The loaded library.

    Raises:
        PrecutError: it was not built, or the file that PRECUT_LIB names cannot be loaded.
    """
    path = _path()
    if path is None:
        raise PrecutError(
            "the native library libprecut is not part of this installation (no C++ compiler was found when precut was "
            "installed); build it with `cmake -S csrc -B build && cmake --build build` and set PRECUT_LIB to its path"
        )
    try:
        lib = c.CDLL(str(path))
    except OSError as error:
        raise PrecutError(f"the native library {str(path)!r} cannot be loaded: {error}") from error
    tensors, error_args = c.POINTER(Tensor), [c.c_char_p, c.c_size_t]
    model = c.c_void_p
    signatures: dict[str, tuple[object, list[object]]] = {
        "precut_default_options": (None, [c.POINTER(Options)]),
        "precut_load": (c.c_int, [c.c_void_p, c.c_size_t, c.POINTER(Options), c.POINTER(model), *error_args]),
        "precut_load_file": (c.c_int, [c.c_char_p, c.POINTER(Options), c.POINTER(model), *error_args]),
        "precut_input_count": (c.c_int32, [model]),
        "precut_output_count": (c.c_int32, [model]),
        "precut_input_shape": (c.c_int, [model, c.c_int32, tensors]),
        "precut_prepare": (c.c_int, [model, tensors, c.c_int32, tensors, c.c_int32, *error_args]),
        "precut_run": (c.c_int, [model, tensors, c.c_int32, tensors, c.c_int32, *error_args]),
        "precut_describe": (c.c_int, [model, tensors, c.c_int32, c.c_int32, c.POINTER(c.c_void_p), *error_args]),
        "precut_free": (None, [c.c_void_p]),
        "precut_close": (None, [model]),
        "precut_version": (c.c_char_p, []),
        "precut_ops_table": (c.c_char_p, []),
        "precut_conv_open": (c.c_int, [c.c_void_p, c.c_char_p, c.POINTER(c.c_void_p), *error_args]),
        "precut_conv_forward": (
            c.c_int,
            [c.c_void_p, c.c_int64, c.c_void_p, c.c_void_p, c.c_void_p, c.c_void_p, c.c_int32, *error_args],
        ),
        "precut_conv_backward": (
            c.c_int,
            [c.c_void_p, c.c_int64, *[c.c_void_p] * 5, c.c_int32, *error_args],
        ),
        "precut_conv_close": (None, [c.c_void_p]),
        "precut_conv_threads": (None, [c.c_void_p]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name, None)
        if function is None:
            raise PrecutError(f"the native library {str(path)!r} is not libprecut, or not of this version: no {name}")
        function.restype = result
        function.argtypes = arguments
    return lib


def call(name: str, *arguments: object, passing: tuple[int, ...] = ()) -> int:
    """Calls a function that ends with (err, errlen). A status in ``passing`` is returned, another failure raised."""
    message = c.create_string_buffer(ERROR_BYTES)
    status = int(getattr(library(), name)(*arguments, message, ERROR_BYTES))
    if status and status not in passing:
        raise PrecutError(message.value.decode("utf-8", "replace"))
    return status


def version() -> str:
    """The library's version."""
    return str(library().precut_version().decode())
