"""Finds the fastest tile of every op of a layer on the GPU that is here.

Each candidate is timed from a captured graph, as the model launches it: products with their epilogues, over weights
that do not fit into L2 together; products that a layer norm follows together with it, whole and in parts of the depth.
A tile that computes something else than the first candidate, or that the device can't run, is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

import torch
from triton.runtime.errors import OutOfResources

from distilrt.backends.cuda.devices import cuda_device
from distilrt.bench.clock import Clock
from distilrt.kernels import tiles
from distilrt.kernels.launch import chip_of
from distilrt.kernels.op import Arguments, Arrays, Choice, Entries, Example, Op, all_ops
from distilrt.model.config import DistilBertConfig

WEIGHT_BYTES = 256 << 20  # of all copies of a weight that one graph reads in turn: more than any L2
SECONDS = 0.05  # for one candidate

Candidates = tuple[Op, Arguments, Choice]


def choices(
    config: DistilBertConfig, tokens: Iterable[int], dtype: str, device: torch.device, most: int | None = None
) -> Iterator[Candidates]:
    """Each op of a layer for each count of tokens, with its arguments and at most `most` candidates, the likely ones.

    Likely are products with a low estimate, and of other ops tiles that differ little from the usual one.
    """
    chip = chip_of(torch.empty(0, device=device))
    for count in tokens:
        seen: set[tiles.Key] = set()
        for op in all_ops():
            for arguments in op.in_model(config, count, dtype):
                choice = op.choice(arguments, dtype, chip)
                if choice is None or choice.key in seen:
                    continue
                seen.add(choice.key)
                yield op, arguments, replace(choice, candidates=_likely(choice, dtype, chip)[:most])


def maker(op: Op, arguments: Arguments, dtype: str, *, tiny: bool = False) -> Callable[[], Example]:
    """What makes an op's example on the current device, each time with the same numbers."""
    return lambda: op.example(Arrays(cuda_device(), dtype, weight_bytes=0 if tiny else WEIGHT_BYTES), **arguments)


def _likely(choice: Choice, dtype: str, chip: tiles.Chip) -> tuple[tiles.Tile, ...]:
    """The candidates, the usual one first and then the likely ones, each once."""
    usual, *others = dict.fromkeys(choice.candidates)

    def rank(tile: tiles.Tile) -> float:
        inner, segments = (tile.tile, tile.segments) if isinstance(tile, tiles.Split) else (tile, 1)
        if isinstance(inner, tiles.LinearTile):
            n, k = (int(part) for part in choice.key[-2:])
            return tiles.linear_cycles(inner, choice.size, n, k, dtype, chip, segments)
        return float(sum(getattr(tile, field.name) != getattr(usual, field.name) for field in fields(tile)))

    return (usual, *sorted(others, key=rank))


def times_us(
    choice: Choice, make: Callable[[], Example], clock: Clock, say: Callable[[str], None]
) -> dict[tiles.Tile, float]:
    """Microseconds of each candidate that is right, of which the first is the usual tile.

    Args:
        choice: the entry of `tiles.MEASURED` and what may stand there.
        make: makes the example, the same numbers in every call, while that entry holds.
        clock: of the device.
        say: told of tiles that are left out.

    Raises:
        RuntimeError: the usual tile does not run.
    """
    times: dict[tiles.Tile, float] = {}
    expected: torch.Tensor | None = None
    for tile in choice.candidates:
        with measured({choice.key: {choice.size: tile}}):
            try:
                example = make()
                example.launch()
                clock.wait()
                out = next(iter(example.outputs.values())).tensor
                if expected is None:
                    expected = out.to(torch.float32, copy=True)
                elif not torch.allclose(out.float(), expected, rtol=2e-2, atol=2e-2, equal_nan=True):
                    say(f"left out, it computes something else: {tile}")
                    continue
                samples = clock.back_to_back(clock.graph(example.launch))
                times[tile] = 1e6 * statistics.median(samples) / example.count
            except (OutOfResources, RuntimeError) as error:
                say(f"left out: {tile}: {str(error).splitlines()[0]}")
    usual = choice.candidates[0]
    if usual not in times:
        raise RuntimeError(f"the usual tile of {choice.key} does not run here: {usual}")
    return times


@contextmanager
def measured(entries: Entries) -> Iterator[None]:
    """Within, `tiles.MEASURED` has these entries alone."""
    before = dict(tiles.MEASURED)
    try:
        tiles.MEASURED.clear()
        tiles.MEASURED.update(entries)
        yield
    finally:
        tiles.MEASURED.clear()
        tiles.MEASURED.update(before)
