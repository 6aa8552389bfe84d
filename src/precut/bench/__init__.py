"""precut against other engines: the same networks, a process for each, timed in turns."""

from precut.bench._engines import Engine as Engine
from precut.bench._engines import engines as engines
from precut.bench._engines import installed as installed
from precut.bench._engines import make_deepsparse as make_deepsparse
from precut.bench._networks import chained as chained
from precut.bench._networks import layer_chain as layer_chain
from precut.bench._networks import network as network
from precut.bench._networks import registered as registered
from precut.bench._run import Bench as Bench
from precut.bench._run import bench as bench

__all__ = [
    "Bench",
    "Engine",
    "bench",
    "chained",
    "engines",
    "installed",
    "layer_chain",
    "make_deepsparse",
    "network",
    "registered",
]
