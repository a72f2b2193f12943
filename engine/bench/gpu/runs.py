"""distilrt on a GPU, timed: whole classifications from graphs and by the wall."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distilrt.backends.cuda.backend import CudaBackend
from distilrt.backends.cuda.parts import divide
from distilrt.batch import Batch, pack
from distilrt.bench import roofline, samples
from distilrt.bench.gpu.timing import Ceilings, Clock, Times, Work, floor_us
from distilrt.model.config import DistilBertConfig

SHAPES = ("1x16", "1x128", "8x128", "32x128", "256x128", "32x512", "mixed")
MIXED = 64  # sequences of the mixed lengths


@dataclass(frozen=True, slots=True)
class Workload:
    """Lengths of the sequences of one batch."""

    name: str
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """The number of tokens of the batch."""
        return sum(self.lengths)


def workloads(config: DistilBertConfig, *, tiny: bool = False) -> list[Workload]:
    """The workloads, a batch each."""
    found = []
    for name in ("1x4", "mixed") if tiny else SHAPES:
        lengths, size = samples.lengths_of(name, config.max_position_embeddings)
        if name in samples.MIXES:
            size = 2 if tiny else MIXED
        found.append(Workload(name, tuple(map(int, lengths[:size]))))
    return found


def token_ids(config: DistilBertConfig, lengths: Sequence[int], seed: int = 1) -> list[Any]:
    """Random ids of these lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, config.vocab_size, length) for length in lengths]


def padded(config: DistilBertConfig, lengths: Sequence[int], device: torch.device) -> tuple[Any, Any]:
    """The same ids as int64 tensor `[batch_size, longest]`, and the mask; None where nothing is padded."""
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, sequence in zip(ids, token_ids(config, lengths), strict=True):
        row[: len(sequence)] = torch.from_numpy(sequence)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids.to(device), None if len(set(lengths)) == 1 else mask.to(device)


def row(target: str, form: str, load: Workload, dtype: str, times: Times) -> dict[str, Any]:
    """A row of findings; times in ms."""
    return {"target": target, "form": form, "dtype": dtype, "scenario": "device", "workload": load.name,
            "batch": len(load.lengths), "p50_ms": round(times.median / 1e3, 6), "p25_ms": round(times.low / 1e3, 6),
            "p75_ms": round(times.high / 1e3, 6), "tokens_per_s": round(1e6 * load.tokens / times.median)}  # fmt: skip


def enqueue(model: Any, batch: Batch) -> tuple[Work, torch.Tensor]:
    """All launches of one classification of a packed batch, from ids on the device to logits, and where these go.

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

    work()
    return work, logits


def time_all(model: Any, clock: Clock, most: Ceilings, loads: Sequence[Workload]) -> Iterator[dict[str, Any]]:
    """Rows of each workload: GPU time from a graph and its share of the floor, wall time with tensors and arrays."""
    config, backend = model.config, model.backend
    for load in loads:
        lengths = load.lengths
        work, _ = enqueue(model, pack(config, token_ids(config, lengths)))
        gpu = clock.back_to_back(clock.graph(work))
        ids, mask = padded(config, lengths, clock.device)
        tensors = clock.one_by_one(partial(model, ids, mask))
        arrays = clock.one_by_one(partial(model, ids.cpu().numpy(), None if mask is None else mask.cpu().numpy()))
        flops = roofline.flops(config, lengths, last_layer_rows=1)  # those that the head reads
        least = floor_us(flops, backend.describe()["weight_bytes"] - _embedding_bytes(model), backend.dtype, most)
        yield row("distilrt", "graph", load, backend.dtype, gpu) | {
            "peak_gflops": round(most.matmul[backend.dtype] / 1e9), "peak_share": round(least / gpu.median, 4)
        }  # fmt: skip
        yield row("distilrt", "tensors", load, backend.dtype, tensors)
        yield row("distilrt", "arrays", load, backend.dtype, arrays)


def without_dependent_launch(model: Any, clock: Clock, loads: Sequence[Workload]) -> Iterator[dict[str, Any]]:
    """A row for each workload with every kernel starting when the one before has ended: what dependent launch gives."""
    encoder = model.backend.encoder
    if not encoder.pdl:
        return  # before sm_90, and in the interpreter, there is none
    encoder.pdl = False
    try:
        for load in loads:
            work, _ = enqueue(model, pack(model.config, token_ids(model.config, load.lengths)))
            times = clock.back_to_back(clock.graph(work))
            yield row("distilrt", "no-dependent-launch", load, model.dtype, times)
    finally:
        encoder.pdl = True


def _embedding_bytes(model: Any) -> int:
    """Of the tables, of which a batch reads only its own rows."""
    config = model.config
    rows = config.vocab_size + config.max_position_embeddings
    return int(rows * config.hidden_size * getattr(torch, model.dtype).itemsize)


def relative_error(checkpoint: Path, model: Any, device: torch.device) -> float:
    """How far the timed model's logits are from transformers' in float64, relative to these, over a mixed batch.

    The root of the mean of squares of all its logits: of few logits torch's largest error may be small by luck.

    Raises:
        ArithmeticError: further than twice transformers in the same dtype: no speed of a wrong model.
    """
    from distilrt.bench.gpu import peers

    longest = min(128, model.config.max_position_embeddings)
    lengths = np.random.default_rng(2).integers(1, longest + 1, 4 if device.type == "cpu" else MIXED)
    ids, mask = padded(model.config, [longest, *lengths.tolist()], device)
    with torch.inference_mode():
        exact, plain = (peers.load(checkpoint, dtype, device)(ids, attention_mask=mask)[0].double()
                        for dtype in ("float64", model.dtype))  # fmt: skip
    size, error, torchs = (float(each.square().mean().sqrt())
                           for each in (exact, model(ids, mask).logits.double() - exact, plain - exact))  # fmt: skip
    bound = 2 * max(torchs, size * torch.finfo(getattr(torch, model.dtype)).eps)
    if not error <= bound:
        raise ArithmeticError(f"logits of the timed model in {model.dtype} are off by {error:.1e}, allowed {bound:.1e}")
    return float(f"{error / size:.1e}")
