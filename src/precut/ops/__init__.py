"""Operators on Supports: what multiplies by a sparse weight. The reference runs anywhere that torch does."""

import precut.ops._native as _native
from precut.ops._expand import compact as compact
from precut.ops._expand import expand as expand
from precut.ops._sparse import sparse_conv2d as sparse_conv2d
from precut.ops._sparse import sparse_linear as sparse_linear
from precut.ops._table import Operator as Operator
from precut.ops._table import choose as choose
from precut.ops._table import operators as operators

__all__ = ["Operator", "choose", "compact", "expand", "operators", "sparse_conv2d", "sparse_linear"]
