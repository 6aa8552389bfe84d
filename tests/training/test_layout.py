"""Where channels-last training is safe."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from precut.layers import SparseConv2d
from precut.training._layout import layout

CASES = [
    ([nn.Conv2d(4, 16, 1, 2)], False),
    ([nn.Conv2d(16, 16, 3), nn.Sequential(nn.Conv2d(7, 16, 1, (1, 2)))], False),
    ([nn.Conv2d(16, 16, 1, 2, groups=4)], False),
    ([SparseConv2d(4, 16, 1, 2, support="dense")], False),
    ([nn.Conv2d(8, 16, 1, 2), nn.Conv2d(3, 16, 3, 2), nn.Conv2d(4, 16, 1)], True),
]


@pytest.mark.parametrize(("networks", "safe"), CASES)
def test_narrow_strided_convolutions_on_a_cpu(networks: list[nn.Module], safe: bool) -> None:
    assert (layout(True, torch.device("cpu"), networks) is torch.channels_last) == safe
    assert layout(True, torch.device("cuda"), networks) is torch.channels_last
    assert layout(False, torch.device("cuda"), networks) is torch.contiguous_format
