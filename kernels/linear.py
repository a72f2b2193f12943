"""`activation(x @ weight.T + bias) + residual`, the product of every linear layer, or the sums of parts of its depth.

It runs in one of three forms: `narrow_linear` for few rows, and by tile `block_linear` or `persistent_linear`. Bytes
moved: x, weight, residual and out once each from and to memory (tiles are re-read from L2); the weight dominates below
about 200 tokens. Reference: `distilrt.model.functional.linear` and `activation`. Sums are float32, float32 products as
`precision` says, and sums of int8 are exact in int32. Every output is one chain of sums over k in rising order, so it
doesn't depend on other rows. Factors may be codes with scales (`quantize`), which go on the sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from distilrt.kernels import tiles
from distilrt.kernels.activation import ACTIVATIONS, check_activation
from distilrt.kernels.block_linear import launch_blocks
from distilrt.kernels.launch import FLOATS, PRECISIONS, check, check_count, check_given, chip_of, product_name
from distilrt.kernels.layer_norm import layer_norm, plain_norm
from distilrt.kernels.narrow_linear import launch_narrow
from distilrt.kernels.op import Arguments, Arrays, Choice, Entries, Example, Op, OpOutput, Sizes, double, given, nbytes
from distilrt.kernels.persistent_linear import Relay, launch_persistent
from distilrt.kernels.product import Product, exact_product, plain_product
from distilrt.kernels.quantize import Factor, Quantized, as_factors, plain_factor, row_dtype
from distilrt.model import functional
from distilrt.model.config import LAYER_NORM_EPS, DistilBertConfig


def linear(
    out: torch.Tensor,
    x: Factor,
    weight: Factor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    activation: str = "",
    num_tokens: torch.Tensor | None = None,
    precision: str = "ieee",
    pdl: bool = False,
    relay: Relay | None = None,
) -> None:
    """`out = activation(x @ weight.T + bias) + residual` in the first `num_tokens` rows; others are left as they are.

    Or, for few tokens where the result has too few blocks to fill the chip, the sums over S equal parts of the depth,
    which `layer_norm.layer_norm` adds up; then there is no bias, activation or residual.

    Args:
        out: `[T, N]`, of the dtype of x or float32; of codes bfloat16 or float32. Or `[S, T, N]` float32;
            `tiles.split_k` names a good S.
        x: `[T, K]` float32, float16 or bfloat16; or codes of `quantize`, where the weight has them.
        weight: `[N, K]`, of the dtype of x; or codes, then few rows (`tiles.NARROW_ROWS`) may be bfloat16 if they are
            not in parts.
        bias: `[N]` of any float dtype, or None.
        residual: `[T, N]` of the dtype of x, of codes bfloat16; or None.
        activation: one of `activation.ACTIVATIONS`; "" is none.
        num_tokens: `[1]` int32 on the device; None: all T rows.
        precision: of a float32 product, one of `launch.PRECISIONS`; nothing for other dtypes.
        pdl: start before the kernel before has finished (`launch.begin`).
        relay: as large as `tiles.relayed` says; without one, each block has a program of its own.

    Raises:
        ValueError: a shape, dtype, activation or precision that does not fit.
    """
    check_activation(activation)
    max_tokens, n, dtype = _check_product(x, weight, num_tokens)
    segments = len(out) if out.dim() == 3 else 0
    if segments:
        check("out", out, [None, max_tokens, n], [torch.float32])
        if bias is not None or residual is not None or activation:
            raise ValueError("parts of a product have no bias, residual or activation")
    else:
        check("out", out, [max_tokens, n], [dtype, torch.float32])
    check_given("bias", bias, [n], FLOATS)
    check_given("residual", residual, [max_tokens, n], [dtype])
    widened = isinstance(x, torch.Tensor) and isinstance(weight, Quantized)
    if widened and segments:
        raise ValueError("x must be codes as weight is; make them with quantize, or leave few rows in one part")
    few = tiles.is_narrow(max_tokens, product_name(dtype, precision)) and not segments
    if isinstance(x, torch.Tensor) and (few or widened):
        launch_narrow(out, x, weight, bias, residual, num_tokens, activation, pdl)
    elif max_tokens:
        scales: tuple[Any, Any] = (None, None)
        if isinstance(x, Quantized) and isinstance(weight, Quantized):
            scales, x, weight = (x.scales, weight.scales), x.codes, weight.codes
        assert isinstance(x, torch.Tensor)
        assert isinstance(weight, torch.Tensor)
        product = Product(out, x, weight, scales, bias, residual, num_tokens, segments or 1, activation, pdl)
        _launch(product, product_name(x.dtype, precision), relay)


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


def _launch(p: Product, name: str, relay: Relay | None) -> None:
    # A persistent form is for results of 16 bits or sums in float32, and for tensor descriptors.
    suits = (p.out.itemsize == 2 or p.segments > 1) and not any(each.data_ptr() % 16 for each in (p.out, p.x, p.weight))
    (tokens, k), n, persistent = p.x.shape, len(p.weight), suits and relay is not None
    tile = tiles.linear_tile(tokens, n, k, name, chip_of(p.x), p.segments, persistent)
    if tile.form and relay is not None:
        launch_persistent(tile, p, relay)
    else:
        launch_blocks(tile, p, name)


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
        options: dict[str, Any] = {"num_tokens": count, "precision": a.precision, "pdl": a.pdl, "relay": relay}
        for weight in weights:
            linear(out, x, weight, bias, residual, activation=activation, **options)

    def exact() -> Any:
        y = exact_product(double(plain_factor(x)[:tokens]), weights[-1], bias, activation)
        return y if residual is None else y + double(residual[:tokens])

    def plain() -> torch.Tensor:
        y: torch.Tensor = plain_product(plain_factor(x)[:tokens], weights[-1], bias, a.dtype, activation)
        return y if residual is None else y + residual[:tokens]

    def bound() -> float:
        """Each factor may lose 2^-10 of its size, so a product 2^-9; sums of k of them in float32 lose k 2^-23 more."""
        sizes = plain_factor(x).double().abs() @ plain_factor(weights[-1]).double().abs().T
        return float(sizes.max()) * (2**-9 + k * 2**-23)

    return Example(
        f"linear {tokens}x{k}x{n} {activation}".rstrip(),
        launch,
        {"out": OpOutput(out, exact, plain, bound if a.precision == "tf32" else None)},
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
    if dtype in PRECISIONS:
        return [given(tokens=tokens, n=3 * width, k=width) for tokens in sizes.tokens]
    shapes = [(tokens, width, k, "") for tokens in sizes.tokens for k in (width, inner)]
    shapes += [(most, inner, width, "gelu"), (5, 51, 36, ""), (33, 2, 100, "relu")]
    shapes += [(sizes.tokens[1], 80, 48, activation) for activation in ACTIVATIONS[1:]]
    return [
        given(tokens=tokens, n=n, k=k, activation=activation, added=True, spare=3)
        for tokens, n, k, activation in shapes
    ]


def _variants(config: DistilBertConfig, dtype: str, chip: tiles.Chip) -> Iterator[tuple[Arguments, Entries]]:
    """Every tile in products of both kinds, and every activation. Of codes layer norms alone add a residual."""
    wide = given(tokens=4096, n=config.intermediate_size, k=config.hidden_size)
    deep = given(tokens=4096, n=config.hidden_size, k=config.intermediate_size, added=dtype not in tiles.CODES)
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
    name = product_name(a.dtype if a.codes is None else getattr(torch, a.codes), a.precision)
    segments = segments or tiles.split_k(tokens, n, k, name, chip_of(out))
    parts = a.empty(segments, tokens, n, dtype=torch.float32) if segments > 1 else a.empty(tokens, n)
    relay = _relay(a, chip_of(out))

    def launch() -> None:
        options: dict[str, Any] = {"num_tokens": count, "pdl": a.pdl}
        for weight in weights:
            linear(parts, x, weight, precision=a.precision, relay=relay, **options)
            layer_norm(out, parts, gamma, beta, residual, bias, eps=LAYER_NORM_EPS, **options)

    def exact() -> Any:
        y = exact_product(double(plain_factor(x)), weights[-1], bias) + double(residual)
        return functional.layer_norm(y, double(gamma), double(beta))

    def plain() -> torch.Tensor:
        return plain_norm(plain_product(plain_factor(x), weights[-1], bias, a.dtype) + residual, gamma, beta)

    return Example(
        f"linear in parts and layer_norm {tokens}x{k}x{n}",
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
    counts = sizes.tokens if dtype not in PRECISIONS else ()
    return [given(tokens=tokens, n=sizes.width, k=sizes.inner, segments=2) for tokens in counts]


def _split_choice(arguments: Arguments, dtype: str, chip: tiles.Chip) -> Choice:
    tokens, n, k = (arguments[name] for name in ("tokens", "n", "k"))
    return Choice(("split", chip.capability, dtype, n, k), tokens, tiles.splits(tokens, n, k, dtype, chip))


OPS = (
    Op("linear", _example, _in_model, _odd, _variants, _choice, has_codes=True),
    Op("linear_and_norm", _split_example, _split_in_model, _split_odd, choice=_split_choice, has_codes=True),
)
