"""Networks as graphs: layers, shapes, links and coupled channels of any ``nn.Module``, from one run on an example."""

from precut.graph._adapters import take_channels_
from precut.graph._capture import capture
from precut.graph._edit import drop, drop_, permute, permute_, restrict, restrict_, take, take_
from precut.graph._graph import Graph, Node, ParamRef, Value
from precut.graph._links import Link
from precut.graph._spaces import ChannelSpace, ChannelSpaces, Occurrence

__all__ = [
    "ChannelSpace",
    "ChannelSpaces",
    "Graph",
    "Link",
    "Node",
    "Occurrence",
    "ParamRef",
    "Value",
    "capture",
    "drop",
    "drop_",
    "permute",
    "permute_",
    "restrict",
    "restrict_",
    "take",
    "take_",
    "take_channels_",
]
