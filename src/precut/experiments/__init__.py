"""Experiments as data: claims, and the runner that works through their queues."""

from precut.experiments._claim import Claim as Claim
from precut.experiments._claim import Run as Run
from precut.experiments._claim import list_claims as list_claims
from precut.experiments._claim import load_claim as load_claim
from precut.experiments._claim import spread as spread
from precut.experiments._runner import build as build
from precut.experiments._runner import read_rows as read_rows
from precut.experiments._runner import run_claim as run_claim

__all__ = ["Claim", "Run", "build", "list_claims", "load_claim", "read_rows", "run_claim", "spread"]
