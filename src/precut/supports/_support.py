"""What a Support is: which weights of one layer exist, as a small specification with lazy mask and indices."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from precut._registry import Registry
from precut.errors import PrecutError, whole

if TYPE_CHECKING:
    from precut.supports._class_table import ClassTable

__all__ = ["MAX_PERIOD", "MAX_WEIGHTS", "Support", "SupportMaker", "from_spec", "kernel_of", "makers"]

MAX_PERIOD = 256  # channels; tables grow with the square of the period, and the papers stop at 16
MAX_WEIGHTS = 2**31 - 1  # flat positions are kept in 32 bits

makers: Registry[type[SupportMaker]] = Registry("support kind", "precut.supports.makers.names()")


def kernel_of(shape: Sequence[int]) -> tuple[int, int]:
    """(kh, kw) of a dense weight's shape; (1, 1) for a linear layer."""
    return (shape[2], shape[3]) if len(shape) == 4 else (1, 1)


class SupportMaker(ABC):
    """A rule that gives every layer its Support. Makers are immutable: hashable, comparable, JSON-able.

    A new one is a frozen dataclass with ``class_table`` where it is structured, or else ``make_mask``, registered in
    one line.
    """

    kind: ClassVar[str]

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """The JSON-able arguments that make this maker again."""

    def class_table(self, kernel_size: tuple[int, int]) -> ClassTable | None:
        """The structured form of this rule for one kernel size, or None for a rule without one."""
        return None

    def make_mask(self, shape: tuple[int, ...], groups: int) -> torch.Tensor:
        """The bool mask, a new CPU tensor of the dense weight's ``shape``: (out, in // groups, kh, kw) or (out, in)."""
        table = self.class_table(kernel_of(shape))
        if table is None:
            raise NotImplementedError(f"{type(self).__name__} needs class_table or make_mask")
        return table.make_mask(shape, groups)

    def check(self, shape: tuple[int, ...], groups: int) -> None:
        """Raises a PrecutError when a layer of this dense shape cannot have this support."""
        table = self.class_table(kernel_of(shape))
        if table is not None:
            table.check(shape, groups)

    def for_layer(self, number: int) -> SupportMaker:
        """The maker for the ``number``-th sparse layer of a network; random makers draw anew for each."""
        return self

    def support(self, shape: Sequence[int], groups: int = 1) -> Support:
        """The Support of a layer whose dense weight has ``shape``.

        Raises:
            PrecutError: when such a layer cannot have this support.
        """
        return Support(self, shape, groups)

    def mask(self, shape: Sequence[int], groups: int = 1) -> torch.Tensor:
        """Shortcut for ``support(shape, groups).mask()``: bool, True where a weight exists."""
        return self.support(shape, groups).mask()

    def to_spec(self) -> dict[str, Any]:
        """A JSON-able dict that ``from_spec`` turns into an equal maker."""
        return {"kind": self.kind, **self.fields()}

    @classmethod
    def from_fields(cls, **fields: Any) -> SupportMaker:
        """The maker from what ``fields`` returned after a round trip through JSON."""
        return cls(**fields)


class Support:
    """Which weights of one layer exist. Immutable; copies of a model share it.

    Attributes:
        maker: the rule it came from.
        shape: the dense weight's shape, (out, in // groups, kh, kw) or (out, in).
        groups: the convolution's groups; the in-channel index of a rule counts within the group.
    """

    def __init__(self, maker: SupportMaker, shape: Sequence[int], groups: int = 1) -> None:
        try:
            dims = tuple(whole("size", size) for size in shape)
        except (TypeError, PrecutError):
            dims = ()
        if len(dims) not in (2, 4):
            raise PrecutError(
                "a support needs a dense weight shape (out, in // groups, kh, kw) or (out, in) of positive sizes; got "
                f"{tuple(shape) if isinstance(shape, Sequence) else shape!r}"
            )
        if math.prod(dims) > MAX_WEIGHTS:
            raise PrecutError(f"a sparse layer has at most 2**31 - 1 dense weights; {dims} are {math.prod(dims)}")
        groups = whole("groups", groups)
        if dims[0] % groups:
            raise PrecutError(f"{dims[0]} output channels cannot be split into {groups} groups")
        maker.check(dims, groups)
        self.maker = maker
        self.shape = dims
        self.groups = groups

    @property
    def kernel_size(self) -> tuple[int, int]:
        """(kh, kw); (1, 1) for a linear layer."""
        return kernel_of(self.shape)

    @property
    def table(self) -> ClassTable | None:
        """The structured form, or None for an unstructured support."""
        return self.maker.class_table(self.kernel_size)

    def mask(self) -> torch.Tensor:
        """A new bool tensor of ``shape``, on the CPU; True where a weight exists."""
        return self.maker.make_mask(self.shape, self.groups)

    def indices(self) -> torch.Tensor:
        """A new tensor of the flat positions (int64, ascending, CPU) of the existing weights in the C-contiguous dense
        weight."""
        return self.mask().flatten().nonzero().squeeze(1)

    @cached_property
    def _counts(self) -> torch.Tensor:
        return self.mask().flatten(1).sum(1)

    @property
    def filter_counts(self) -> torch.Tensor:
        """Existing weights of every filter; a new tensor, int64, (out,), CPU."""
        return self._counts.clone()

    @cached_property
    def nnz(self) -> int:
        """How many weights exist."""
        return int(self._counts.sum())

    @property
    def numel(self) -> int:
        """How many weights the dense layer has."""
        return math.prod(self.shape)

    @property
    def density(self) -> float:
        """Existing over dense weights."""
        return self.nnz / self.numel

    @cached_property
    def per_filter(self) -> int | None:
        """Weights of each filter where all filters are equally full (and not empty), else None."""
        first = int(self._counts[0])
        return first if first > 0 and bool((self._counts == first).all()) else None

    @property
    def weight_shape(self) -> tuple[int, int]:
        """The compact weight's shape: (out, weights per filter), or (n, 1) for unequal filters."""
        return (self.shape[0], self.per_filter) if self.per_filter is not None else (self.nnz, 1)

    def to_spec(self) -> dict[str, Any]:
        """A JSON-able dict that ``Support.from_spec`` turns into an equal support."""
        return {"maker": self.maker.to_spec(), "shape": list(self.shape), "groups": self.groups}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Support:
        """The support that a ``to_spec`` dict describes. Runs no code from the spec.

        Raises:
            PrecutError: when the dict describes none.
        """
        if not isinstance(spec, Mapping) or set(spec) != {"maker", "shape", "groups"}:
            raise PrecutError(f"a support's spec has the fields 'maker', 'shape' and 'groups'; got {spec!r}")
        return cls(from_spec(spec["maker"]), spec["shape"], spec["groups"])

    @cached_property
    def key(self) -> str:
        """A string that names this support exactly; operators find it by this."""
        return json.dumps(self.to_spec(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_key(cls, key: str) -> Support:
        """The support that ``key`` names."""
        return cls.from_spec(json.loads(key))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Support):
            return NotImplemented
        return (self.maker, self.shape, self.groups) == (other.maker, other.shape, other.groups)

    def __hash__(self) -> int:
        return hash((self.maker, self.shape, self.groups))

    def __deepcopy__(self, memo: dict[int, Any]) -> Support:
        return self

    def __repr__(self) -> str:
        return f"Support({self.maker}, shape={self.shape}, groups={self.groups}, nnz={self.nnz})"


def from_spec(spec: Mapping[str, Any]) -> SupportMaker:
    """The maker that a ``to_spec`` dict describes. Runs no code from the spec.

    Raises:
        PrecutError: for an unknown kind, or fields that the kind does not have or cannot use.
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("kind"), str):
        raise PrecutError(f"a support's spec is a dict with a 'kind', a string; got {spec!r}")
    fields = {str(name): value for name, value in spec.items() if name != "kind"}
    kind = spec["kind"]
    try:
        return makers[kind].from_fields(**fields)
    except (TypeError, ValueError) as error:
        raise PrecutError(f"the spec of support kind {kind!r} does not fit: {error}") from error
