"""Which layers' weights other code reads as dense tensors, so that no compact weight can stand in their place."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from precut.graph import Graph

__all__ = ["read_as_dense"]


def read_as_dense(model: nn.Module, graph: Graph | None = None) -> set[str]:
    """Names of the layers whose ``weight`` is also read by other code than their own ``forward``: an attention that has
    a projection, a decoder that takes its encoder's weight transposed, a function called on it.

    Args:
        graph: the model's capture. Without one only what torch.nn's own modules read is known.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    read = {id(tensor) for module in modules.values() for tensor in _of_children(module)}
    for node in () if graph is None else graph.nodes:
        own = () if node.module is None else (*node.module.parameters(), *node.module.buffers())
        read |= {id(tensor) for _, tensor in node.params.values()} - set(map(id, own))
    held = {name: _weight(module) for name, module in modules.items()}
    return {name for name, weight in held.items() if weight is not None and id(weight) in read}


def _of_children(module: nn.Module) -> Iterator[Tensor | None]:
    """The weights of its children that a module of torch.nn hands to torch itself."""
    if isinstance(module, nn.MultiheadAttention):
        yield _weight(module.out_proj)
    elif isinstance(module, nn.TransformerEncoderLayer):  # in eval mode without gradients
        yield from (_weight(module.linear1), _weight(module.linear2))


def _weight(module: nn.Module) -> Tensor | None:
    """As the module holds it; torch's pruning keeps a plain tensor of this name."""
    held: Tensor | None = module._parameters.get("weight", vars(module).get("weight"))
    return held
