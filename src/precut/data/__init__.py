"""Datasets of images: found, decoded once, and given out in augmented batches."""

from precut.data._augment import Augment as Augment
from precut.data._batches import BatchLoader as BatchLoader
from precut.data._dataset import Dataset as Dataset
from precut.data._dataset import Split as Split
from precut.data._find import locate as locate
from precut.data._known import list_datasets as list_datasets
from precut.data._lazy import LazySplit as LazySplit
from precut.data._load import load as load
from precut.data._points import PointSplit as PointSplit
from precut.data._points import segments as segments

__all__ = [
    "Augment",
    "BatchLoader",
    "Dataset",
    "LazySplit",
    "PointSplit",
    "Split",
    "list_datasets",
    "load",
    "locate",
    "segments",
]
