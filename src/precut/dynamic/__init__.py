"""Dynamic networks: one set of weights, many sizes, switched while running.

``make_dynamic`` makes one of any network; ``dyn.ladder`` or ``dyn.point`` choose operating points, ``dyn.fit`` trains
them together, ``dyn.set_point`` switches, ``dyn.extract`` gives a subnet as a plain module, ``dyn.save`` and ``load``
keep everything in one file.
"""

from precut.dynamic._calibrate import pooled_statistics as pooled_statistics
from precut.dynamic._calibrate import recalibrate as recalibrate
from precut.dynamic._compile import CompiledDynamic as CompiledDynamic
from precut.dynamic._compile import compile_points as compile_points
from precut.dynamic._cut import Share as Share
from precut.dynamic._file import load as load
from precut.dynamic._file import save as save
from precut.dynamic._fit import JointObjective as JointObjective
from precut.dynamic._fit import JointResult as JointResult
from precut.dynamic._fit import fit as fit
from precut.dynamic._govern import Governor as Governor
from precut.dynamic._govern import targets as targets
from precut.dynamic._ladder import check_ladder as check_ladder
from precut.dynamic._ladder import make_ladder as make_ladder
from precut.dynamic._net import DynamicNet as DynamicNet
from precut.dynamic._net import make_dynamic as make_dynamic
from precut.dynamic._pipeline import train_ladder as train_ladder
from precut.dynamic._point import Point as Point
from precut.dynamic._rank import ranks as ranks
from precut.dynamic._report import ladder_table as ladder_table
from precut.dynamic._report import plot_accuracy as plot_accuracy
from precut.dynamic._report import plot_widths as plot_widths
from precut.dynamic._report import widths_table as widths_table
from precut.dynamic._space import Space as Space
from precut.dynamic._space import Width as Width

__all__ = [
    "CompiledDynamic",
    "DynamicNet",
    "Governor",
    "JointObjective",
    "JointResult",
    "Point",
    "Share",
    "Space",
    "Width",
    "check_ladder",
    "compile_points",
    "fit",
    "ladder_table",
    "load",
    "make_dynamic",
    "make_ladder",
    "plot_accuracy",
    "plot_widths",
    "pooled_statistics",
    "ranks",
    "recalibrate",
    "save",
    "targets",
    "train_ladder",
    "widths_table",
]
