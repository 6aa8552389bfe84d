"""Networks as graphs: layers, shapes, links and coupled channels of any ``nn.Module``, from one run on an example.

``capture`` records; a ``Graph`` answers (``layers``, ``links``, ``depth``, ``run``, ``verify``, ``table``); its
``spaces`` tell which channels are coupled; ``permute``, ``restrict``, ``drop`` and ``take`` edit a model by them,
exactly or not at all.
"""

from precut.graph._adapters import take_channels_
from precut.graph._capture import capture
from precut.graph._edit import drop, drop_, permute, permute_, restrict, restrict_, take, take_
from precut.graph._functions import function_name
from precut.graph._graph import Graph, Node, ParamRef, Value
from precut.graph._interpret import keeping_modes
from precut.graph._links import Link
from precut.graph._sizes import Guard, SizeRef
from precut.graph._spaces import ChannelSpace, ChannelSpaces, Occurrence
from precut.graph._structure import leaves, rebuild

__all__ = [
    "ChannelSpace",
    "ChannelSpaces",
    "Graph",
    "Guard",
    "Link",
    "Node",
    "Occurrence",
    "ParamRef",
    "SizeRef",
    "Value",
    "capture",
    "drop",
    "drop_",
    "function_name",
    "keeping_modes",
    "leaves",
    "permute",
    "permute_",
    "rebuild",
    "restrict",
    "restrict_",
    "take",
    "take_",
    "take_channels_",
]
