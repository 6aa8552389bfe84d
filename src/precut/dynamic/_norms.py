"""What each subnet has for itself: statistics of its batch norms and, if asked, all of their parameters."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from precut.errors import PrecutError
from precut.graph import Graph

__all__ = ["NormState", "batch_norms", "check_norms"]


def batch_norms(model: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """The batch norms that keep running statistics, by name."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.running_mean is not None:
            yield name, module


def check_norms(graph: Graph) -> None:
    """Raises a PrecutError where running statistics are kept that no subnet could have for itself: its own would be
    written into the full network's."""
    for node in graph.nodes:
        if "running_mean" not in node.params or isinstance(node.module, _BatchNorm):
            continue
        if node.module is None:
            raise PrecutError(f"{node.where} is called as a function: use nn.BatchNorm2d, whose statistics are known")
        raise PrecutError(
            f"{node.where} keeps running statistics, which subnets have of batch norms alone: pass "
            "track_running_stats=False, or use nn.BatchNorm2d"
        )


class NormState(nn.Module):
    """Private tensors of one subnet: running statistics of its batch norms and, where ``affine``, their scales and
    shifts; in modules of the same names as the subnet's.

    Args:
        tensors: the subnet's present parameters and buffers by name, to begin with.
        norms: names of its batch norms.
        affine: scales and shifts too.
    """

    calibrated: torch.Tensor

    def __init__(self, tensors: dict[str, torch.Tensor], norms: list[str], affine: bool) -> None:
        super().__init__()
        self.register_buffer("calibrated", torch.tensor(not norms))
        for name in norms:
            home = self._home(name)
            for key in ("running_mean", "running_var"):
                home.register_buffer(key, tensors[f"{name}.{key}"].detach().clone())
            home.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))
            for key in ("weight", "bias"):
                if affine and f"{name}.{key}" in tensors:
                    home.register_parameter(key, nn.Parameter(tensors[f"{name}.{key}"].detach().clone()))

    def _home(self, name: str) -> nn.Module:
        module: nn.Module = self
        for part in name.split("."):
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        return module

    def tensors(self) -> dict[str, torch.Tensor]:
        """By their names in the subnet."""
        named = [*self.named_parameters(), *self.named_buffers()]
        return {name: tensor for name, tensor in named if name != "calibrated"}

    @torch.no_grad()
    def set_(self, statistics: dict[str, tuple[torch.Tensor, torch.Tensor]], batches: int) -> None:
        """Takes (mean, variance) of every batch norm; the point is calibrated then."""
        for name, (mean, variance) in statistics.items():
            home = self.get_submodule(name)
            home.running_mean.copy_(mean)  # type: ignore[operator]
            home.running_var.copy_(variance)  # type: ignore[operator]
            home.num_batches_tracked.fill_(batches)  # type: ignore[operator]
        self.calibrated.fill_(True)
