"""transformers on the same device, ids and weights: sdpa attention, eager, from a graph, and under torch.compile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from distilrt.bench.gpu.runs import Workload, padded, row
from distilrt.bench.gpu.timing import Clock
from distilrt.model.config import DistilBertConfig


def load(checkpoint: Path, dtype: str, device: torch.device) -> Any:
    """transformers' classifier of the checkpoint, returning tuples."""
    import transformers

    made: Any = transformers.DistilBertForSequenceClassification.from_pretrained(
        checkpoint, dtype=getattr(torch, dtype), attn_implementation="sdpa", return_dict=False
    )
    return made.eval().to(device)


@torch.inference_mode()
def time_sdpa(
    model: Any, config: DistilBertConfig, dtype: str, clock: Clock, loads: Sequence[Workload]
) -> Iterator[dict[str, Any]]:
    """Rows of a workload, eager, by the wall and captured in a graph; a row without times says why a capture failed."""
    for load in loads:
        lengths = load.lengths
        ids, mask = padded(config, lengths, clock.device)

        def work(ids: Any = ids, mask: Any = mask) -> None:
            model(ids, attention_mask=mask)

        yield row("transformers", "eager", load, dtype, clock.back_to_back(work))
        yield row("transformers", "tensors", load, dtype, clock.one_by_one(work))
        try:
            graph = clock.graph(work)
        except RuntimeError as error:
            yield _failed("transformers", "graph", load, dtype, error)
            clock.wait()
            continue
        yield row("transformers", "graph", load, dtype, clock.back_to_back(graph))


@torch.inference_mode()
def time_compiled(
    model: Any, config: DistilBertConfig, dtype: str, clock: Clock, loads: Sequence[Workload]
) -> Iterator[dict[str, Any]]:
    """A row a workload, each compiled for its own shape."""
    for load in loads:
        lengths = load.lengths
        ids, mask = padded(config, lengths, clock.device)
        torch.compiler.reset()
        if clock.on_gpu:
            compiled: Any = torch.compile(model, mode="max-autotune", dynamic=False)
        else:
            compiled = torch.compile(model, backend="eager", dynamic=False)

        def work(ids: Any = ids, mask: Any = mask, compiled: Any = compiled) -> None:
            compiled(ids, attention_mask=mask)

        try:
            yield row("torch.compile", "max-autotune", load, dtype, clock.back_to_back(work))
        except Exception as error:  # whatever a compiler raises, the other shapes still count
            yield _failed("torch.compile", "max-autotune", load, dtype, error)


def _failed(target: str, form: str, load: Workload, dtype: str, error: Exception) -> dict[str, Any]:
    return {"target": target, "form": form, "dtype": dtype, "scenario": "device", "workload": load.name,
            "failed_with": str(error).strip().split("\n")[0][:300]}  # fmt: skip
