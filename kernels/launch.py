"""What every launcher needs: the chip that a tensor lives on, the order of kernels on a stream, checks of arguments.

Launchers take tensors that the caller allocated, allocate nothing and never wait for the device.

Programmatic dependent launch (`pdl=True`, sm_90 and newer) lets a kernel start while its predecessor on the stream
still runs. Each kernel then lets its successor start, fetches what no kernel writes (weights), and waits for its
predecessor before it touches anything else: `begin` does so, and every kernel must call it before such an access.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from distilrt.kernels.tiles import H200, Chip

# Read when Triton decorates a kernel: whether kernels run in its interpreter, on the CPU.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

# How float32 products are computed, as Triton calls it: exact multiply-adds; on tensor cores the sum of three products
# of what factors keep in 11 binary digits and what they lose by them; or one of factors cut to 11 digits.
PRECISIONS = ("ieee", "tf32x3", "tf32")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
HALVES = (torch.float16, torch.bfloat16)
DTYPE_NAMES = {
    torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16",
    torch.float8_e4m3fn: "float8", torch.int8: "int8",
}  # fmt: skip


# For which GPU tiles are chosen where tensors are on none: under the interpreter, and when compiling ahead of time.
stand_in = H200


@triton.jit
def begin(PDL: tl.constexpr):
    """Let the next kernel of the stream start, and wait until the one before has finished; nothing without `PDL`."""
    allow_next(PDL)
    await_previous(PDL)


@triton.jit
def allow_next(PDL: tl.constexpr):
    """Let the next kernel of the stream start."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def await_previous(PDL: tl.constexpr):
    """Wait until the kernel before, and so every kernel before, has finished and its writes can be seen."""
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def prefetch_rows(ptr, row0, ROWS: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, ON: tl.constexpr):
    """Ask for BLOCK rows of a matrix `[ROWS, K]` in L2, from row `row0` on, a line of 128 bytes a thread."""
    if ON:
        LINE: tl.constexpr = 1024 // ptr.dtype.element_ty.primitive_bitwidth
        LINES: tl.constexpr = (BLOCK * K + LINE - 1) // LINE
        start = tl.cast(row0, tl.int64) * K
        for first in tl.static_range(0, LINES, 256):
            offsets = start + (first + tl.arange(0, 256)) * LINE
            address = (ptr + tl.minimum(offsets, tl.minimum(start + BLOCK * K, ROWS * K) - 1)).to(tl.int64)
            tl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [address], dtype=tl.int32, is_pure=False, pack=1
            )


@triton.jit
def count_rows(num_tokens_ptr, max_tokens):
    """Rows that are real: `num_tokens_ptr[0]`, or all `max_tokens` where the pointer is None."""
    if num_tokens_ptr is None:
        num_tokens = max_tokens
    else:
        num_tokens = tl.load(num_tokens_ptr)
    return num_tokens


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """`a @ b + acc` with float32 sums, of int8 exact int32; codes in b are widened to what a is.

    float32 products are as `PRECISION`, one of `PRECISIONS`, says.
    """
    if INTERPRETED and a.dtype != tl.int8:  # its product takes the bits of a bfloat16 for an integer
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    b = b.to(a.dtype)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """The float32 x in a tensor's dtype, to nearest even; of 8 bits, nothing is larger than the largest number."""
    if INTERPRETED and dtype == tl.bfloat16:  # there the cast cuts digits off, which no GPU does
        bits = x.to(tl.int32, bitcast=True)
        up = bits + 0x7FFF + ((bits >> 16) & 1)
        x = tl.where(x == x, up.to(tl.float32, bitcast=True), x)
    elif dtype == tl.int8:
        x = tl.clamp(x, -127.0, 127.0) + 12582912.0 - 12582912.0  # 1.5 * 2^23, beside which there are no fractions
    elif dtype == tl.float8e4nv:
        x = tl.clamp(x, -448.0, 448.0)
        if INTERPRETED:  # there the cast is right only for what E4M3 has: 3 digits behind the first, or steps of 2^-9
            bits = x.to(tl.int32, bitcast=True)
            up = (bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000
            x = tl.where(tl.abs(x) < 2**-6, x + 24576.0 - 24576.0, up.to(tl.float32, bitcast=True))
    return x.to(dtype)


def chip_of(tensor: torch.Tensor) -> Chip:
    """The GPU of `tensor`, or `stand_in` for a tensor that is on none."""
    return _chip(tensor.device.index or 0) if tensor.is_cuda else stand_in


@cache
def _chip(index: int) -> Chip:
    properties = torch.cuda.get_device_properties(index)
    return Chip(properties.major * 10 + properties.minor, properties.multi_processor_count)


def launch_options(pdl: bool, *, early: bool = True) -> dict[str, Any]:
    """Keywords of every kernel launch; products and sums fuse, which newer Tritons would ask for.

    Without `early` a kernel lets its successor start but itself waits for whatever comes before it on the stream: a
    copy or a fill is no kernel that another could depend on.
    """
    options: dict[str, Any] = {"PDL": pdl, "enable_fp_fusion": True}
    return options | {"launch_pdl": True} if pdl and early else options


def product_name(dtype: torch.dtype, precision: str) -> str:
    """What `tiles` calls products of this dtype: float32 on tensor cores by the precision, else the dtype's name.

    Raises:
        ValueError: a precision that is not one of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(map(repr, PRECISIONS))}, found {precision!r}")
    return precision if dtype == torch.float32 and precision != "ieee" else DTYPE_NAMES[dtype]


def check(name: str, tensor: torch.Tensor, shape: Sequence[int | None], dtypes: Sequence[torch.dtype]) -> None:
    """Raise ValueError unless `tensor` is contiguous, of one of `dtypes` and of `shape`, where None is any size."""
    if (
        tensor.dim() != len(shape)
        or any(want is not None and have != want for have, want in zip(tensor.shape, shape, strict=True))
        or tensor.dtype not in dtypes
        or not tensor.is_contiguous()
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        kinds = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        state = "" if tensor.is_contiguous() else ", not contiguous"
        raise ValueError(
            f"{name} must be contiguous {kinds} of shape [{wanted}], "
            f"found {str(tensor.dtype).removeprefix('torch.')} of shape {list(tensor.shape)}{state}"
        )


def check_given(
    name: str, tensor: torch.Tensor | None, shape: Sequence[int | None], dtypes: Sequence[torch.dtype]
) -> None:
    """`check` of a tensor that may be left out."""
    if tensor is not None:
        check(name, tensor, shape, dtypes)


def check_count(num_tokens: torch.Tensor | None) -> None:
    """Raise ValueError unless `num_tokens` is None or one int32."""
    check_given("num_tokens", num_tokens, [1], [torch.int32])
