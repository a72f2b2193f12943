"""The activations as functions of the linear kernels' epilogue, in float32.

Reference: `distilrt.model.functional.activation`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ACTIVATIONS = ("", "gelu", "relu", "gelu_new", "gelu_pytorch_tanh", "silu", "tanh")  # "" is none


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """The activation that a config calls `ACTIVATION`, or `x` itself where that is empty."""
    if ACTIVATION == "gelu":
        x = gelu(x)
    elif ACTIVATION == "relu":
        x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACTIVATION == "silu":
        x = times_sigmoid(x, x)
    elif ACTIVATION == "tanh":  # 2 / (1 + exp(-2 x)) - 1, whose error near 0 is that of 1
        x = times_sigmoid(2.0, x + x) - 1.0
    elif ACTIVATION != "":
        tl.static_assert((ACTIVATION == "gelu_new") or (ACTIVATION == "gelu_pytorch_tanh"))
        # x/2 (1 + tanh(u)) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
        x = times_sigmoid(x, x * (x * x * 0.07135481282 + 1.5957691216))
    return x


@triton.jit
def gelu(x):
    """`x Φ(x)` within 9e-8, the exact form (Hendrycks & Gimpel 2016, arXiv:1606.08415), in ten instructions.

    It is `max(x, 0) - a Φ(-a)` with `a = |x|`, and log2 Φ(-a) is nearly a parabola: a polynomial of degree 6, our own
    minimax fit of `a Φ(-a)` on [0, 6], leaves 5e-8. At the end of the range, where the argument is held, `a Φ(-a)` is
    6e-9. One exponential is the only slow instruction; erf itself would need a division or twice as many terms.
    """
    a = tl.minimum(tl.abs(x), 6.0)
    p = 3.3092801e-05
    p = p * a - 7.6921959e-04
    p = p * a + 8.0807162e-03
    p = p * a - 5.3412102e-02
    p = p * a - 4.5877096e-01
    p = p * a - 1.1512017e00
    p = p * a - 9.9999309e-01
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) - a * tl.exp2(p)


@triton.jit
def times_sigmoid(x, u):
    """`x / (1 + exp(-u))`."""
    return x * (1.0 / (1.0 + tl.exp2(u * -1.4426950408889634)))


def check_activation(name: str) -> None:
    """Raise ValueError unless `name` is one of `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, found {name!r}")


def plain_activation(name: str, x: torch.Tensor) -> torch.Tensor:
    """torch's activation of this name, in the dtype of x; x itself where the name is empty."""
    if not name:
        return x
    if name in ("gelu_new", "gelu_pytorch_tanh"):
        return torch.nn.functional.gelu(x, approximate="tanh")
    result: torch.Tensor = getattr(torch.nn.functional, name)(x)
    return result
