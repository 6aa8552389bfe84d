"""Supports: which weights of a layer exist, chosen before training. See ``Support`` and its makers."""

from precut.supports._center import CenterOnly as CenterOnly
from precut.supports._class_table import ClassTable as ClassTable
from precut.supports._dense import Dense as Dense
from precut.supports._names import FAMILIES as FAMILIES
from precut.supports._names import parse as parse
from precut.supports._nm import NM as NM
from precut.supports._periodic import Periodic as Periodic
from precut.supports._random_kernel import RandomKernel as RandomKernel
from precut.supports._support import Support as Support
from precut.supports._support import SupportMaker as SupportMaker
from precut.supports._support import from_spec as from_spec
from precut.supports._support import makers as makers
from precut.supports._unstructured import Unstructured as Unstructured

__all__ = [
    "FAMILIES",
    "NM",
    "CenterOnly",
    "ClassTable",
    "Dense",
    "Periodic",
    "RandomKernel",
    "Support",
    "SupportMaker",
    "Unstructured",
    "from_spec",
    "makers",
    "parse",
]
