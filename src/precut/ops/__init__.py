"""Operators on Supports: what multiplies by a sparse weight. The reference runs anywhere that torch does."""

from precut.ops._expand import compact as compact
from precut.ops._expand import expand as expand
from precut.ops._native import NATIVE_CONV2D as NATIVE_CONV2D
from precut.ops._sparse import sparse_conv2d as sparse_conv2d
from precut.ops._sparse import sparse_linear as sparse_linear
from precut.ops._table import Operator as Operator
from precut.ops._table import choose as choose
from precut.ops._table import operators as operators
from precut.ops._table import reference_only as reference_only

__all__ = [
    "NATIVE_CONV2D",
    "Operator",
    "choose",
    "compact",
    "expand",
    "operators",
    "reference_only",
    "sparse_conv2d",
    "sparse_linear",
]
