"""The claim that DistilBERT was made for: 40 % fewer parameters than BERT-base and 60 % faster (Sanh et al. 2019), here
with both on this engine, random weights, the same tokens and threads, in turns."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from distilrt.bench import samples, scenarios
from distilrt.bench.artefacts import make_checkpoint
from distilrt.bench.findings import Findings
from distilrt.bench.peers import OURS
from distilrt.bench.progress import Say
from distilrt.bench.session import Session
from distilrt.bench.targets import Spec
from distilrt.model.architecture import expected_shapes
from distilrt.model.config import DistilBertConfig

BERT_LAYERS = 12


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
    found: Findings, cache: Path, names: Sequence[str], dtypes: Sequence[str], num_threads: int, plan: scenarios.Plan,
    say: Say,
) -> None:  # fmt: skip
    """Rows of both models.

    Args:
        found: filled.
        cache: where their checkpoints are kept.
        names: of `samples.make_ids`.
        dtypes: of the engine's.
        num_threads: of each.
        plan: of `scenarios.ALONE`.
        say: told of every step.

    Raises:
        PeerError: a model cannot be loaded.
    """
    deeper = DistilBertConfig().replace(n_layers=BERT_LAYERS)
    folders = {"DistilBERT": make_checkpoint(cache / "distilbert-base"),
               "BERT-base": make_checkpoint(cache / "bert-base-folded", deeper)}  # fmt: skip
    loads = [samples.make_ids(name, folders["DistilBERT"]) for name in names]
    exact = {title: scenarios.exact_answers(str(folder), loads) for title, folder in folders.items()}
    found.workloads += [each.describe() for each in loads]
    for dtype in dtypes:
        with ExitStack() as stack:
            sessions = {}
            for title, folder in folders.items():
                spec = Spec(OURS, dtype, str(folder), form="first-rows", threads=num_threads, title=title)
                sessions[spec] = stack.enter_context(Session(spec, loads[0]))
            for place, each in enumerate(loads):
                right = {spec: exact[spec.title][place] for spec in sessions}
                scenarios.measure_workload(sessions, each, right, plan, found, say)
    found.complete = True
