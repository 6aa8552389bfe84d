"""Picture files to pixels. Whatever is wrong with a picture becomes a PrecutError that says which one it is."""

from __future__ import annotations

import functools
import io
import os
import struct
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from precut.data._source import Wanted
from precut.errors import PrecutError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "Encoded",
    "centre",
    "decode",
    "decode_all",
    "fit",
    "is_grey",
    "open_image",
    "pixels",
    "to_array",
    "worker_count",
]

Encoded = tuple[bytes, str]  # a picture file's bytes, and where it was found, for messages

_GREY = ("1", "L", "LA")
_DEEP = ("I", "F")  # and I;16 and its like: more than 8 bits a channel
_CHUNK = 512  # pictures that wait for the decoding threads at a time


def worker_count(threads: int | None) -> int:
    """Decoding threads: as many as asked, or one a CPU that this process may use, eight at most."""
    if threads is None:
        return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if threads < 1:
        raise PrecutError(f"threads={threads}; expected at least 1")
    return threads


def open_image(data: bytes, where: str) -> Image:
    """The picture, its header read and its checksums compared but its pixels not decoded yet."""
    import PIL.Image

    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(data, where)
    try:
        image = PIL.Image.open(io.BytesIO(data))
    except PIL.UnidentifiedImageError:
        raise PrecutError(f"{where}: not a picture file that Pillow knows ({len(data)} bytes)") from None
    except Exception as error:  # Pillow's parsers raise many kinds on damaged files
        raise _damaged(where, error) from error
    if image.mode.startswith(_DEEP):
        raise PrecutError(f"{where}: pixels of mode {image.mode!r}; expected 8 bits a channel")
    return image


def is_grey(image: Image) -> bool:
    return image.mode in _GREY


def pixels(image: Image, channels: int, where: str) -> Image:
    """Decode, and convert to 1 (grey) or 3 (red, green, blue) channels. Colour is never dropped silently."""
    if channels == 1 and not is_grey(image):
        raise PrecutError(f"{where}: a picture of mode {image.mode!r} where grey ones are expected; pass channels=3")
    try:
        return image.convert("L" if channels == 1 else "RGB")
    except Exception as error:
        raise _damaged(where, error) from error


def to_array(image: Image, channels: int) -> NDArray[np.uint8]:
    """uint8 of shape (C, H, W)."""
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def centre(image: Image, size: int) -> Image:
    """Resize the shorter side to ``size`` (bilinear, antialiased) and cut the middle out of the longer one."""
    import PIL.Image

    width, height = image.size
    if (width, height) == (size, size):
        return image
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), PIL.Image.Resampling.BILINEAR, box=box)


def decode(item: Encoded, channels: int, image_size: int | None) -> NDArray[np.uint8]:
    """One picture as uint8 of shape (C, H, W); of ``image_size`` on both sides if that is given."""
    data, where = item
    image = pixels(open_image(data, where), channels, where)
    return to_array(image if image_size is None else centre(image, image_size), channels)


def decode_all(
    items: Iterable[Encoded], count: int, channels: int | None, image_size: int | None, threads: int | None = None
) -> Tensor:
    """Decode ``count`` pictures (at least one) into one uint8 tensor (N, C, H, W), on several threads.

    Without ``image_size`` all must have the size of the first one; without ``channels`` they get the first one's.
    """
    images: NDArray[np.uint8] | None = None
    first = ""
    done = 0
    with ThreadPoolExecutor(worker_count(threads)) as pool:
        for part in _chunks(items):
            if channels is None:
                channels = 1 if is_grey(open_image(*part[0])) else 3
            work = functools.partial(decode, channels=channels, image_size=image_size)
            for item, array in zip(part, pool.map(work, part), strict=True):
                if images is None:
                    images, first = np.empty((count, *array.shape), np.uint8), item[1]
                if array.shape != images.shape[1:]:
                    raise PrecutError(
                        f"{item[1]}: {array.shape[1]}x{array.shape[2]} pixels, but {first} has "
                        f"{images.shape[2]}x{images.shape[3]}; pass image_size= to bring all to one size"
                    )
                images[done] = array
                done += 1
    assert images is not None
    assert done == count
    return torch.from_numpy(images)


def fit(images: Tensor, wanted: Wanted, where: str) -> Tensor:
    """Bring decoded images (N, C, H, W) to the channels and the size that are wanted, as :func:`decode` would."""
    import PIL.Image

    has, channels = images.shape[1], wanted.channels or images.shape[1]
    if has > channels:
        raise PrecutError(f"{where}: colour images where grey ones are expected; pass channels=3")
    images = images.expand(-1, channels, -1, -1)
    size = wanted.image_size
    if size is None or tuple(images.shape[2:]) == (size, size):
        return images.contiguous()
    arrays = images.permute(0, 2, 3, 1).squeeze(3).numpy()
    return torch.from_numpy(np.stack([to_array(centre(PIL.Image.fromarray(a), size), channels) for a in arrays]))


def _chunks(items: Iterable[Encoded]) -> Iterable[list[Encoded]]:
    part: list[Encoded] = []
    for item in items:
        part.append(item)
        if len(part) == _CHUNK:
            yield part
            part = []
    if part:
        yield part


def _check_png(data: bytes, where: str) -> None:
    """Compare the checksum of every chunk: Pillow skips those of the pixel data."""
    start = 8
    while start < len(data):
        if start + 12 > len(data):
            raise PrecutError(f"{where}: damaged picture (the PNG file ends early)")
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 12 + length
        if end > len(data):
            raise PrecutError(f"{where}: damaged picture (the PNG file ends early)")
        if zlib.crc32(data[start + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise PrecutError(f"{where}: damaged picture (a PNG checksum does not match)")
        if data[start + 4 : start + 8] == b"IEND":
            return
        start = end
    raise PrecutError(f"{where}: damaged picture (the PNG file ends early)")


def _damaged(where: str, error: Exception) -> PrecutError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return PrecutError(f"{where}: damaged picture ({reason})")
