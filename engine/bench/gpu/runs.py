"""distilrt on a GPU, timed: whole classifications from graphs and by the wall."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distilrt.backends.cuda.backend import CudaBackend
from distilrt.backends.cuda.parts import divide
from distilrt.batch import Batch, pack
from distilrt.bench import roofline, samples
from distilrt.bench.gpu.timing import Ceilings, Clock, Work, floor_us
from distilrt.model.config import DistilBertConfig

SHAPES = ("1x8", "1x16", "1x128", "1x512", "8x128", "32x128", "256x128", "32x512", "mixed")
MIXED = 64  # sequences of the mixed lengths


@dataclass(frozen=True, slots=True)
class Workload:
    """Lengths of the sequences of one batch."""

    name: str
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Of the batch."""
        return sum(self.lengths)


def workloads(config: DistilBertConfig, *, tiny: bool = False) -> list[Workload]:
    """The workloads of the suite, a batch each."""
    found = []
    for name in ("1x4", "mixed") if tiny else SHAPES:
        given = samples.make_ids(name, config)
        size = given.batch if given.fixed else 2 if tiny else MIXED
        found.append(Workload(name, given.lengths[:size]))
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
        buffers = encoder.buffers[part.bucket]
        backend._send(part, batch, firsts)
        parts.append((part, buffers.block, buffers.block.clone()))

    def work() -> None:
        for part, block, integers in parts:
            block.copy_(integers)
            _, scores = backend._launch((part.bucket, part.few))
            assert scores is not None
            logits[part.out].copy_(scores[: part.end - part.first])

    work()
    return work, logits


def time_all(model: Any, clock: Clock, most: Ceilings, loads: Sequence[Workload]) -> Iterator[dict[str, Any]]:
    """A row for each workload: GPU time from a graph, wall time with tensors and with arrays, and the floor."""
    config, backend = model.config, model.backend
    for load in loads:
        lengths = load.lengths
        work, _ = enqueue(model, pack(config, token_ids(config, lengths)))
        gpu = clock.back_to_back(clock.graph(work))
        ids, mask = padded(config, lengths, clock.device)
        tensors = clock.one_by_one(partial(model, ids, mask))
        arrays = clock.one_by_one(partial(model, ids.cpu().numpy(), None if mask is None else mask.cpu().numpy()))
        flops = roofline.flops(config, lengths)
        least = floor_us(flops, backend.describe()["weight_bytes"] - _embedding_bytes(model), backend.dtype, most)
        yield {
            "engine": "distilrt", "workload": load.name, "dtype": backend.dtype, "tokens": load.tokens,
            "gpu_us": asdict(gpu), "wall_tensors_us": asdict(tensors), "wall_arrays_us": asdict(arrays),
            "flops": flops, "floor_us": least, "share_of_floor": least / gpu.median,
            "share_of_matmul": flops / (gpu.median * 1e-6) / most.matmul[backend.dtype],
        }  # fmt: skip


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
            yield {"engine": "distilrt-no-dependent-launch", "workload": load.name, "dtype": model.dtype,
                   "tokens": load.tokens, "gpu_us": asdict(times)}  # fmt: skip
    finally:
        encoder.pdl = True


def _embedding_bytes(model: Any) -> int:
    """Of the tables, of which a batch reads only its own rows."""
    config = model.config
    rows = config.vocab_size + config.max_position_embeddings
    return int(rows * config.hidden_size * getattr(torch, model.dtype).itemsize)


def same_answers(checkpoint: Path, model: Any, device: torch.device) -> dict[str, Any]:
    """The timed model's logits against transformers in float64, bounded by transformers in the same dtype."""
    from distilrt.bench.gpu import peers

    longest = min(128, model.config.max_position_embeddings)
    ids, mask = padded(model.config, (longest, 5, 3 + longest // 2), device)
    with torch.inference_mode():
        exact, plain = (peers.load(checkpoint, dtype, device)(ids, attention_mask=mask)[0].double()
                        for dtype in ("float64", model.dtype))  # fmt: skip
    size, error = float(exact.abs().max()), float((model(ids, mask).logits.double() - exact).abs().max())
    bound = 2 * max(float((plain - exact).abs().max()), size * torch.finfo(getattr(torch, model.dtype)).eps)
    return {"name": f"logits of the timed model {model.dtype}", "error": error, "bound": bound, "ok": error <= bound}
