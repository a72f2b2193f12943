"""`activation(x @ weight.T + bias) + residual`, the product of every linear layer, and its split form for few tokens.

Bytes moved: x, weight, residual and out once each from and to memory (tiles are re-read from L2); the weight dominates
below about 200 tokens. Reference: `distilrt.model.functional.linear` and `activation`. Sums are float32; float32
products are exact unless tf32 is asked for, and sums of int8 are exact in int32. Every output is one chain of sums over
k in rising order, so it doesn't depend on other rows. Factors may be codes with scales (`quantize`), which go on the
sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl

from distilrt.kernels import tiles
from distilrt.kernels.activation import ACTIVATIONS, activate, plain_activation
from distilrt.kernels.launch import (
    FLOATS,
    allow_next,
    await_previous,
    check,
    check_count,
    check_given,
    chip_of,
    count_rows,
    dot,
    launch_options,
    prefetch_rows,
    product_name,
    rounded,
)
from distilrt.kernels.layer_norm import plain_norm, residual_layer_norm
from distilrt.kernels.narrow_linear import launch_narrow
from distilrt.kernels.op import Arguments, Arrays, Choice, Entries, Example, Op, OpOutput, Sizes, double, given, nbytes
from distilrt.kernels.persistent_linear import Relay, Scales, launch_persistent
from distilrt.kernels.quantize import Factor, Quantized, as_factors, plain_factor, row_dtype, scaled
from distilrt.model import functional
from distilrt.model.config import LAYER_NORM_EPS, DistilBertConfig


@triton.jit(do_not_specialize=["num_tokens_ptr", "max_tokens"])
def _linear_kernel(
    out_ptr,  # [max_tokens, N], or [segments, max_tokens, N] float32
    x_ptr,  # [max_tokens, K]
    weight_ptr,  # [N, K]
    row_scales_ptr,  # [max_tokens] or None
    column_scales_ptr,  # [N] or None
    bias_ptr,  # [N] or None
    residual_ptr,  # [max_tokens, N] or None
    num_tokens_ptr,  # [1] or None
    max_tokens,
    N: tl.constexpr,
    K: tl.constexpr,
    SEGMENT: tl.constexpr,
    WHOLE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    ONE_ROW_OF_BLOCKS: tl.constexpr,
    PREFETCH: tl.constexpr,
    TF32: tl.constexpr,
    PDL: tl.constexpr,
):
    program = tl.program_id(0)
    segment = tl.program_id(1)
    if ONE_ROW_OF_BLOCKS:
        block_m = 0
        block_n = program
    else:
        # Programs that run together share a few row blocks and their weights in L2.
        blocks_m = tl.cdiv(max_tokens, BLOCK_M)
        per_group: tl.constexpr = GROUP_M * ((N + BLOCK_N - 1) // BLOCK_N)
        first = program // per_group * GROUP_M
        height = tl.minimum(blocks_m - first, GROUP_M)
        block_m = first + program % per_group % height
        block_n = program % per_group // height
    allow_next(PDL)
    prefetch_rows(weight_ptr, block_n * BLOCK_N, N, K, BLOCK_N, PDL and PREFETCH)
    await_previous(PDL)
    num_tokens = count_rows(num_tokens_ptr, max_tokens)
    if not ONE_ROW_OF_BLOCKS:  # noqa: SIM102, the outer condition is of compile time
        if block_m * BLOCK_M >= num_tokens:
            return
    row0 = block_m * BLOCK_M
    col0 = block_n * BLOCK_N
    k0 = segment * SEGMENT
    # Beyond the last row or column the last one is read again: cheaper than a mask, and never stored.
    rows = tl.minimum(tl.arange(0, BLOCK_M), max_tokens - 1 - row0)
    cols = tl.minimum(tl.arange(0, BLOCK_N), N - 1 - col0)
    ks = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + row0.to(tl.int64) * K + k0 + rows[:, None] * K + ks[None, :]
    weight_ptrs = weight_ptr + col0.to(tl.int64) * K + k0 + cols[:, None] * K + ks[None, :]
    out_rows = row0 + tl.arange(0, BLOCK_M)
    out_cols = col0 + tl.arange(0, BLOCK_N)
    where = out_rows.to(tl.int64)[:, None] * N + out_cols[None, :]
    inside = (out_rows < num_tokens)[:, None] & (out_cols < N)[None, :]
    EARLY: tl.constexpr = residual_ptr is not None and ACTIVATION == "" and row_scales_ptr is None
    if EARLY:
        # Before the sums: afterwards a large block has no registers left for it.
        acc = tl.load(residual_ptr + where, inside, other=0.0).to(tl.float32)
    else:
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.int32 if x_ptr.dtype.element_ty == tl.int8 else tl.float32)
    for k in range(0, SEGMENT, BLOCK_K):
        if WHOLE:
            x = tl.load(x_ptrs)
            weight = tl.load(weight_ptrs)
        else:
            left = ks[None, :] < tl.minimum(SEGMENT, K - k0) - k
            x = tl.load(x_ptrs, left, other=0.0)
            weight = tl.load(weight_ptrs, left, other=0.0)
        acc = dot(x, tl.trans(weight), acc, TF32)
        x_ptrs += BLOCK_K
        weight_ptrs += BLOCK_K

    acc = scaled(acc, row_scales_ptr, column_scales_ptr, out_rows, out_cols, num_tokens, N)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + out_cols, out_cols < N, other=0.0).to(tl.float32)[None, :]
    acc = activate(acc, ACTIVATION)
    if residual_ptr is not None and not EARLY:
        acc += tl.load(residual_ptr + where, inside, other=0.0).to(tl.float32)
    out_ptr += segment.to(tl.int64) * max_tokens * N
    tl.store(out_ptr + where, rounded(acc, out_ptr.dtype.element_ty), inside)


def linear(
    out: torch.Tensor,
    x: Factor,
    weight: Factor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    activation: str = "",
    num_tokens: torch.Tensor | None = None,
    tf32: bool = False,
    pdl: bool = False,
    relay: Relay | None = None,
) -> None:
    """`out = activation(x @ weight.T + bias) + residual` in the first `num_tokens` rows; others are left as they are.

    Args:
        out: `[T, N]`, of the dtype of x or float32; of codes bfloat16 or float32.
        x: `[T, K]` float32, float16 or bfloat16; or codes of `quantize`, where the weight has them.
        weight: `[N, K]`, of the dtype of x; or codes, then few rows (`tiles.NARROW_ROWS`) may be bfloat16.
        bias: `[N]` of any float dtype, or None.
        residual: `[T, N]` of the dtype of x, of codes bfloat16; or None.
        activation: one of `activation.ACTIVATIONS`; "" is none.
        num_tokens: `[1]` int32 on the device; None: all T rows.
        tf32: let tensor cores cut factors of a float32 product to 10 binary digits; nothing for other dtypes.
        pdl: start before the kernel before has finished (`launch.begin`).
        relay: as large as `tiles.relayed` says; without one, each block has a program of its own.

    Raises:
        ValueError: a shape, dtype or activation that does not fit.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, found {activation!r}")
    max_tokens, n, dtype = _check_product(x, weight, num_tokens)
    widened = isinstance(weight, Quantized) or tiles.is_narrow(max_tokens, product_name(dtype, tf32))
    if isinstance(x, torch.Tensor) and widened:
        launch_narrow(out, x, weight, bias, residual, num_tokens, activation, pdl)
        return
    check("out", out, [max_tokens, n], [dtype, torch.float32])
    check_given("bias", bias, [n], FLOATS)
    check_given("residual", residual, [max_tokens, n], [dtype])
    _launch(out, x, weight, bias, residual, num_tokens, 1, activation, tf32, pdl, relay)


def linear_split(
    partials: torch.Tensor,
    x: Factor,
    weight: Factor,
    *,
    num_tokens: torch.Tensor | None = None,
    tf32: bool = False,
    pdl: bool = False,
    relay: Relay | None = None,
) -> None:
    """Partial sums of `x @ weight.T` over S equal parts of the depth; `layer_norm.residual_layer_norm` adds them up.

    For few tokens, where the output has too few blocks to fill the chip. No atomics: the sum's order is fixed.

    Args:
        partials: `[S, T, N]` float32; rows from `num_tokens` on are left as they are. `tiles.split_k` names a good S.
        x, weight, num_tokens, tf32, pdl, relay: as in `linear`, but for few rows of another dtype than the weight's.

    Raises:
        ValueError: a shape or dtype that does not fit.
    """
    max_tokens, n, _ = _check_product(x, weight, num_tokens)
    if isinstance(x, torch.Tensor) and isinstance(weight, Quantized):
        raise ValueError("x must be codes as weight is; make them with quantize, or use linear for few rows")
    check("partials", partials, [None, max_tokens, n], [torch.float32])
    _launch(partials, x, weight, None, None, num_tokens, partials.shape[0], "", tf32, pdl, relay)


def _check_product(x: Factor, weight: Factor, num_tokens: torch.Tensor | None) -> tuple[int, int, torch.dtype]:
    """Rows, columns, and the dtype of results."""
    check_count(num_tokens)
    if isinstance(weight, Quantized):
        weight.check("weight", None, None)
        n, k = weight.codes.shape
        if isinstance(x, Quantized):
            x.check("x", None, k, weight.codes.dtype)
            return len(x.codes), n, row_dtype(weight)
        check("x", x, [None, k], [row_dtype(weight)])
        return len(x), n, row_dtype(weight)
    if isinstance(x, Quantized):
        raise ValueError("weight must be codes as x is, found a tensor")
    check("x", x, [None, None], FLOATS)
    check("weight", weight, [None, x.shape[1]], [x.dtype])
    return len(x), len(weight), x.dtype


def _launch(
    out: torch.Tensor,
    x: Factor,
    weight: Factor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    num_tokens: torch.Tensor | None,
    segments: int,
    activation: str,
    tf32: bool,
    pdl: bool,
    relay: Relay | None,
) -> None:
    scales: Scales = (None, None)
    if isinstance(x, Quantized) and isinstance(weight, Quantized):
        scales, x, weight = (x.scales, weight.scales), x.codes, weight.codes
    assert isinstance(x, torch.Tensor)
    assert isinstance(weight, torch.Tensor)
    max_tokens, k = x.shape
    n = weight.shape[0]
    if not max_tokens:
        return
    name, chip = product_name(x.dtype, tf32), chip_of(x)
    # A persistent form is for results of 16 bits or sums in float32, and for tensor descriptors.
    suits = (out.itemsize == 2 or segments > 1) and not any(each.data_ptr() % 16 for each in (out, x, weight))
    tile = tiles.linear_tile(max_tokens, n, k, name, chip, segments, persistent=suits and relay is not None)
    if tile.form and relay is not None:
        launch_persistent(tile, relay, out, x, weight, scales, bias, residual, num_tokens, segments, activation, pdl)
        return
    segment = triton.cdiv(k, segments * tile.block_k) * tile.block_k
    blocks_m = triton.cdiv(max_tokens, tile.block_m)
    _linear_kernel[blocks_m * triton.cdiv(n, tile.block_n), segments](
        out, x, weight, *scales, bias, residual, num_tokens, max_tokens,
        N=n, K=k, SEGMENT=segment, WHOLE=segment * segments == k, ACTIVATION=activation,
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, BLOCK_K=tile.block_k, GROUP_M=tiles.GROUP_M,
        ONE_ROW_OF_BLOCKS=blocks_m == 1, PREFETCH=segments == 1 and max_tokens <= 256, TF32=name == "tf32",
        num_warps=tile.num_warps, num_stages=tile.num_stages, maxnreg=tile.max_registers(name, chip),
        **launch_options(pdl),
    )  # fmt: skip


def _relay(a: Arrays, chip: tiles.Chip) -> Relay:
    """One that is large enough for every tile."""
    most = max(tile.block_m * tile.block_n for tile in tiles.linear_candidates("float16", chip))
    sums = torch.empty(chip.num_sms * most, dtype=torch.float32, device=a.device)
    return Relay(torch.zeros(chip.num_sms, dtype=torch.int32, device=a.device), sums)


def _factors(a: Arrays, x: torch.Tensor, n: int, widened: bool) -> tuple[Factor, list[Factor]]:
    """Rows and weights with n columns, codes where the dtype has them; rows that are `widened` stay as they are."""
    (rows,) = as_factors(a, x[None]) if not widened else (x,)
    return rows, as_factors(a, a.weights(n, x.shape[1]))


def _example(
    a: Arrays,
    tokens: int,
    n: int,
    k: int,
    activation: str = "",
    added: bool = False,
    sums: bool = False,
    spare: int = 0,
) -> Example:
    """A product, with a residual if `added`; with `sums` into float32, as `norm_linear` reads it."""
    x, weights = _factors(a, a.random(tokens + spare, k), n, tiles.is_narrow(tokens + spare, "bfloat16"))
    bias, count = a.vector(n), a.ints(tokens)
    residual = a.random(tokens + spare, n) if added else None
    relay = _relay(a, chip_of(bias))
    out = a.empty(tokens + spare, n, dtype=torch.float32 if sums else None)

    def launch() -> None:
        options: dict[str, Any] = {"num_tokens": count, "tf32": a.tf32, "pdl": a.pdl, "relay": relay}
        for weight in weights:
            linear(out, x, weight, bias, residual, activation=activation, **options)

    def exact() -> Any:
        y = functional.linear(double(plain_factor(x)[:tokens]), double(plain_factor(weights[-1])), double(bias))
        y = functional.activation(activation, y) if activation else y
        return y if residual is None else y + double(residual[:tokens])

    def plain() -> torch.Tensor:
        rows, weight = plain_factor(x)[:tokens], plain_factor(weights[-1])
        y = torch.nn.functional.linear(rows, weight.to(rows.dtype), bias.to(rows.dtype)).to(a.dtype)
        y = plain_activation(activation, y) if activation else y
        return y if residual is None else y + residual[:tokens]

    def bound() -> float:
        """Each factor may lose 2^-10 of its size, so a product 2^-9; sums of k of them in float32 lose k 2^-23 more."""
        sizes = plain_factor(x).double().abs() @ plain_factor(weights[-1]).double().abs().T
        return float(sizes.max()) * (2**-9 + k * 2**-23)

    return Example(
        f"linear {tokens}x{k}x{n} {activation}".rstrip(),
        launch,
        {"out": OpOutput(out, exact, plain, bound if a.tf32 else None)},
        nbytes(x, out, weights[0]) + (0 if residual is None else residual.nbytes),
        2.0 * tokens * n * k,
        len(weights),
    )


def _in_model(config: DistilBertConfig, tokens: int, dtype: str) -> list[Arguments]:
    width, inner, narrow = config.hidden_size, config.intermediate_size, tiles.is_narrow(tokens, dtype)
    return [
        given(tokens=tokens, n=3 * width, k=width),
        given(tokens=tokens, n=width, k=width, added=narrow, sums=narrow),
        given(tokens=tokens, n=inner, k=width, activation=config.activation),
        given(tokens=tokens, n=width, k=inner, added=narrow, sums=narrow),
    ]


def _odd(sizes: Sizes, dtype: str) -> list[Arguments]:
    width, inner, most = sizes.width, sizes.inner, sizes.tokens[-1]
    if dtype == "tf32":
        return [given(tokens=tokens, n=3 * width, k=width) for tokens in sizes.tokens]
    shapes = [(tokens, width, k, "") for tokens in sizes.tokens for k in (width, inner)]
    shapes += [(most, inner, width, "gelu"), (5, 51, 36, ""), (33, 2, 100, "relu")]
    shapes += [(sizes.tokens[1], 80, 48, activation) for activation in ACTIVATIONS[1:]]
    return [
        given(tokens=tokens, n=n, k=k, activation=activation, added=True, spare=3)
        for tokens, n, k, activation in shapes
    ]


def _variants(config: DistilBertConfig, dtype: str, chip: tiles.Chip) -> Iterator[tuple[Arguments, Entries]]:
    """Every tile in products of both kinds, and every activation."""
    wide = given(tokens=4096, n=config.intermediate_size, k=config.hidden_size)
    deep = given(tokens=4096, n=config.hidden_size, k=config.intermediate_size, added=True)
    for tile in tiles.linear_candidates(dtype, chip):
        for arguments in (deep, wide | {"activation": "gelu"}):
            key = ("linear", chip.capability, dtype, arguments["n"], arguments["k"])
            yield arguments, {key: {4096: tile}}
    for activation in ("relu", "gelu_new", "silu"):
        yield wide | {"activation": activation}, {}


def _choice(arguments: Arguments, dtype: str, chip: tiles.Chip) -> Choice:
    tokens, n, k = (arguments[name] for name in ("tokens", "n", "k"))
    if tiles.is_narrow(tokens, dtype):
        return Choice(("narrow", chip.capability, n, k, False), tokens, tiles.narrow_tiles(tokens, n, k, chip, False))
    return Choice(("linear", chip.capability, dtype, n, k), tokens, tiles.linear_tiles(tokens, n, k, dtype, chip))


def _split_example(a: Arrays, tokens: int, n: int, k: int, segments: int = 0) -> Example:
    """The product in parts of its depth, or whole where that is as good, and the layer norm behind it.

    `segments` 0: as many parts as `tiles.split_k` says.
    """
    (x, weights), residual, out = _factors(a, a.random(tokens, k), n, False), a.random(tokens, n), a.empty(tokens, n)
    (bias, gamma, beta), count = (a.vector(n) for _ in range(3)), a.ints(tokens)
    name = product_name(a.dtype if a.codes is None else getattr(torch, a.codes), a.tf32)
    segments = segments or tiles.split_k(tokens, n, k, name, chip_of(out))
    parts = a.empty(segments, tokens, n, dtype=torch.float32) if segments > 1 else a.empty(tokens, n)
    relay = _relay(a, chip_of(out))
    multiply = linear_split if segments > 1 else linear

    def launch() -> None:
        options: dict[str, Any] = {"num_tokens": count, "pdl": a.pdl}
        for weight in weights:
            multiply(parts, x, weight, tf32=a.tf32, relay=relay, **options)
            residual_layer_norm(out, parts, residual, gamma, beta, bias, eps=LAYER_NORM_EPS, **options)

    def exact() -> Any:
        y = functional.linear(double(plain_factor(x)), double(plain_factor(weights[-1])), double(bias))
        y += double(residual)
        return functional.layer_norm(y, double(gamma), double(beta))

    def plain() -> torch.Tensor:
        rows = plain_factor(x)
        y = torch.nn.functional.linear(rows, plain_factor(weights[-1]), bias.to(rows.dtype)).to(a.dtype) + residual
        return plain_norm(y, gamma, beta)

    return Example(
        f"linear_split and layer norm {tokens}x{k}x{n}",
        launch,
        {"out": OpOutput(out, exact, plain)},
        nbytes(x, weights[0], residual, out) + 2 * parts.nbytes,
        2.0 * tokens * n * k,
        len(weights),
    )


def _split_in_model(config: DistilBertConfig, tokens: int, dtype: str) -> list[Arguments]:
    depths = () if tiles.is_narrow(tokens, dtype) else (config.hidden_size, config.intermediate_size)
    return [given(tokens=tokens, n=config.hidden_size, k=k) for k in depths]


def _split_odd(sizes: Sizes, dtype: str) -> list[Arguments]:
    counts = sizes.tokens if dtype != "tf32" else ()
    return [given(tokens=tokens, n=sizes.width, k=sizes.inner, segments=2) for tokens in counts]


def _split_choice(arguments: Arguments, dtype: str, chip: tiles.Chip) -> Choice:
    tokens, n, k = (arguments[name] for name in ("tokens", "n", "k"))
    return Choice(("split", chip.capability, dtype, n, k), tokens, tiles.splits(tokens, n, k, dtype, chip))


OPS = (
    Op("linear", _example, _in_model, _odd, _variants, _choice, has_codes=True),
    Op("linear_split", _split_example, _split_in_model, _split_odd, choice=_split_choice, has_codes=True),
)
