"""Devices, precision and processes, carried by Lightning Fabric."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from precut._environment import has_fast_bf16
from precut.errors import PrecutError, unknown
from precut.training._recipe import PRECISIONS

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["agree", "gather", "make_fabric", "resolve_device", "resolve_precision", "share_buffers"]


def resolve_device(device: torch.device | str) -> torch.device:
    """A device that torch can train on here."""
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise PrecutError(f"unknown device {device!r}: expected 'cpu', 'cuda', 'cuda:1' or 'mps'") from None
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise PrecutError(f"device={str(device)!r}, but torch finds no CUDA device here; use device='cpu'")
    if wanted.type not in ("cpu", "cuda", "mps"):
        raise PrecutError(f"device={str(device)!r} cannot train: expected 'cpu', 'cuda', 'cuda:1' or 'mps'")
    return wanted


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "32-true" or "bf16-mixed"; "auto" is bf16-mixed where the device multiplies bfloat16 natively."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision == "auto":
        return "bf16-mixed" if has_fast_bf16(device) else "32-true"
    return precision


def make_fabric(device: torch.device, precision: str) -> Fabric:
    """A launched Fabric for one process, or for this process's part of a ``torchrun``."""
    from lightning_fabric import Fabric  # takes seconds

    local, world = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ.get("WORLD_SIZE", 1))
    devices: int | list[int] = 1 if device.index is None or device.type == "cpu" else [device.index]
    several: dict[str, Any] = {"num_nodes": world // local, "strategy": "ddp"} if world > 1 else {}
    flag: Any = precision
    with _quiet("lightning_fabric"):  # it would tell the precision on standard error
        fabric = Fabric(accelerator=device.type, devices=local if several else devices, precision=flag, **several)
        if several:
            fabric.launch()
            # Left to the interpreter's end, gloo's threads are sometimes alive when they are taken down: an abort.
            atexit.unregister(_leave_group)
            atexit.register(_leave_group)
    return fabric


def _leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Only warnings and errors of a logger, within."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def agree(flags: list[bool], fabric: Fabric) -> list[bool]:
    """Each flag, true if it is in any process."""
    if fabric.world_size == 1:
        return flags
    total = fabric.all_reduce(torch.tensor(flags, dtype=torch.int32, device=fabric.device), reduce_op="max")
    assert isinstance(total, torch.Tensor)
    return [bool(flag) for flag in total.tolist()]


def gather(thing: Any, fabric: Fabric) -> list[Any]:
    """What every process has, in the order of ranks."""
    if fabric.world_size == 1:
        return [thing]
    everyone: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(everyone, thing)
    return everyone


def share_buffers(model: nn.Module, fabric: Fabric) -> None:
    """Give all processes the first one's buffers: batch-norm statistics differ between them until the next step."""
    if fabric.world_size > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
