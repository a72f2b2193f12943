"""Kernels brought into Triton's cache by many processes, each with a part of them: `pytest -n 14`. Needs a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import pytest
import torch

from distilrt.backends.cuda.devices import DTYPES, interpreting
from distilrt.backends.cuda.encoder import DeviceEncoder
from distilrt.bench import tiles
from distilrt.bench.artefacts import ARCHITECTURE
from distilrt.bench.clock import Clock
from distilrt.checkpoint.weights import random_weights
from distilrt.kernels.launch import chip_of
from distilrt.kernels.op import Arrays
from distilrt.kernels.tiles import Chip
from distilrt.model.config import DistilBertConfig
from tests.kernels.launches import Launch, distinct, recorded

PARTS = 14
TOKENS, CANDIDATES = ((5,), 2) if interpreting() else ((16, 128, 5632), 8)  # The hour has no time to search more.


def of_load(config: DistilBertConfig, dtypes: Iterable[str], chip: Chip) -> Iterator[Launch]:
    """What a model launches that loads on `chip`: the encoder of every bucket in every form. Nothing is computed."""
    weights = random_weights(config, ARCHITECTURE)
    for dtype in dtypes:
        with recorded(chip) as launched:
            encoder = DeviceEncoder(config, weights, dtype, torch.device("meta"))
            encoder.pdl = chip.capability >= 90
            for bucket in encoder.buckets:
                embeds = torch.empty(bucket.tokens, config.hidden_size, device="meta")
                encoder.launch(bucket)
                encoder.launch(bucket, few=True)
                encoder.launch(bucket, embeds=embeds, visit=lambda *_: None)
        yield from launched


def searched(config: DistilBertConfig, tokens: Iterable[int], device: torch.device) -> Iterator[tiles.Candidates]:
    """Products and attention for these numbers of tokens, with the likeliest tiles of each."""
    found = tiles.choices(config, tokens, "bfloat16", device, CANDIDATES)
    return (each for each in found if each[2].key[0] != "rows")


def of_candidates(config: DistilBertConfig, device: torch.device, chip: Chip) -> Iterator[Launch]:
    """What is launched with each of their tiles."""
    for op, arguments, choice in searched(config, TOKENS, device):
        for tile in choice.candidates:
            with recorded(chip) as launched, tiles.measured({choice.key: {choice.size: tile}}):
                op.example(Arrays(torch.device("meta"), "bfloat16"), **arguments).launch()
            yield from launched


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("what", ["load", "candidates"])
def test_compile(clock: Clock, add_row: Callable[..., None], what: str, part: int) -> None:
    if not clock.on_gpu:
        pytest.skip("Triton's interpreter compiles nothing")
    config, chip, start = DistilBertConfig(), chip_of(torch.empty(0, device=clock.device)), time.perf_counter()
    found = of_load(config, DTYPES, chip) if what == "load" else of_candidates(config, clock.device, chip)
    mine = distinct(found)[part::PARTS]
    for launched in mine:
        try:
            launched.kernel.warmup(grid=(1,), **launched.arguments, **launched.options)
        except Exception as error:  # whatever a compiler raises, the others still count
            add_row(what=launched.label, failed=str(error))
    add_row(what=what, kernels=len(mine), seconds=round(time.perf_counter() - start, 1))
