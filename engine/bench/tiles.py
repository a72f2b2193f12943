"""Finds the fastest tile of every op of a layer on the GPU that is here, and prints them as entries for `tiles.py`.

Each candidate is timed from a captured graph, as the model launches it: products with their epilogues, over weights
that do not fit into L2 together; products that a layer norm follows together with it, whole and in parts of the depth.
A tile that computes something else than the first candidate, or that the device can't run, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from triton.runtime.errors import OutOfResources

from distilrt.backends.cuda.devices import cuda_device
from distilrt.backends.cuda.graphs import ladder, top_tokens
from distilrt.bench.gpu.timing import Clock, Work
from distilrt.bench.launches import measured
from distilrt.bench.progress import Say
from distilrt.kernels import tiles
from distilrt.kernels.attention import attention
from distilrt.kernels.launch import chip_of
from distilrt.kernels.layer_norm import residual_layer_norm
from distilrt.kernels.linear import linear, linear_split
from distilrt.kernels.narrow_linear import norm_linear
from distilrt.model.config import LAYER_NORM_EPS, DistilBertConfig

WEIGHT_BYTES = 256 << 20  # of all copies of a weight that one graph reads in turn: more than any L2
SECONDS = 0.05  # for one candidate
OPS, OP_SECONDS = 6, 20.0  # of a count of tokens, roughly, most of it compiling
Candidates = Sequence[tiles.Tile]


@dataclass(frozen=True, slots=True)
class Found:
    """The fastest tile of one op and size, beside the one that `distilrt.kernels.tiles` takes by itself."""

    key: tiles.Key
    size: int
    tile: tiles.Tile
    us: float
    usual_us: float


def buckets(config: DistilBertConfig, device: torch.device) -> list[int]:
    """Tokens of each bucket of a model's ladder on this device."""
    top = top_tokens(_chip(device).num_sms, config.hidden_size, config.max_position_embeddings)
    return [bucket.tokens for bucket in ladder(top)]


def tune(
    config: DistilBertConfig, tokens: Iterable[int], dtype: str, say: Say, *, tiny: bool = False
) -> Iterator[Found]:
    """Time every candidate for every op of a layer of `config` and every count of `tokens` on the current GPU.

    Args:
        config: the model's shape.
        tokens: packed tokens of a batch, as many sequences of 128 as they make.
        dtype: one of `tiles.ITEM_SIZE`.
        say: told of every op.
        tiny: as little work as shows that it runs, for Triton's interpreter.

    Raises:
        BackendError: there is no CUDA device.
        ValueError: another dtype.
    """
    if dtype not in tiles.ITEM_SIZE:
        raise ValueError(f"the dtype must be one of {', '.join(tiles.ITEM_SIZE)}, found {dtype!r}")
    bench = _Bench(config, dtype, cuda_device(), tiny=tiny)
    for count in tokens:
        for key, size, candidates, make in bench.ops(count):
            say(f"{dtype}, {count} tokens: {_quoted(key)}", OP_SECONDS)
            found = bench.best(key, size, candidates, make, say)
            say(f"{count} tokens, {_quoted(key)}: {found.us:.1f} us, usual {found.usual_us:.1f} us", 0)
            yield found


def table(found: Iterable[Found]) -> str:
    """Entries for `tiles.MEASURED`, each with its time and how much faster than the usual tile it is."""
    groups: dict[tiles.Key, list[Found]] = {}
    for row in found:
        groups.setdefault(row.key, []).append(row)
    lines = []
    for key, rows in groups.items():
        lines.append(f"    {_quoted(key)}: {{")
        for row in sorted(rows, key=lambda row: row.size):
            lines.append(f"        {row.size}: {shown(row.tile)},  # {row.us:.1f} us, {row.usual_us / row.us:.2f}x")
        lines.append("    },")
    return "\n".join(lines)


def shown(tile: tiles.Tile) -> str:
    """The tile as it is written in `tiles.py`."""
    values = [getattr(tile, field.name) for field in fields(tile)]
    inner = [shown(value) if isinstance(value, tiles.LinearTile) else str(value) for value in values]
    return f"{type(tile).__name__}({', '.join(inner)})"


class _Bench:
    """The ops of a layer of one model in one dtype on one device."""

    def __init__(self, config: DistilBertConfig, dtype: str, device: torch.device, *, tiny: bool) -> None:
        self._config, self._dtype, self._device, self._tiny = config, dtype, device, tiny
        self._tf32 = dtype == "tf32"
        self._kind = torch.float32 if self._tf32 else getattr(torch, dtype)
        self._clock, self._chip = Clock(device, SECONDS), _chip(device)

    def ops(self, tokens: int) -> Iterator[tuple[tiles.Key, int, Candidates, Callable[[tiles.Tile], Any]]]:
        """Key, size and candidates of each op, and what makes its launches (outputs first) for a tile."""
        width, inner = self._config.hidden_size, self._config.intermediate_size
        narrow = tiles.is_narrow(tokens, self._dtype)
        for n, k, activation in ((3 * width, width, ""), (inner, width, "gelu")):
            if narrow:
                yield self._narrow(tokens, n, k, activation, norm=True)
            else:
                yield self._linear(tokens, n, k, activation)
        for k in dict.fromkeys((width, inner)):
            if narrow:
                yield self._narrow(tokens, width, k, "", norm=False)
            else:
                yield self._linear(tokens, width, k, "")
                yield self._split(tokens, width, k)
        yield self._attention(tokens)
        yield self._rows(tokens, width)

    def best(
        self, key: tiles.Key, size: int, candidates: Candidates, make: Callable[[tiles.Tile], Any],
        say: Say,
    ) -> Found:  # fmt: skip
        """Time the candidates, of which the first is the usual tile."""
        times: dict[tiles.Tile, float] = {}
        expected: torch.Tensor | None = None
        for tile in dict.fromkeys(candidates):
            with measured({key: {size: tile}}):
                try:
                    out, count, work = make(tile)
                    out.fill_(torch.nan)
                    work()
                    self._clock.wait()
                    if expected is None:
                        expected = out.to(torch.float32, copy=True)
                    elif not torch.allclose(out.float(), expected, rtol=2e-2, atol=2e-2):
                        say(f"left out, it computes something else: {shown(tile)}", 0)
                        continue
                    times[tile] = self._clock.back_to_back(self._clock.graph(work)).median / count
                except (OutOfResources, RuntimeError) as error:
                    say(f"left out: {shown(tile)}: {str(error).splitlines()[0]}", 0)
        if candidates[0] not in times:
            raise RuntimeError(f"the usual tile of {key} does not run here: {shown(candidates[0])}")
        fastest = min(times, key=lambda tile: times[tile])
        return Found(key, size, fastest, times[fastest], times[candidates[0]])

    def _linear(self, tokens: int, n: int, k: int, activation: str) -> Any:
        x, out, bias = self._random(tokens, k), self._empty(tokens, n), self._random(n, kind=torch.float32)
        weights = self._weights(n, k)

        def make(tile: tiles.Tile) -> tuple[torch.Tensor, int, Work]:
            def work() -> None:
                for weight in weights:
                    linear(out, x, weight, bias, activation=activation, tf32=self._tf32)

            return out, len(weights), work

        usual = tiles.linear_tile(tokens, n, k, self._dtype, self._chip)
        key = ("linear", self._chip.capability, self._dtype, n, k)
        return key, tokens, [usual, *self._linear_tiles(tokens)], make

    def _split(self, tokens: int, n: int, k: int) -> Any:
        """A product in parts of its depth, or whole, and the layer norm behind it."""
        x, out, residual = self._random(tokens, k), self._empty(tokens, n), self._random(tokens, n)
        vector, weights = self._random(n, kind=torch.float32), self._weights(n, k)
        whole = self._empty(tokens, n)
        partials = self._empty(4, tokens, n, kind=torch.float32)

        def make(tile: tiles.Tile) -> tuple[torch.Tensor, int, Work]:
            assert isinstance(tile, tiles.Split)
            parts = whole if tile.segments == 1 else partials[: tile.segments]

            def work() -> None:
                for weight in weights:
                    if tile.segments == 1:
                        linear(whole, x, weight, tf32=self._tf32)
                    else:
                        linear_split(parts, x, weight, tf32=self._tf32)
                    residual_layer_norm(out, parts, residual, vector, vector, vector, eps=LAYER_NORM_EPS)

            return out, len(weights), work

        def usual(segments: int) -> tiles.Split:
            return tiles.Split(segments, tiles.linear_tile(tokens, n, k, self._dtype, self._chip, segments))

        first = usual(tiles.split_k(tokens, n, k, self._dtype, self._chip))
        found = [
            tiles.Split(parts, tile) for parts in (2, 4) if k // parts >= 32 for tile in self._linear_tiles(tokens)
        ]
        return ("split", self._chip.capability, self._dtype, n, k), tokens, [first, usual(1), *found], make

    def _narrow(self, tokens: int, n: int, k: int, activation: str, *, norm: bool) -> Any:
        x = self._random(tokens, k, kind=torch.float32 if norm else self._kind)
        out, normed, residual = self._empty(tokens, n), self._empty(tokens, k), self._random(tokens, n)
        bias, vector = self._random(n, kind=torch.float32), self._random(k, kind=torch.float32)
        weights = self._weights(n, k)

        def make(tile: tiles.Tile) -> tuple[torch.Tensor, int, Work]:
            def work() -> None:
                for weight in weights:
                    if norm:
                        norm_linear(out, normed, x, vector, vector, weight, bias, eps=LAYER_NORM_EPS,
                                    activation=activation)  # fmt: skip
                    else:
                        linear(out, x, weight, bias, residual)

            return out, len(weights), work

        usual = tiles.narrow_tile(tokens, n, k, self._chip, norm)
        shapes = [(width, stages, warps) for width in (8, 16, 32, 64) for stages in (2, 3, 4, 5) for warps in (4, 8)]
        found = [tiles.NarrowTile(usual.block_m, *shape[:1], 32, shape[2], shape[2], shape[1]) for shape in shapes]
        key = ("narrow", self._chip.capability, n, k, norm)
        return key, tokens, [usual, *found[:: 40 if self._tiny else 1]], make

    def _attention(self, tokens: int) -> Any:
        config = self._config
        length = min(tokens, 128)
        ends = torch.arange(0, tokens + 1, length, dtype=torch.int32, device=self._device)
        lengths = torch.full((len(ends) - 1,), length, dtype=torch.int32, device=self._device)
        out, qkv = self._empty(tokens, config.hidden_size), self._random(tokens, 3 * config.hidden_size)

        def make(tile: tiles.Tile) -> tuple[torch.Tensor, int, Work]:
            def work() -> None:
                attention(out, qkv, ends, lengths, config.num_heads, max_seqlen=tokens, tf32=self._tf32)

            return out[: int(ends[-1])], 1, work

        usual = tiles.attention_tile(tokens, config.head_dim, self._dtype, self._chip)
        found = [usual]
        if self._dtype != "float32":
            found += [
                replace(usual, block_m=block_m, block_n=block_n, num_warps=warps, num_stages=stages)
                for block_m in (32, 64, 128) for block_n in (32, 64, 128) for warps in (4, 8) for stages in (2, 3)
                if block_m >= 16 * warps or (block_m == 32 and warps == 4)
            ]  # fmt: skip
        found += [replace(tile, programs=2 * tile.programs) for tile in found]
        key = ("attention", self._chip.capability, self._dtype, config.head_dim)
        return key, tokens, found[:: 20 if self._tiny else 1], make

    def _rows(self, tokens: int, width: int) -> Any:
        x, residual, out = (self._random(tokens, width) for _ in range(3))
        vector = self._random(width, kind=torch.float32)

        def make(tile: tiles.Tile) -> tuple[torch.Tensor, int, Work]:
            def work() -> None:
                residual_layer_norm(out, x, residual, vector, vector, vector, eps=LAYER_NORM_EPS)

            return out, 1, work

        usual = tiles.row_tile(tokens, width, self._chip)
        found = [tiles.RowTile(programs * self._chip.num_sms, warps)
                 for programs in (1, 4, 8, 16, 32) for warps in (1, 2, 4, 8)]  # fmt: skip
        return ("rows", self._chip.capability, width), tokens, [usual, *found[:: 16 if self._tiny else 1]], make

    def _linear_tiles(self, tokens: int) -> list[tiles.LinearTile]:
        """The usual candidates, and each with one stage less or more, as far as they fit."""
        usual = [
            tile for tile in tiles.linear_candidates(self._dtype, self._chip) if tile.block_m <= 2 * max(tokens, 32)
        ]
        found = [replace(tile, num_stages=tile.num_stages + more) for tile in usual for more in (0, -1, 1)]
        most = tiles.SHARED_MEMORY[self._chip.known]
        fitting = [tile for tile in found if tile.num_stages > 1 and tile.shared_memory(self._dtype) <= most]
        return fitting[:1] if self._tiny else fitting

    def _weights(self, n: int, k: int) -> torch.Tensor:
        copies = 1 if self._tiny else max(1, WEIGHT_BYTES // (n * k * self._kind.itemsize))
        return self._random(copies, n, k).mul_(k**-0.5)

    def _random(self, *shape: int, kind: torch.dtype | None = None) -> torch.Tensor:
        return torch.randn(shape, device=self._device, dtype=kind or self._kind)

    def _empty(self, *shape: int, kind: torch.dtype | None = None) -> torch.Tensor:
        return torch.empty(shape, device=self._device, dtype=kind or self._kind)


def _chip(device: torch.device) -> tiles.Chip:
    return chip_of(torch.empty(0, device=device))


def _quoted(key: tiles.Key) -> str:
    return "(" + ", ".join(f'"{part}"' if isinstance(part, str) else str(part) for part in key) + ")"
