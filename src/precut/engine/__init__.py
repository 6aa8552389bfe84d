"""Compiled inference: a captured network, folded, fused and run by the native library."""

from precut.engine._compile import compile
from precut.engine._compiled import CompiledModel
from precut.engine._export import Export, export
from precut.engine._table import LOWERINGS, supported_operations

__all__ = ["LOWERINGS", "CompiledModel", "Export", "compile", "export", "supported_operations"]
