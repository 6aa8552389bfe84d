"""Sparse layers, and the functions that put them into a model."""

from precut.layers._base import SparseLayer as SparseLayer
from precut.layers._conv import SparseConv2d as SparseConv2d
from precut.layers._densify import densify as densify
from precut.layers._linear import SparseLinear as SparseLinear
from precut.layers._masks import from_masks as from_masks
from precut.layers._move import SupportMove as SupportMove
from precut.layers._read_as_dense import read_as_dense as read_as_dense
from precut.layers._replace import check_hooks as check_hooks
from precut.layers._replace import replace_layer_ as replace_layer_
from precut.layers._replace import sparse_like as sparse_like
from precut.layers._scattered import Scattered as Scattered
from precut.layers._scattered import scatter_ as scatter_
from precut.layers._scattered import scattered as scattered
from precut.layers._select import ignored_names as ignored_names
from precut.layers._skip import skip_block_ as skip_block_
from precut.layers._sparsify import init_fresh_ as init_fresh_
from precut.layers._sparsify import sparsify as sparsify
from precut.layers._sparsify import sparsify_ as sparsify_

__all__ = [
    "Scattered",
    "SparseConv2d",
    "SparseLayer",
    "SparseLinear",
    "SupportMove",
    "check_hooks",
    "densify",
    "from_masks",
    "ignored_names",
    "init_fresh_",
    "read_as_dense",
    "replace_layer_",
    "scatter_",
    "scattered",
    "skip_block_",
    "sparse_like",
    "sparsify",
    "sparsify_",
]
