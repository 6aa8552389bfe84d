"""One of two processes that train a sparse network under DistributedDataParallel: ddp_worker.py FOLDER RANK."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import nn

from precut.layers import SparseConv2d, SparseLinear
from precut.supports import Unstructured


def network(unstructured: bool) -> nn.Sequential:
    torch.manual_seed(0)
    mask = torch.rand(12, 8, 3, 3, generator=torch.Generator().manual_seed(2)) < 0.3
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        SparseConv2d(8, 12, 3, padding=1, support=Unstructured(mask) if unstructured else "PSD4_P8"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        SparseLinear(12, 4, support="2:4"),
    )


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    return torch.randn(8, 3, 6, 6), torch.randint(4, (8,))


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int = 3) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    images, labels = batch()
    for unstructured in (False, True):
        model = nn.parallel.DistributedDataParallel(network(unstructured))
        train(model, images[rank::2], labels[rank::2])
        result = {"state": model.module.state_dict(), "broadcasts": model.will_sync_module_buffers()}
        torch.save(result, folder / f"{'bits' if unstructured else 'rule'}{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)  # all is written; now and then gloo's threads abort a process that takes itself down in order
