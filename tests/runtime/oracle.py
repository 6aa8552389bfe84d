"""Operations in float64 NumPy, written for these tests from their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Array:
    top, left, bottom, right = padding
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    out, per, kh, kw = weight.shape
    h = (x.shape[2] - (kh - 1) * dilation[0] - 1) // stride[0] + 1
    w = (x.shape[3] - (kw - 1) * dilation[1] - 1) // stride[1] + 1
    y = np.zeros((x.shape[0], out, h, w))
    for g in range(groups):
        os, xs = slice(g * out // groups, (g + 1) * out // groups), slice(g * per, (g + 1) * per)
        for a in range(kh):
            for b in range(kw):
                r, c = a * dilation[0], b * dilation[1]
                seen = x[
                    :, xs, r : r + (h - 1) * stride[0] + 1 : stride[0], c : c + (w - 1) * stride[1] + 1 : stride[1]
                ]
                y[:, os] += np.einsum("nihw,oi->nohw", seen, np.asarray(weight[os, :, a, b], np.float64))
    return y if bias is None else y + np.asarray(bias, np.float64)[None, :, None, None]


def erf(x: Array) -> Array:
    """By its Maclaurin series, exact enough below |x| = 4; beyond, erf is 1 to float32."""
    x = np.clip(x, -4, 4)
    term, total = x.copy(), x.copy()
    for n in range(1, 100):
        term = -term * x * x / n
        total += term / (2 * n + 1)
    return 2 / np.sqrt(np.pi) * total


def activation(kind: str, x: Array, alpha: float = 0.0, beta: float = 0.0, slopes: Array | None = None) -> Array:
    six = np.clip(x + 3, 0, 6) / 6
    sigmoid = 1 / (1 + np.exp(-x))
    table = {
        "none": lambda: x,
        "relu": lambda: np.maximum(x, 0),
        "relu6": lambda: np.clip(x, 0, 6),
        "leaky_relu": lambda: np.where(x < 0, alpha * x, x),
        "prelu": lambda: np.where(x < 0, x * np.asarray(slopes)[None, :, None, None], x),
        "silu": lambda: x * sigmoid,
        "hardswish": lambda: x * six,
        "hardsigmoid": lambda: six,
        "sigmoid": lambda: sigmoid,
        "gelu": lambda: x * (1 + erf(x / np.sqrt(2))) / 2,
        "gelu_tanh": lambda: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
        "tanh": lambda: np.tanh(x),
        "clip": lambda: np.clip(x, alpha, beta),
        "elu": lambda: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
    }
    return np.asarray(table[kind]())
