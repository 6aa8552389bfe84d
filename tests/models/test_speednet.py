"""speednet's own options, and the whitening of its stem."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from precut.errors import PrecutError
from precut.models import create_model, init_whitening_


def smooth_images(count: int, channels: int = 3, side: int = 12) -> Tensor:
    """Images whose neighbouring pixels and channels are correlated, of mean 0.3."""
    noise = torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))
    return 0.3 + 0.3 * noise.cumsum(3).cumsum(1) / 2 + 0.3 * noise


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_have_unit_covariance(channels: int) -> None:
    images = smooth_images(700, channels)
    model = create_model("speednet", in_channels=channels, width_mult=0.125)
    init_whitening_(model, images)
    with torch.no_grad():
        responses = model.stem(images)
    half = 4 * channels
    assert responses.shape[1] == 2 * half
    torch.testing.assert_close(responses[:, half:], -responses[:, :half], rtol=1e-4, atol=1e-5)
    flat = responses[:, :half].transpose(0, 1).reshape(half, -1).double()
    assert flat.mean(1).abs().max() < 1e-4
    covariance = flat @ flat.T / flat.shape[1]
    torch.testing.assert_close(covariance, torch.eye(half, dtype=torch.float64), rtol=0, atol=0.02)


def test_whitening_filters_are_eigenvectors_of_the_patches() -> None:
    """Against a covariance of patches cut out one by one; the strongest direction comes first."""
    images = smooth_images(20, side=6)
    model = create_model("speednet", width_mult=0.125)
    init_whitening_(model, images)
    patches = [
        image[:, row : row + 2, column : column + 2].reshape(-1)
        for image in images.double()
        for row in range(5)
        for column in range(5)
    ]
    covariance = torch.cov(torch.stack(patches).T, correction=0)
    eigenvalues = []
    for filter_ in model.stem.weight.detach().double().reshape(24, 12)[:12]:
        direction = filter_ / filter_.norm()
        value = direction @ covariance @ direction
        torch.testing.assert_close(covariance @ direction, value * direction, rtol=1e-3, atol=1e-5)
        assert filter_.norm().item() == pytest.approx((value.item() + 5e-4) ** -0.5, rel=1e-3)
        eigenvalues.append(value.item())
    assert eigenvalues == sorted(eigenvalues, reverse=True)


def test_whitening_survives_constant_images() -> None:
    model = create_model("speednet", width_mult=0.125)
    init_whitening_(model, torch.full((4, 3, 9, 9), 0.5))
    assert model.stem.weight.isfinite().all()
    assert model.stem(torch.full((1, 3, 9, 9), 0.5)).abs().max() < 1e-3


def test_whitening_wrong_uses() -> None:
    model = create_model("speednet", width_mult=0.125)
    with pytest.raises(PrecutError, match=r"needs normalised float images \(N, 3, H, W\), got torch.uint8"):
        init_whitening_(model, torch.zeros(2, 3, 9, 9, dtype=torch.uint8))
    with pytest.raises(PrecutError, match=r"got torch.float32 of shape \(2, 1, 9, 9\)"):
        init_whitening_(model, torch.zeros(2, 1, 9, 9))
    with pytest.raises(PrecutError, match=r"got torch.float32 of shape \(0, 3, 9, 9\)"):
        init_whitening_(model, torch.zeros(0, 3, 9, 9))
    with pytest.raises(PrecutError, match=r"whose stem is a dense 2x2 nn\.Conv2d, got CifarResNet"):
        init_whitening_(create_model("resnet8"), torch.zeros(2, 3, 9, 9))


def test_widths_are_taken_as_they_are() -> None:
    model = create_model("speednet", widths=[10, 20, 30])
    assert [group.conv2.out_channels for group in model.groups] == [10, 20, 30]
    assert model.stem.out_channels == create_model("speednet", width_mult=0.5).stem.out_channels == 24


@pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("gelu", nn.GELU)])
def test_activation(activation: str, kind: type[nn.Module]) -> None:
    model = create_model("speednet", width_mult=0.125, activation=activation)
    assert sum(isinstance(module, kind) for module in model.modules()) == 7


def test_output_is_a_ninth_of_the_head() -> None:
    model = create_model("speednet", width_mult=0.125).eval()
    heads: list[Tensor] = []
    model.head.register_forward_hook(lambda module, inputs, output: heads.append(output))
    output = model(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(output * 9, heads[0])


def test_identity_init_passes_channels_through() -> None:
    model = create_model("speednet", identity_init=True)
    for group in model.groups:
        for conv in (group.conv1, group.conv2):
            x = torch.randn(1, conv.in_channels, 5, 5)
            torch.testing.assert_close(conv(x)[:, : conv.in_channels], x, rtol=1e-4, atol=1e-5)
    assert model.groups[0].conv1.weight[24:].std() > 0
