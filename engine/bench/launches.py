"""What a forward launches, without a GPU: launchers are called with tensors that have a shape but no data.

What they would launch is recorded instead, so arguments, tiles and epilogues are those of a real forward.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import triton

from distilrt.kernels import (
    attention,
    embedding,
    launch,
    layer_norm,
    linear,
    narrow_linear,
    packing,
    pooling,
    row_attention,
    tiles,
)

CHIPS = {chip.capability: chip for chip in (tiles.A100, tiles.L40S, tiles.H200, tiles.B200)}
DTYPES = ("float32", "tf32", "float16", "bfloat16")
POINTERS = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16",
    torch.int32: "i32", torch.int64: "i64", torch.bool: "i1",
}  # fmt: skip
_MODULES = (attention, embedding, layer_norm, linear, narrow_linear, packing, pooling, row_attention)


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch that a launcher asked for."""

    kernel: Any
    name: str
    arguments: dict[str, Any]
    options: dict[str, Any]

    @property
    def variant(self) -> str:
        """What tells this launch from others of its kernel: constants, absent arguments and options."""
        parts = []
        for parameter in self.kernel.params:
            value = self.arguments[parameter.name]
            if parameter.is_constexpr or value is None:
                parts.append(f"{parameter.name}={value}")
            elif isinstance(value, torch.Tensor):
                parts.append(POINTERS[value.dtype])
            elif not parameter.do_not_specialize:
                parts.append("1" if value == 1 else str(value % 16 == 0))
        return " ".join([self.name, *parts, *(f"{key}={value}" for key, value in self.options.items())])

    @property
    def label(self) -> str:
        """Kernel, shape, tile and epilogue, for a table."""
        given = {name: value for name, value in self.arguments.items() if value is not None and value is not False}
        shape = ("N", "K") if "N" in given else ("HEAD_DIM", "WIDTH", "SEGMENTS")
        shown = [f"{name.lower()} {given[name]}" for name in shape if name in given]
        tile = [str(value) for name, value in given.items() if re.fullmatch("BLOCK_[MNK]", name)]
        shown += ["×".join(tile)] if tile else []
        if given.get("SEGMENT", given.get("K")) != given.get("K"):
            shown.append(f"{given['SEGMENT']} of k")
        shown += [given["ACTIVATION"]] if given.get("ACTIVATION") else []
        words = {"residual_ptr": "residual", "normed_ptr": "norm", "ONE_BLOCK": "one block",
                 "KEEP_FIRST": "keep first", "KEEP_ALL": "keep all"}  # fmt: skip
        shown += [word for name, word in words.items() if name in given]
        return " ".join([self.name.strip("_").removesuffix("_kernel"), ", ".join(shown)]).strip()

    @property
    def multiplies(self) -> bool:
        """Whether this is a matrix product in half precision, which tensor cores must do."""
        return "dot" in self.kernel.src or "_scores" in self.kernel.src


def launches(capability: int, dtype: str) -> list[Launch]:
    """Every distinct launch of a DistilBERT-base over the ladder of batch sizes, every tile and every head width."""
    chip, tf32 = CHIPS[capability], dtype == "tf32"
    kind = torch.float32 if tf32 else getattr(torch, dtype)
    with recorded(chip) as found:
        for tokens in (16, 32, 64, 128, 512, 2048, 5632):
            _forward(tokens, kind, chip, tf32)
        for tile in tiles.linear_candidates(dtype, chip):
            with measured({("linear", capability, dtype, n, k): {4096: tile} for n, k in ((768, 3072), (3072, 768))}):
                _linear(4096, 768, 3072, kind, tf32, residual=True)
                _linear(4096, 3072, 768, kind, tf32, activation="gelu")
        for activation in ("relu", "gelu_new", "silu"):
            _linear(4096, 3072, 768, kind, tf32, activation=activation)
        for head_dim in (16, 32, 128):
            for max_seqlen in (16, 128, 512):
                _attention(4096, max_seqlen, 768 // head_dim, head_dim, kind, tf32)
    return list({launch_.variant: launch_ for launch_ in found}.values())


@contextmanager
def recorded(chip: tiles.Chip) -> Iterator[list[Launch]]:
    """Within, launchers append to the list what they would launch on `chip`, and launch nothing."""
    found: list[Launch] = []
    kernels: list[tuple[ModuleType, str, Any]] = [
        (module, name, value) for module in _MODULES for name, value in vars(module).items()
        if isinstance(value, triton.JITFunction) and name.endswith("_kernel")
    ]  # fmt: skip
    before = launch.stand_in
    try:
        launch.stand_in = chip
        for module, name, kernel in kernels:
            setattr(module, name, _Recorder(name, kernel, found))
        yield found
    finally:
        launch.stand_in = before
        for module, name, kernel in kernels:
            setattr(module, name, kernel)


@contextmanager
def measured(entries: Mapping[tiles.Key, dict[int, tiles.Tile]]) -> Iterator[None]:
    """Within, `tiles.MEASURED` has these entries alone."""
    before = dict(tiles.MEASURED)
    try:
        tiles.MEASURED.clear()
        tiles.MEASURED.update(entries)
        yield
    finally:
        tiles.MEASURED.clear()
        tiles.MEASURED.update(before)


class _Recorder:
    """Stands in for a jitted kernel and keeps what it is launched with."""

    def __init__(self, name: str, kernel: Any, found: list[Launch]) -> None:
        self._name, self._kernel, self._found = name, kernel, found

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        names = [parameter.name for parameter in self._kernel.params]

        def record(*args: Any, **kwargs: Any) -> None:
            arguments = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
            options = {key: value for key, value in kwargs.items() if key not in names}
            self._found.append(Launch(self._kernel, self._name, arguments, options))

        return record


def _forward(tokens: int, dtype: torch.dtype, chip: tiles.Chip, tf32: bool) -> None:
    """One layer and the ends of a DistilBERT-base."""
    width, inner, seqs = 768, 3072, max(1, tokens // 128)
    name = launch.product_name(dtype, tf32)
    vector, rows_ = _empty(width), _empty(tokens, width, dtype=dtype)
    ids, cu_seqlens, lengths = _ints(tokens), _ints(seqs + 1), _ints(seqs)
    norm: dict[str, Any] = {"eps": 1e-12, **_common()}
    words = _empty(30522, width, dtype=dtype)
    embedding.embed(rows_, ids, ids, words, _empty(512, width, dtype=dtype), vector, vector, **norm)
    embedding.embed(rows_, rows_, ids, words, _empty(512, width, dtype=dtype), vector, vector, **norm)
    for n, k, activation in ((3 * width, width, ""), (width, width, ""), (inner, width, "gelu"), (width, inner, "")):
        _linear(tokens, n, k, dtype, tf32, activation)
        segments = tiles.split_k(tokens, n, k, name, chip)
        if segments > 1 and n == width:
            partials = _empty(segments, tokens, n)
            x, weight = _empty(tokens, k, dtype=dtype), _empty(n, k, dtype=dtype)
            linear.linear_split(partials, x, weight, tf32=tf32, **_common())
            layer_norm.residual_layer_norm(rows_, partials, rows_, vector, vector, vector, **norm)
    if tiles.is_narrow(tokens, name):
        _linear(tokens, width, inner, dtype, tf32, residual=True)
        for n, activation in ((3 * width, ""), (inner, "gelu")):
            out, weight = _empty(tokens, n, dtype=dtype), _empty(n, width, dtype=dtype)
            narrow_linear.norm_linear(out, rows_, _empty(tokens, width), vector, vector, weight, _empty(n),
                                      activation=activation, **norm)  # fmt: skip
    _attention(tokens, tokens, 12, 64, dtype, tf32)
    layer_norm.residual_layer_norm(rows_, rows_, rows_, vector, vector, vector, **norm)
    layer_norm.layer_norm(rows_, rows_, vector, vector, **norm)
    pooling.gather(_empty(seqs, width, dtype=dtype), rows_, lengths, pdl=_pdl())
    pooling.first_rows(_empty(seqs, width, dtype=dtype), rows_, cu_seqlens, pdl=_pdl())
    pooling.mean(_empty(seqs, width), rows_, cu_seqlens, lengths, pdl=_pdl())
    grid = (seqs, tokens // seqs)
    padded = torch.empty(grid, dtype=torch.int64, device="meta")
    numbers = padded[0]
    for keep, mask in (("keys", None), ("keys", padded), ("first", padded), ("all", padded)):
        packing.pack(ids, ids, ids, cu_seqlens, lengths, cu_seqlens, _ints(1), padded_shape=grid, padded_ids=padded,
                     attention_mask=mask, padded_positions=numbers, keep=keep, vocab_size=30522, max_positions=512,
                     pdl=_pdl())  # fmt: skip
    packing.unpack(_empty(*grid, width, dtype=dtype), rows_, ids, attention_mask=padded, num_tokens=_ints(1))


def _linear(
    tokens: int, n: int, k: int, dtype: torch.dtype, tf32: bool, activation: str = "", residual: bool = False
) -> None:
    out, x, weight = (_empty(*shape, dtype=dtype) for shape in ((tokens, n), (tokens, k), (n, k)))
    linear.linear(out, x, weight, _empty(n), out if residual else None, activation=activation, tf32=tf32, **_common())


def _attention(tokens: int, max_seqlen: int, heads: int, head_dim: int, dtype: torch.dtype, tf32: bool) -> None:
    width, seqs = heads * head_dim, max(1, tokens // max_seqlen)
    out, qkv = _empty(tokens, width, dtype=dtype), _empty(tokens, 3 * width, dtype=dtype)
    attention.attention(out, qkv, _ints(seqs + 1), _ints(seqs), heads, max_seqlen=max_seqlen, tf32=tf32, pdl=_pdl())
    few = _empty(seqs, width, dtype=dtype)
    row_attention.row_attention(few, few, qkv, out, _ints(seqs + 1), _ints(seqs + 1), _ints(seqs), heads,
                                max_seqlen=max_seqlen, pdl=_pdl())  # fmt: skip


def _common() -> dict[str, Any]:
    return {"num_tokens": _ints(1), "pdl": _pdl()}


def _pdl() -> bool:
    return launch.stand_in.capability >= 90


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _ints(size: int) -> torch.Tensor:
    return _empty(size, dtype=torch.int32)
