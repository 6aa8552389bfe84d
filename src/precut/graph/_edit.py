"""Edits of a model by ChannelSpaces: permute, restrict to a prefix, drop; verified by sending the new channels
through."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from precut.errors import PrecutError
from precut.graph._adapters import Memo, set_tensor_, take_channels_, take_tensor
from precut.graph._labels import TAG_BITS, Codes, atoms_of
from precut.graph._replay import Replay, ReplayError

if TYPE_CHECKING:
    from precut.graph._flow import TensorAxis
    from precut.graph._spaces import ChannelSpace, ChannelSpaces

__all__ = ["drop", "drop_", "permute", "permute_", "restrict", "restrict_", "take", "take_", "why_not"]

Index = Sequence[int] | torch.Tensor | Codes
Spaces = "ChannelSpace | Mapping[ChannelSpace, Any]"


# ---- what is asked -------------------------------------------------------------------------------------------------


def _as_mapping(space: Any, value: Any, what: str) -> dict[ChannelSpace, Any]:
    from precut.graph._spaces import ChannelSpace

    given = {space: value} if isinstance(space, ChannelSpace) else dict(space) if isinstance(space, Mapping) else None
    if given is None or any(not isinstance(key, ChannelSpace) for key in given):
        raise PrecutError(
            f"{what} takes a ChannelSpace and its {what} argument, or a dict from ChannelSpaces to these; got "
            f"{type(space).__name__}; graph.spaces lists the spaces"
        )
    if len({id(key.spaces) for key in given}) > 1:
        raise PrecutError(f"{what} got spaces of different graphs; use those of one capture")
    return given


def _index(space: ChannelSpace, index: Index, what: str) -> Codes:
    array = index.cpu().numpy() if isinstance(index, torch.Tensor) else np.asarray(index)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise PrecutError(f"{what} needs a list of channel numbers; got {index!r:.60}")
    array = array.astype(np.int64)
    if ((array < 0) | (array >= space.size)).any():
        raise PrecutError(
            f"{what} got channels outside 0..{space.size - 1} of space {space.id}: {array.tolist()!r:.60}"
        )
    if len(np.unique(array)) != len(array):
        raise PrecutError(f"{what} got a channel of space {space.id} twice: {array.tolist()!r:.60}")
    return array


def _orders(what: str, space: Any, value: Any) -> dict[ChannelSpace, Codes]:
    """For every space what its new channels are, as numbers of old ones."""
    orders: dict[ChannelSpace, Codes] = {}
    for key, item in _as_mapping(space, value, what).items():
        if what == "restrict":
            if isinstance(item, bool) or not isinstance(item, (int, np.integer)) or not 1 <= item <= key.size:
                raise PrecutError(f"restrict keeps 1 to {key.size} channels of space {key.id}; got {item!r}")
            order = np.arange(item)
        else:
            order = _index(key, item, what)
        if what == "permute" and len(order) != key.size:
            raise PrecutError(f"permute needs each of the {key.size} channels of space {key.id} once; got {len(order)}")
        if what == "drop":
            order = np.setdiff1d(np.arange(key.size), order)
        if not len(order):
            raise PrecutError(f"{what} would leave no channel of space {key.id}, which has {key.size}")
        if key.frozen is not None and not np.array_equal(order, np.arange(key.size)):
            raise PrecutError(f"the channels of space {key.id} cannot change: {key.frozen}")
        orders[key] = order
    return orders


# ---- the calls -----------------------------------------------------------------------------------------------------


def take_(model: nn.Module, space: Any, index: Any = None) -> nn.Module:
    """New channel j of a space becomes what its channel ``index[j]`` was, in place; see :func:`take`. Returns the
    model."""
    return _apply(model, _orders("take", space, index))


def take(model: nn.Module, space: Any, index: Any = None) -> nn.Module:
    """A new model in which channel j of a space is what its channel ``index[j]`` was.

    A permutation leaves the outputs as they are (but for the order in which sums are taken). Leaving channels out
    gives the network that computes what the old one does with zeros where those channels are read.

    Args:
        model: the captured model, or one of the same structure (a copy, other weights).
        space: a ChannelSpace of ``capture(model, ...).spaces``, or a dict {space: index} of several, edited at once.
        index: channel numbers, each at most once.

    Raises:
        PrecutError: when the space may not change, or the model's code fixes a size that would have to; the message
            names the operation and the line. The model is then as it was.
    """
    return take_(copy.deepcopy(model), space, index)


def permute_(model: nn.Module, space: Any, order: Any = None) -> nn.Module:
    """Permutes the channels of spaces in place; see :func:`permute`. Returns the model."""
    return _apply(model, _orders("permute", space, order))


def permute(model: nn.Module, space: Any, order: Any = None) -> nn.Module:
    """A new model with equal outputs in which channel j of a space is what its channel ``order[j]`` was; see
    :func:`take`.

    Args:
        model: the captured model or one of the same structure.
        space: a ChannelSpace, or a dict {space: order}.
        order: every channel number once.
    """
    return permute_(copy.deepcopy(model), space, order)


def restrict_(model: nn.Module, space: Any, size: Any = None) -> nn.Module:
    """Keeps the first channels of spaces, in place; see :func:`restrict`. Returns the model."""
    return _apply(model, _orders("restrict", space, size))


def restrict(model: nn.Module, space: Any, size: Any = None) -> nn.Module:
    """A new model with only the first ``size`` channels of a space; see :func:`take`.

    Args:
        model: the captured model or one of the same structure.
        space: a ChannelSpace, or a dict {space: size}.
        size: how many channels stay, at least 1.
    """
    return restrict_(copy.deepcopy(model), space, size)


def drop_(model: nn.Module, space: Any, channels: Any = None) -> nn.Module:
    """Removes channels of spaces, in place; see :func:`drop`. Returns the model."""
    return _apply(model, _orders("drop", space, channels))


def drop(model: nn.Module, space: Any, channels: Any = None) -> nn.Module:
    """A new model without some channels of a space; the others keep their order; see :func:`take`.

    Args:
        model: the captured model or one of the same structure.
        space: a ChannelSpace, or a dict {space: channels}.
        channels: numbers of the channels that go; at least one has to stay.
    """
    return drop_(copy.deepcopy(model), space, channels)


# ---- how it is done ------------------------------------------------------------------------------------------------


def _targets(spaces: ChannelSpaces, orders: Mapping[ChannelSpace, Codes]) -> Codes:
    """For each atom the atom whose content takes its place; -1 where nothing does."""
    targets = np.arange(len(spaces.analysis.same), dtype=np.int64)
    for space, order in orders.items():
        targets[space.atoms] = -1
        targets[space.atoms[: len(order)]] = space.atoms[order]
    return targets


def _with_gathers(spaces: ChannelSpaces, orders: Mapping[ChannelSpace, Codes]) -> dict[ChannelSpace, Codes]:
    """The orders, and what goes with them: an index tensor's entry goes when the channel that it picks goes.

    An entry that is coupled with channels that stay does not follow by itself: more would go than was asked for.
    """
    orders = dict(orders)
    gathers = spaces.analysis.found.gathers
    count = len(spaces.analysis.same)
    makers = np.zeros(count, np.int64)  # how many positions bring forth each atom
    for axis in spaces.analysis.found.axes.values():
        if axis.makes and axis.axis != "param" and axis.codes is not None:
            np.add.at(makers, atoms_of(axis.codes), 1)
    while gathers:
        gone = np.zeros(count, bool)
        for space, order in orders.items():
            gone[np.setdiff1d(space.atoms, space.atoms[order])] = True
        lost = np.zeros(count, np.int64)
        for gather in {gather.buffer: gather for gather in gathers}.values():
            np.add.at(lost, atoms_of(gather.codes), gone[atoms_of(gather.sources)])
        follow = np.flatnonzero((lost > 0) & ~gone)
        if not len(follow):
            break
        for atom in follow:
            space = spaces[int(spaces.members(atom << TAG_BITS)[0])]
            node = next(gather.node for gather in gathers if atom in atoms_of(gather.codes))
            if space.frozen is not None or lost[atom] != makers[atom]:
                reason = space.frozen or f"they are coupled with others: name channels of space {space.id} too"
                raise PrecutError(f"channels cannot go that {node.where} picks: {reason}")
            order = orders.get(space, np.arange(space.size))
            orders[space] = order[space.atoms[order] != atom]
    return orders


def _replay(spaces: ChannelSpaces, orders: Mapping[ChannelSpace, Codes]) -> Replay:
    orders = _with_gathers(spaces, orders)
    nothing = "no channel would be left of those that an index tensor picks"
    targets = _targets(spaces, orders)
    for axis in spaces.analysis.found.axes.values():
        if axis.codes is None or not len(axis.codes) or axis.axis not in ("in", "out", "param"):
            continue
        if (targets[atoms_of(axis.codes)] < 0).all():
            raise ReplayError(f"{nothing}, and {axis.owner!r} has no others")
    try:
        return Replay(spaces.analysis, targets)
    except ReplayError as error:
        # An index tensor may end up empty where its channels are joined to others.
        raise error if all(map(len, orders.values())) else ReplayError(f"{nothing}: {error}") from None


def _apply(model: nn.Module, orders: Mapping[ChannelSpace, Codes]) -> nn.Module:
    if not orders:
        return model
    spaces = next(iter(orders)).spaces
    _check_structure(model, spaces)
    try:
        replay = _replay(spaces, orders)
    except ReplayError as error:
        raise PrecutError(f"channels cannot be taken so: {error}") from None
    memo: Memo = {}
    owners = dict(model.named_modules())
    axes = spaces.analysis.found.axes
    # Rows before columns, everywhere: then shared parameters meet the same steps from each of their owners.
    for key in sorted(replay.indices, key=lambda key: axes[key].axis == "in"):
        axis, index = axes[key], torch.from_numpy(replay.indices[key])
        assert axis.codes is not None
        if len(index) == len(axis.codes) and (replay.indices[key] == np.arange(len(index))).all():
            continue
        if axis.owner in owners:
            take_channels_(owners[axis.owner], axis.axis, index, memo)
        else:
            for tensor in axis.tensors:
                _take_bare_(model, tensor, index, memo)
    for name, positions in replay.positions.items():
        _set_(model, name, torch.from_numpy(positions), memo)
    if replay.positions and any(len(order) != space.size for space, order in orders.items()):
        # A checkpoint notes layers of other sizes beside the recipe that built the model, but not other positions.
        vars(model).pop("precut_spec", None)
    return model


def _owners_of(model: nn.Module, tensor: torch.Tensor) -> list[tuple[nn.Module, str]]:
    return [
        (module, name)
        for module in model.modules()
        for store in (module._parameters, module._buffers)
        for name, held in store.items()
        if held is tensor
    ]


def _get(model: nn.Module, name: str) -> torch.Tensor:
    path, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(path), attribute)


def _take_bare_(model: nn.Module, axis: TensorAxis, index: torch.Tensor, memo: Memo) -> None:
    old = _get(model, axis.name)
    new = take_tensor(old, axis.dim, index, axis.groups, memo)
    for module, name in _owners_of(model, old):
        set_tensor_(module, name, new)


def _set_(model: nn.Module, name: str, positions: torch.Tensor, memo: Memo) -> None:
    old = _get(model, name)
    for module, attribute in _owners_of(model, old):
        set_tensor_(module, attribute, positions.to(old))


def _check_structure(model: nn.Module, spaces: ChannelSpaces) -> None:
    """The model must have the axes that were captured."""
    if not isinstance(model, nn.Module):
        raise PrecutError(f"channels are taken of an nn.Module; got {type(model).__name__}")
    owners = dict(model.named_modules())
    for axis in spaces.analysis.found.axes.values():
        if axis.codes is None or hasattr(owners.get(axis.owner), "take_channels_"):
            continue
        for tensor in axis.tensors:
            try:
                held: Any = _get(model, tensor.name)
            except AttributeError:
                raise PrecutError(
                    f"the model has no {tensor.name!r}: the spaces are of another model; capture this one"
                ) from None
            if axis.axis != "index" and held.shape[tensor.dim] * tensor.groups != len(axis.codes):
                count = held.shape[tensor.dim] * tensor.groups
                raise PrecutError(
                    f"{tensor.name!r} has {count} channels, not the {len(axis.codes)} that were captured: the model "
                    "has changed since; capture it again"
                )


def why_not(space: ChannelSpace, size: int) -> str | None:
    """See ``ChannelSpace.why_not``."""
    if space.frozen is not None:
        return space.frozen
    try:
        _replay(space.spaces, {space: np.arange(size)})
    except (ReplayError, PrecutError) as error:
        return str(error)
    return None
