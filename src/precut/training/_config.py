"""What identifies a run: a fingerprint of the model's form and of the training data."""

from __future__ import annotations

import json
import zlib
from typing import Any

from torch import Tensor, nn

from precut.data import Split
from precut.errors import PrecutError
from precut.layers import scattered

__all__ = ["describe_model", "fingerprint"]


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Class, spec and size of ``model``, and a CRC of every tensor's shape and every support; JSON-able.

    Raises:
        PrecutError: the model's state holds something that is not a tensor, which no checkpoint could keep.
    """
    shapes = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise PrecutError(
                f"the model's state holds {name!r}, a {type(tensor).__name__}; only tensors can be checkpointed"
            )
        shapes[name] = list(tensor.shape)
    supports = {
        name: module.support.to_spec()
        for name, module in model.named_modules()
        if hasattr(getattr(module, "support", None), "to_spec")
    }
    supports |= {
        name: found.maker.to_spec()
        for name, module in model.named_modules()
        if (found := scattered(module)) is not None
    }
    text = json.dumps([shapes, supports], sort_keys=True)
    return {
        "class": type(model).__name__,
        "spec": getattr(model, "precut_spec", None),
        "parameters": sum(p.numel() for p in model.parameters()),
        "crc32": zlib.crc32(text.encode()),
    }


def fingerprint(split: Any) -> int:
    """CRC of the labels, and of the pixels where they are in memory."""
    value = zlib.crc32(split.labels.contiguous().numpy().data)
    return zlib.crc32(split.images.contiguous().numpy().data, value) if isinstance(split, Split) else value
