"""The claim that DistilBERT was made for: 40 % fewer parameters than BERT-base and 60 % faster (Sanh et al. 2019), here
with both on this engine, random weights, the same tokens and threads, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from distilrt.bench import compare, report
from distilrt.bench.artefacts import make_checkpoint
from distilrt.bench.child import PeerError
from distilrt.bench.progress import Say
from distilrt.bench.worker import SETTLE, Worker
from distilrt.bench.workloads import make_inputs, parse
from distilrt.model.architecture import expected_shapes
from distilrt.model.config import DistilBertConfig

BERT_LAYERS = 12
SECONDS = 10.0  # of a row, roughly
FIELDS = ("date", "commit", "cpu", "isa", "threads", "load", "workload", "dtype", "rounds", "distilbert_ms", "bert_ms",
          "distilbert_parameters", "bert_parameters", "error")  # fmt: skip


def parameters(config: DistilBertConfig) -> tuple[int, int]:
    """Parameters of DistilBERT and of BERT with twice the layers, without heads.

    BERT's segment embeddings and pooler, which this engine folds in or leaves out, count: they are in its checkpoint.
    """
    sizes = []
    for layers in (config.num_layers, BERT_LAYERS):
        shapes = expected_shapes(config.replace(n_layers=layers), "DistilBertModel").values()
        sizes.append(sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes))
    hidden = config.hidden_size
    return sizes[0], sizes[1] + 2 * hidden + hidden * hidden + hidden


def measure(
    cache: Path, names: Sequence[str], dtypes: Sequence[str], num_threads: int, rounds: int, say: Say
) -> Iterator[report.Row]:
    """Rows with the medians of both models, each as it is done.

    Args:
        cache: where their checkpoints are kept.
        names: of `workloads.parse`.
        dtypes: of the engine's.
        num_threads: of each.
        rounds: turns of each on every workload.
        say: told of every row.

    Raises:
        PeerError: a model cannot be loaded, or answers otherwise than the reference.
    """
    config = DistilBertConfig()
    folders = (make_checkpoint(cache / "distilbert-base"),
               make_checkpoint(cache / "bert-base-folded", config.replace(n_layers=BERT_LAYERS)))  # fmt: skip
    facts, counts = report.machine(num_threads), parameters(config)
    for dtype in dtypes:
        with ExitStack() as stack:
            workers = [stack.enter_context(Worker("distilrt", dtype, folder, num_threads)) for folder in folders]
            for name in names:
                say(f"{name} {dtype}", SECONDS)
                inputs = make_inputs(parse(name).batches, config.vocab_size)
                errors = []
                for worker, folder in zip(workers, folders, strict=True):
                    worker.set_inputs(inputs)
                    expected = compare.expected_logits(folder, inputs)
                    errors.append(compare.disagreement([worker.answer(i) for i in range(len(expected))], expected))
                    if not errors[-1] <= compare.BOUNDS[dtype]:
                        raise PeerError(f"{folder.name} {dtype} on {name}: its answers are off by {errors[-1]:.1e}")
                times: tuple[list[float], list[float]] = ([], [])
                for turn in range(rounds):
                    for k in (turn % 2, 1 - turn % 2):
                        time.sleep(SETTLE)
                        times[k].extend(workers[k].turn(range(len(inputs)), 1, 3))
                medians = [round(1e3 * statistics.median(each), 3) for each in times]
                yield {**facts, "workload": name, "dtype": dtype, "rounds": rounds,
                       **dict(zip(FIELDS[9:13], (*medians, *counts), strict=True)),
                       "error": float(f"{max(errors):.1e}")}  # fmt: skip
