"""What a network costs: parameters, multiply-adds, bytes, time and energy, each beside the dense network's.

"Counted" numbers are arithmetic on the network; "measured" ones are a clock's or a counter's; "modelled" ones are a
published cost table times counts. Every number says which it is.
"""

from precut._environment import environment as environment
from precut.measure._compare import Comparison as Comparison
from precut.measure._compare import Ratio as Ratio
from precut.measure._compare import compare_latency as compare_latency
from precut.measure._compare import paired_ratio as paired_ratio
from precut.measure._constraints import Constraints as Constraints
from precut.measure._energy import EnergyCounter as EnergyCounter
from precut.measure._energy import EnergyReading as EnergyReading
from precut.measure._energy import energy_counters as energy_counters
from precut.measure._energy import measure_energy as measure_energy
from precut.measure._energy_model import HOROWITZ_45NM as HOROWITZ_45NM
from precut.measure._energy_model import EnergyConstants as EnergyConstants
from precut.measure._energy_model import ModelledEnergy as ModelledEnergy
from precut.measure._energy_model import modelled_energy as modelled_energy
from precut.measure._formulas import count_macs as count_macs
from precut.measure._latency import LatencyReport as LatencyReport
from precut.measure._latency import latency as latency
from precut.measure._storage import Storage as Storage
from precut.measure._storage import StorageRow as StorageRow
from precut.measure._storage import storage as storage
from precut.measure._summary import LayerRow as LayerRow
from precut.measure._summary import Summary as Summary
from precut.measure._summary import summary as summary
from precut.measure._traffic import Traffic as Traffic
from precut.measure._traffic import TrafficRow as TrafficRow
from precut.measure._traffic import traffic as traffic

__all__ = [
    "HOROWITZ_45NM",
    "Comparison",
    "Constraints",
    "EnergyConstants",
    "EnergyCounter",
    "EnergyReading",
    "LatencyReport",
    "LayerRow",
    "ModelledEnergy",
    "Ratio",
    "Storage",
    "StorageRow",
    "Summary",
    "Traffic",
    "TrafficRow",
    "compare_latency",
    "count_macs",
    "energy_counters",
    "environment",
    "latency",
    "measure_energy",
    "modelled_energy",
    "paired_ratio",
    "storage",
    "summary",
    "traffic",
]
