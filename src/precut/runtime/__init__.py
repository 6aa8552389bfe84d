"""Runs compiled models (`.precut` files) with NumPy and the C library `libprecut` alone; torch is never imported.

::

    from precut import runtime

    with runtime.load("model.precut", threads=2) as model:
        logits = model.run(images)
"""

from __future__ import annotations

from precut.runtime._blob import ACTIVATIONS as ACTIVATIONS
from precut.runtime._blob import Act as Act
from precut.runtime._blob import BlobBuilder as BlobBuilder
from precut.runtime._blob import ClassSupport as ClassSupport
from precut.runtime._blob import MaskSupport as MaskSupport
from precut.runtime._lib import MAX_THREADS as MAX_THREADS
from precut.runtime._lib import available as available
from precut.runtime._lib import call as call
from precut.runtime._lib import library as library
from precut.runtime._lib import version as version
from precut.runtime._model import Model as Model
from precut.runtime._model import load as load
from precut.runtime._table import ops_table as ops_table

__all__ = [
    "ACTIVATIONS",
    "MAX_THREADS",
    "Act",
    "BlobBuilder",
    "ClassSupport",
    "MaskSupport",
    "Model",
    "available",
    "call",
    "library",
    "load",
    "ops_table",
    "version",
]
