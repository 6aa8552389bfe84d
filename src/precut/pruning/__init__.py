"""Pruning before training: scores, allocations and schedules, independent of one another, that end in real sparse
layers. ``prune`` is the call; ``scores``, ``allocations``, ``schedules`` and ``structures`` are the tables."""

from precut.pruning._allocation import Allocation as Allocation
from precut.pruning._data_scores import NTKSAP as NTKSAP
from precut.pruning._data_scores import Force as Force
from precut.pruning._data_scores import GraSP as GraSP
from precut.pruning._data_scores import Snip as Snip
from precut.pruning._log_flow import log_flow as log_flow
from precut.pruning._network import Layer as Layer
from precut.pruning._network import Network as Network
from precut.pruning._prune import as_masks as as_masks
from precut.pruning._prune import prune as prune
from precut.pruning._prune import score_weights as score_weights
from precut.pruning._registry import allocations as allocations
from precut.pruning._registry import schedules as schedules
from precut.pruning._registry import scores as scores
from precut.pruning._report import PruneReport as PruneReport
from precut.pruning._scores import Magnitude as Magnitude
from precut.pruning._scores import Random as Random
from precut.pruning._scores import Score as Score
from precut.pruning._structured import choose as choose
from precut.pruning._structured import structure_of as structure_of
from precut.pruning._structured import structures as structures
from precut.pruning._synflow import SynFlow as SynFlow

__all__ = [
    "NTKSAP",
    "Allocation",
    "Force",
    "GraSP",
    "Layer",
    "Magnitude",
    "Network",
    "PruneReport",
    "Random",
    "Score",
    "Snip",
    "SynFlow",
    "allocations",
    "as_masks",
    "choose",
    "log_flow",
    "prune",
    "schedules",
    "score_weights",
    "scores",
    "structure_of",
    "structures",
]
