"""Whole classifications on a GPU: distilrt, and transformers on the same device, ids and weights, eager, from a graph
and under torch.compile; and the tiles that make distilrt faster.

Rows are GPU time of captured graphs (`graph`), or wall time from a call on tensors (`tensors`) or arrays (`arrays`) to
its result. `peak_share` is of the floor that the peaks measured in the same run set.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distilrt.backends.cuda.backend import CudaBackend
from distilrt.backends.cuda.devices import DTYPES, FLOATS, interpreting
from distilrt.backends.cuda.parts import divide
from distilrt.batch import Batch, pack
from distilrt.bench import peer, roofline, samples, tiles
from distilrt.bench.artefacts import make_checkpoint, torch_model
from distilrt.bench.clock import Clock
from distilrt.bench.findings import Row
from distilrt.kernels import tiles as known_tiles
from distilrt.kernels.launch import chip_of, product_name
from distilrt.kernels.op import Choice, Entries, Example, OpOutput, double
from distilrt.model import models
from distilrt.model.config import DistilBertConfig

TINY = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=64, vocab_size=50, max_position_embeddings=16)
ALL = ("1x16", "1x128", "8x128", "32x128", "256x128", "32x512", "mixed")
# In the interpreter they show that all works and nothing else.
WORKLOADS, MIXED = (("1x4", "mixed"), 2) if interpreting() else (ALL, 64)  # sequences of the mixed lengths
COMPILED = [name for name in WORKLOADS if name in ("1x4", "1x16", "1x128", "32x128")]
TOKENS, CANDIDATES = ((5,), 2) if interpreting() else ((16, 128, 5632), 8)  # The hour has no time to search more.
WITHOUT_PDL = WORKLOADS[:3]
AddRow = Callable[..., None]


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """DistilBERT-base with random weights, made once for all processes that have a TMPDIR in common."""
    folder = Path(tempfile.gettempdir(), f"distilrt-{'tiny' if interpreting() else 'base'}")
    return make_checkpoint(folder, TINY if interpreting() else None)


@pytest.fixture(scope="module")
def tuned(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tiles that `test_tiles` found take the place of the usual ones, where a file has its rows (`--tiles`)."""
    file: Path | None = request.config.getoption("--tiles")
    entries: Entries = {}
    for row in map(json.loads, file.read_text().splitlines() if file else ()):
        if "tile" in row:
            entries.setdefault(tuple(row["key"]), {})[row["size"]] = eval(row["tile"], vars(known_tiles))
    with tiles.measured(known_tiles.MEASURED | entries):
        yield


@pytest.fixture(scope="module", params=DTYPES)
def ours(request: pytest.FixtureRequest, clock: Clock, checkpoint: Path, tuned: None) -> Any:
    """distilrt's model, whose answers are right."""
    make: Any = models.DistilBertForSequenceClassification.from_pretrained
    model = make(checkpoint, backend="cuda", dtype=request.param)
    check(checkpoint, model, clock.device)
    return model


@pytest.fixture(scope="module", params=FLOATS)
def theirs(request: pytest.FixtureRequest, clock: Clock, checkpoint: Path) -> tuple[Any, str]:
    """transformers' model with its fused attention, and the dtype."""
    return torch_model(checkpoint, request.param).to(clock.device), request.param


@pytest.mark.parametrize("workload", WORKLOADS)
def test_ours(ours: Any, checkpoint: Path, clock: Clock, peaks: Row, add_row: AddRow, workload: str) -> None:
    sequences, given = batch_of(workload, checkpoint, clock.device)
    arrays = [tensor.cpu().numpy() for tensor in given]
    (work, _), gpu = enqueue(ours, pack(ours.config, sequences)), partial(figures, workload, sequences)
    times = clock.back_to_back(clock.graph(work))
    floor = floor_s(ours, sequences, peaks) / statistics.median(times)
    add = partial(add_row, target="distilrt", dtype=ours.dtype)
    add(form="graph", **gpu(times), peak_gflops=round(rate_of(ours.dtype, peaks) / 1e9), peak_share=round(floor, 4))
    add(form="tensors", **gpu(clock.one_by_one(partial(ours, *given))))
    add(form="arrays", **gpu(clock.one_by_one(partial(ours, *arrays))))
    encoder = ours.backend.encoder
    if encoder.pdl and workload in WITHOUT_PDL:
        encoder.pdl = False  # every kernel starts when the one before has ended
        try:
            add(form="no-dependent-launch", **gpu(clock.back_to_back(clock.graph(work))))
        finally:
            encoder.pdl = True


@pytest.mark.parametrize("workload", WORKLOADS)
@torch.inference_mode()
def test_sdpa(theirs: tuple[Any, str], checkpoint: Path, clock: Clock, add_row: AddRow, workload: str) -> None:
    (model, dtype), (sequences, given) = theirs, batch_of(workload, checkpoint, clock.device)
    add, work = partial(add_row, target="transformers", dtype=dtype), partial(model, *given)
    add(form="eager", **figures(workload, sequences, clock.back_to_back(work)))
    add(form="tensors", **figures(workload, sequences, clock.one_by_one(work)))
    add(form="graph", **figures(workload, sequences, clock.back_to_back(clock.graph(work))))


@pytest.mark.parametrize("workload", COMPILED)
@torch.inference_mode()
def test_compiled(checkpoint: Path, clock: Clock, add_row: AddRow, workload: str) -> None:
    sequences, given = batch_of(workload, checkpoint, clock.device)
    model = torch_model(checkpoint, "bfloat16").to(clock.device)
    how: Any = {"mode": "max-autotune"} if clock.on_gpu else {"backend": "eager"}
    compiled = torch.compile(model, dynamic=False, **how)
    times = clock.back_to_back(partial(compiled, *given))
    add_row(target="torch.compile", form="max-autotune", dtype="bfloat16", **figures(workload, sequences, times))


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_tiles(checkpoint: Path, clock: Clock, add_row: AddRow, dtype: str, tokens: int) -> None:
    config, quick = DistilBertConfig.from_pretrained(checkpoint), Clock(clock.device, tiles.SECONDS)
    products = products_of(dtype, clock.device)
    for op, arguments, choice in searched(config, [tokens], products, clock.device):
        make = tiles.maker(op, arguments, products, tiny=not clock.on_gpu)
        times = tiles.times_us(choice, make, quick, partial(print, flush=True))
        fastest = min(times, key=times.__getitem__)
        add_row(key=choice.key, size=choice.size, tile=repr(fastest), us=times[fastest],
                usual_us=times[choice.candidates[0]])  # fmt: skip


@pytest.mark.parametrize("workload", WORKLOADS[:1])
def test_one_kernel(checkpoint: Path, clock: Clock, add_row: AddRow, workload: str) -> None:
    """The encoder in one kernel beside its kernels one by one, as `tuned` reads it."""
    make: Any = models.DistilBertForSequenceClassification.from_pretrained
    model = make(checkpoint, backend="cuda", dtype="bfloat16")
    config, encoder = model.config, model.backend.encoder
    work, logits = enqueue(model, pack(config, batch_of(workload, checkpoint, clock.device)[0]))
    size = encoder.buckets[0].tokens
    key = ("encoder", encoder.chip.capability, "bfloat16", config.hidden_size, config.intermediate_size)
    example = Example("one kernel", work, {"logits": OpOutput(logits, lambda: double(logits))}, logits.nbytes)
    one_by_one = known_tiles.OneByOne()
    choice = Choice(key, size, (one_by_one, *known_tiles.encoder_tiles(size)))
    times = tiles.times_us(choice, lambda: example, Clock(clock.device, tiles.SECONDS), partial(print, flush=True))
    fastest = min(times, key=times.__getitem__)
    one_kernel = {repr(tile): us for tile, us in times.items() if tile != one_by_one}
    add_row(key=key, size=size, tile=repr(fastest), us=times[fastest], usual_us=times[one_by_one],
            workload=workload, one_kernel_us=one_kernel)  # fmt: skip


def products_of(dtype: str, device: torch.device) -> str:
    """What `distilrt.kernels.tiles` calls the products of a model in this dtype, where nobody asks for a precision."""
    return product_name(getattr(torch, dtype), known_tiles.float32_precision(chip_of(torch.empty(0, device=device))))


def searched(
    config: DistilBertConfig, tokens: Iterable[int], products: str, device: torch.device
) -> Iterator[tiles.Candidates]:
    """Products and attention for these numbers of tokens, with the likeliest tiles of each."""
    found = tiles.choices(config, tokens, products, device, CANDIDATES)
    return (each for each in found if each[2].key[0] != "rows")


def batch_of(workload: str, checkpoint: Path, device: torch.device) -> tuple[list[Any], list[torch.Tensor]]:
    """Sequences of ids, and padded ids on the device with a mask, where anything is padded."""
    made = samples.make_ids(workload, checkpoint)
    sequences = list(made.inputs[: made.batch if made.fixed else MIXED])
    given = [torch.from_numpy(array).to(device) for array in peer.padded(sequences)]
    return sequences, given[: 1 if made.fixed else 2]


def figures(workload: str, sequences: Sequence[Any], times: Sequence[float]) -> Row:
    """Columns of a row."""
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"scenario": "device", "workload": workload, "batch": len(sequences), "p50_ms": round(1e3 * median, 6),
            "p25_ms": round(1e3 * low, 6), "p75_ms": round(1e3 * high, 6),
            "tokens_per_s": round(sum(map(len, sequences)) / median)}  # fmt: skip


def enqueue(model: Any, batch: Batch) -> tuple[Callable[[], None], torch.Tensor]:
    """All launches of one classification of a packed batch, from ids on the device to logits, and those.

    Nothing of it touches the host, so that a clock can capture it in one graph.
    """
    backend: CudaBackend = model.backend
    encoder = backend.encoder
    firsts = batch.cu_seqlens[:-1].astype(np.int64)
    logits = torch.zeros(batch.num_seqs, model.config.num_labels, device=backend._device)
    parts = []
    for part in divide(batch, firsts, encoder.buckets, backend.device, few=True):
        block, staging = encoder.buffers[part.bucket].block, backend._stagings[part.bucket][0]
        staging.fill(part, batch, firsts)
        parts.append((part, block, staging.block.to(block.device, copy=True)))

    def work() -> None:
        for part, block, integers in parts:
            block.copy_(integers)
            _, scores = backend._launch((part.bucket, part.few, None))
            assert scores is not None
            logits[part.out].copy_(scores[: part.end - part.first])

    return work, logits


def floor_s(model: Any, sequences: Sequence[Any], peaks: Row) -> float:
    """Seconds that no version can beat: all arithmetic at matmul's rate, or all weights at the copy's rate."""
    config, item = model.config, getattr(torch, model.backend.encoder.row_dtype).itemsize
    tables = (config.vocab_size + config.max_position_embeddings) * config.hidden_size * item  # a batch reads few rows
    weights = model.backend.describe()["weight_bytes"] - tables
    needed = roofline.flops(config, map(len, sequences), last_layer_rows=1)  # those that the head reads
    return float(max(needed / rate_of(model.dtype, peaks), weights / peaks["copy"]))


def rate_of(dtype: str, peaks: Row) -> float:
    """Operations a second of a matmul; of 8 bits, for which torch has none, twice those of bfloat16."""
    return float(peaks[dtype] if dtype in peaks else 2 * peaks["bfloat16"])


def check(checkpoint: Path, model: Any, device: torch.device) -> None:
    """Hold logits of a mixed batch to those of transformers in float64, no further than twice those in the same dtype.

    float8 and int8, which transformers has not, may be off by 0.2 of their size: something wrong is off by more. It is
    the root of the mean of squares that counts: of few logits torch's largest error may be small by luck.
    """
    _, given = batch_of("mixed", checkpoint, device)
    known = model.dtype if model.dtype in FLOATS else "bfloat16"
    with torch.inference_mode():
        exact, plain = (torch_model(checkpoint, dtype).to(device)(*given)[0].double()
                        for dtype in ("float64", known))  # fmt: skip
        size, error, torchs = (float(each.square().mean().sqrt())
                               for each in (exact, model(*given).logits.double() - exact, plain - exact))  # fmt: skip
    bound = 2 * max(torchs, size * torch.finfo(getattr(torch, known)).eps)
    bound = bound if known == model.dtype else 0.2 * size
    assert error <= bound, f"logits of the timed model in {model.dtype} are off"
