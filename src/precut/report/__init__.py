"""Tables and plots: the form in which every result is shown and kept."""

from precut.report._format import byte_size as byte_size
from precut.report._format import count as count
from precut.report._format import duration as duration
from precut.report._format import percent as percent
from precut.report._format import si as si
from precut.report._plots import lines_plot as lines_plot
from precut.report._plots import pareto_front as pareto_front
from precut.report._plots import pareto_plot as pareto_plot
from precut.report._table import Column as Column
from precut.report._table import Table as Table
from precut.report._table import plain as plain

__all__ = [
    "Column",
    "Table",
    "byte_size",
    "count",
    "duration",
    "lines_plot",
    "pareto_front",
    "pareto_plot",
    "percent",
    "plain",
    "si",
]
