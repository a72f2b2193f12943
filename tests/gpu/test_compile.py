"""Every kernel of a load compiles; many processes, each with a part of them, fill Triton's cache: `pytest -n 14`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
import torch

from benches.bench_gpu_model import TOKENS, products_of, searched
from distilrt.backends.cuda.devices import DTYPES
from distilrt.backends.cuda.encoder import DeviceEncoder
from distilrt.bench import tiles
from distilrt.bench.artefacts import ARCHITECTURE
from distilrt.checkpoint.gpu_tensors import packed_for_gpu
from distilrt.checkpoint.weights import random_weights
from distilrt.kernels import whole_encoder
from distilrt.kernels.launch import chip_of
from distilrt.kernels.op import Arrays
from distilrt.kernels.tiles import Chip
from distilrt.model.config import DistilBertConfig
from tests.kernels.launches import Launch, distinct, recorded

PARTS = 14
pytestmark = [pytest.mark.gpu, pytest.mark.whole]


def of_load(config: DistilBertConfig, dtypes: Iterable[str], chip: Chip) -> Iterator[Launch]:
    """What a model launches that loads on `chip`: the encoder of every bucket in every form. Nothing is computed."""
    weights = random_weights(config, ARCHITECTURE)
    for dtype in dtypes:
        with recorded(chip) as launched:
            encoder = DeviceEncoder(config, packed_for_gpu(config, weights, ARCHITECTURE, dtype), torch.device("meta"))
            encoder.pdl = chip.capability >= 90
            for bucket in encoder.buckets:
                embeds = torch.empty(bucket.tokens, config.hidden_size, device="meta")
                encoder.launch(bucket)
                encoder.launch(bucket, few=True)
                encoder.launch(bucket, embeds=embeds, visit=lambda *_: None)
        yield from launched


def of_candidates(config: DistilBertConfig, device: torch.device, chip: Chip) -> Iterator[Launch]:
    """What is launched with each of their tiles."""
    for products in ("bfloat16", products_of("float32", device)):
        for op, arguments, choice in searched(config, TOKENS, products, device):
            for tile in choice.candidates:
                with recorded(chip) as launched, tiles.measured({choice.key: {choice.size: tile}}):
                    op.example(Arrays(torch.device("meta"), products), **arguments).launch()
                yield from launched
    for op in whole_encoder.OPS:
        for arguments, entries in op.variants(config, "bfloat16", chip):
            with recorded(chip) as launched, tiles.measured(entries):
                op.example(Arrays(torch.device("meta"), "bfloat16", pdl=chip.capability >= 90), **arguments).launch()
            yield from launched


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("what", ["load", "candidates"])
def test_compile(device: torch.device, tiny: bool, what: str, part: int) -> None:
    """Whatever a compiler raises, the others are compiled too."""
    if tiny:
        pytest.skip("Triton's interpreter compiles nothing")
    config, chip, failed = DistilBertConfig(), chip_of(torch.empty(0, device=device)), []
    found = of_load(config, DTYPES, chip) if what == "load" else of_candidates(config, device, chip)
    for launched in distinct(found)[part::PARTS]:
        try:
            launched.kernel.warmup(grid=(1,), **launched.arguments, **launched.options)
        except Exception as error:
            failed.append(f"{launched.label}: {error}")
    assert not failed
