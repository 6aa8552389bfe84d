"""What users get wrong with supports, and the exact words that they are told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from precut.errors import PrecutError
from precut.supports import (
    NM,
    CenterOnly,
    ClassTable,
    Dense,
    Periodic,
    RandomKernel,
    Support,
    Unstructured,
    from_spec,
    parse,
)

FORMS = (
    "The forms are PS<kss>_P<period>, PSD<kss>_P<period> (one full kernel a period), pSC<kss>, <n>:<m>, center, "
    "center_P<period>, dense"
)
SHAPE = "a support needs a dense weight shape (out, in // groups, kh, kw) or (out, in) of positive sizes; got "

WRONG: list[tuple[Callable[[], object], str]] = [
    # names
    (lambda: parse("PSD4P8"), f"unknown support 'PSD4P8': did you mean 'PSD4_P8'? {FORMS}"),
    (lambda: parse("sparse"), f"unknown support 'sparse'. {FORMS}"),
    (lambda: parse(""), f"unknown support ''. {FORMS}"),
    (lambda: parse("PS4_P4\n"), f"unknown support 'PS4_P4\\n': did you mean 'PS4_P4'? {FORMS}"),
    (lambda: parse(4), "a support is a maker or its name ('PSD4_P8'); got 4"),
    (lambda: parse("PS0_P4"), "kss (the weights kept in a kernel) must be a whole number of at least 1; got 0"),
    (lambda: parse("PS4_P999"), "period must be a whole number from 1 to 256; got 999"),
    (lambda: parse("5:4"), "the n of 5:4 sparsity must be a whole number from 1 to 4; got 5"),
    # arguments of makers
    (lambda: Periodic(0, 4), "kss (the weights kept in a kernel) must be a whole number of at least 1; got 0"),
    (lambda: Periodic(2.5, 4), "kss (the weights kept in a kernel) must be a whole number of at least 1; got 2.5"),
    (lambda: Periodic("4", 4), "kss (the weights kept in a kernel) must be a whole number of at least 1; got '4'"),
    (lambda: Periodic(4, 0), "period must be a whole number from 1 to 256; got 0"),
    (lambda: Periodic(4, 1, full_kernel=True), "period must be a whole number from 2 to 256; got 1"),
    (lambda: Periodic(4, 4, phase=1.0), "phase must be a whole number from -256 to 256; got 1.0"),
    (lambda: Periodic(4, 4, align=0), "align (output channels a phase) must be a whole number of at least 1; got 0"),
    (
        lambda: Periodic(4, 4, full_kernel="no"),
        "full_kernel and nested are True or False; got 'no' and False",
    ),
    (lambda: Periodic(2, 4, variants=[]), "variants must hold at least one list of kernel positions; got none"),
    (lambda: Periodic(2, 4, variants=[[0, 1], [3]]), "every variant needs at least kss=2 different positions; got [3]"),
    (lambda: Periodic(2, 4, variants=[[3, 3]]), "every variant needs at least kss=2 different positions; got [3, 3]"),
    (lambda: Periodic(1, 4, variants=[[-1]]), "a kernel position must be a whole number of at least 0; got -1"),
    (
        lambda: Periodic(1, 4, variants=[0, 1]),
        "variants must be lists of kernel positions, [[0, 1], [4, 5], ...]; got [0, 1]",
    ),
    (
        lambda: Periodic(1, 4, variants=[[4]], nested=True),
        "nested=True asks for tables of our own; leave it out to give variants",
    ),
    (lambda: RandomKernel(0), "kss (the weights kept in a kernel) must be a whole number of at least 1; got 0"),
    (lambda: RandomKernel(1, seed=-1), "seed must be a whole number from 0 to 18446744073709551615; got -1"),
    (
        lambda: RandomKernel(1, seed=2**64),
        "seed must be a whole number from 0 to 18446744073709551615; got 18446744073709551616",
    ),
    (lambda: NM(0, 4), "the n of 0:4 sparsity must be a whole number from 1 to 4; got 0"),
    (lambda: NM(1, 0), "the m of N:M sparsity must be a whole number from 1 to 256; got 0"),
    (lambda: CenterOnly(0), "period must be a whole number from 1 to 256; got 0"),
    (
        lambda: ClassTable([]),
        "ClassTable(positions) needs at least one output class, and the same number (at least one) of input classes in "
        "each; got 0 output classes with [] input classes",
    ),
    (
        lambda: ClassTable([[[0]], [[0], [1]]]),
        "ClassTable(positions) needs at least one output class, and the same number (at least one) of input classes in "
        "each; got 2 output classes with [1, 2] input classes",
    ),
    (
        lambda: ClassTable([[0, 4]]),
        "ClassTable(positions) needs one list of kernel positions for each pair of classes: "
        "positions[out_class][in_class] = [0, 4, ...]; got [[0, 4]]",
    ),
    (lambda: ClassTable([[[1, 2, 1]]]), "class pair (0, 0) names a kernel position twice: [1, 1, 2]"),
    (lambda: ClassTable([[[-1]]]), "a kernel position must be a whole number of at least 0; got -1"),
    (lambda: ClassTable([[[0]]], align=0), "align must be a whole number of at least 1; got 0"),
    (lambda: Unstructured([[1, 0]]), "Unstructured takes a mask, a tensor of the weight's shape; got list"),
    # layers that cannot have the support
    (
        lambda: Periodic(4, 4).support((8, 8, 1, 1)),
        "PS4_P4 asks for kss=4 weights of a 1x1 kernel, which has 1: choose kss <= 1, or leave such layers dense "
        "(ignored_layers)",
    ),
    (
        lambda: RandomKernel(10).support((8, 8, 3, 3)),
        "pSC10 asks for kss=10 weights of a 3x3 kernel, which has 9: choose kss <= 9, or leave such layers dense "
        "(ignored_layers)",
    ),
    (
        lambda: Periodic(1, 2, variants=[[4], [9]]).support((8, 8, 3, 3)),
        "a 3x3 kernel has positions 0 to 8; the variants use 9",
    ),
    (lambda: ClassTable([[[9]]]).support((8, 8, 3, 3)), "a 3x3 kernel has positions 0 to 8; the table uses 9"),
    (lambda: ClassTable([[[1]]]).support((8, 8)), "a 1x1 kernel has positions 0 to 0; the table uses 1"),
    (
        lambda: NM(2, 4).support((8, 6, 3, 3)),
        "2:4 needs input channels (per group) that are a multiple of 4; the layer has 6",
    ),
    (lambda: CenterOnly().support((8, 8, 2, 3)), "a 2x3 kernel has no centre; center needs odd kernel sizes"),
    (
        lambda: Unstructured(torch.ones(4, 4)).support((4, 5)),
        "this mask is for a weight of shape (4, 4); the layer's is (4, 5)",
    ),
    (lambda: Dense().support((8, 8, 3)), f"{SHAPE}(8, 8, 3)"),
    (lambda: Dense().support((8, 0, 3, 3)), f"{SHAPE}(8, 0, 3, 3)"),
    (lambda: Dense().support((8.0, 8.0)), f"{SHAPE}(8.0, 8.0)"),
    (lambda: Dense().support(8), f"{SHAPE}8"),
    (lambda: Dense().support((8, 8), groups=3), "8 output channels cannot be split into 3 groups"),
    (lambda: Dense().support((8, 8), groups=0), "groups must be a whole number of at least 1; got 0"),
    (
        lambda: Dense().support((2**16, 2**16)),
        "a sparse layer has at most 2**31 - 1 dense weights; (65536, 65536) are 4294967296",
    ),
    # specs
    (lambda: from_spec({}), "a support's spec is a dict with a 'kind', a string; got {}"),
    (lambda: from_spec("PS4_P4"), "a support's spec is a dict with a 'kind', a string; got 'PS4_P4'"),
    (
        lambda: from_spec({"kind": ["dense"]}),
        "a support's spec is a dict with a 'kind', a string; got {'kind': ['dense']}",
    ),
    (lambda: from_spec({"kind": "periodical"}), "unknown support kind 'periodical': did you mean 'periodic'?"),
    (
        lambda: from_spec({"kind": "center", "radius": 1}),
        "the spec of support kind 'center' does not fit: CenterOnly.__init__() got an unexpected keyword argument "
        "'radius'",
    ),
    (
        lambda: from_spec({"kind": "nm", "n": 1}),
        "the spec of support kind 'nm' does not fit: NM.__init__() missing 1 required positional argument: 'm'",
    ),
    (
        lambda: Support.from_spec({"maker": {}, "shape": [4, 4]}),
        "a support's spec has the fields 'maker', 'shape' and 'groups'; got {'maker': {}, 'shape': [4, 4]}",
    ),
]


@pytest.mark.parametrize(("use", "message"), WRONG, ids=[message[:60] for _, message in WRONG])
def test_message(use: Callable[[], object], message: str) -> None:
    with pytest.raises(PrecutError) as raised:
        use()
    assert str(raised.value) == message
