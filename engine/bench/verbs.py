"""The sub-verbs of `distilrt bench`: engines alone, starts, and what is made of kept rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from distilrt.bench import claims as claiming
from distilrt.bench import findings as finding
from distilrt.bench import peers, samples, scenarios, targets
from distilrt.bench.artefacts import cache_folder, classifier_of, make_checkpoint
from distilrt.bench.claims import BERT_LAYERS
from distilrt.bench.findings import Findings
from distilrt.bench.outcome import Files, carry_out
from distilrt.bench.turns import WINDOWS
from distilrt.cpu_count import usable_cores
from distilrt.errors import InvalidParameter
from distilrt.model.config import DistilBertConfig

RESULTS = Path("benches/results")
NAMES = ",".join(peers.ENGINES)
BEHIND = 1.5  # times the fastest peer's time, beyond which a peer has only its first rounds
_RANDOM = "distilbert-base"  # The checkpoint with random weights has this name in the cache.
LOADS = "1x16,1x128,8x128,mixed"
COUNT = 2 * WINDOWS  # queries of a measurement, at least
MIX = 24  # sequences of mixed lengths for each thread: enough to fill its stream, few enough for many turns

Dtypes = Annotated[str, typer.Option(help="Comma-separated; default: those that distilrt has on this CPU.")]
Names = Annotated[str, typer.Option("--peers", help="Comma-separated engines.")]
Loads = Annotated[str, typer.Option("--workloads", help="Comma-separated.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of every engine; default: the usable cores.")]
Record = Annotated[bool, typer.Option("--record", help="Append the rows to the file of the verb in --results.")]
Results = Annotated[Path, typer.Option(help="Folder of committed rows.")]
Json = Annotated[Path | None, typer.Option("--json", help="File for the findings.")]
Html = Annotated[Path | None, typer.Option("--html", help="File for a page with charts.")]


def specs(names: str, dtype: str, model: str, threads: int) -> list[targets.Spec]:
    """Every form of these engines in a dtype, those for latency and those for throughput, ours first.

    Raises:
        InvalidParameter: an unknown name or dtype.
    """
    for found, known in ((names.split(","), tuple(peers.ENGINES)), ((dtype,), peers.DTYPES)):
        if unknown := [name for name in found if name not in known]:
            raise InvalidParameter(f"choose from {', '.join(known)}; found {', '.join(unknown)}")
    return [targets.Spec(name, dtype, model, form=form, threads=threads)
            for name in names.split(",") for form, each in peers.ENGINES[name].items()
            if dtype in each.dtypes and (each.latency or each.throughput)]  # fmt: skip


def _dtypes(text: str) -> list[str]:
    """Those named, or those of distilrt on this CPU."""
    if text:
        return text.split(",")
    from distilrt import _C

    return [dtype for dtype in peers.DTYPES if dtype in _C.dtypes()]


def _alone(
    found: Findings, engines: Sequence[Sequence[targets.Spec]], loads: Sequence[samples.Samples], plan: scenarios.Plan,
    files: Files,
) -> None:  # fmt: skip
    """Measure engines from token ids to logits, those of one dtype in turns."""
    seconds = sum(4.0 + len(each) * (4.0 + len(loads) * plan.seconds) for each in engines)
    carry_out(found, seconds, lambda say: scenarios.run(engines, loads, plan, found, say=say), files)


def compare(
    dtypes: Dtypes = "",
    names: Names = NAMES,
    loads: Loads = LOADS,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of a trained checkpoint, whose encoder answers English; default: random weights."),
    ] = None,
    neighbours: Annotated[
        list[int] | None,
        typer.Option("--busy", min=0, max=256, help="Number of busy processes beside the engines; may be repeated."),
    ] = None,
    duration: Annotated[float, typer.Option(help="Least seconds of an engine on a workload.")] = 3.0,
    threads: Threads = None,
    record: Record = False,
    results: Results = RESULTS,
    json_file: Json = None,
    html_file: Html = None,
) -> None:
    """Time every engine in its best forms from token ids to logits, in turns, beside the peaks of the machine.

    A peer's form that takes more than 1.5 times the time of the fastest one is measured in its first rounds only.
    """
    num_threads, counts = threads or usable_cores(), tuple(neighbours or [0])
    plan = scenarios.Plan(scenarios.ALONE, duration, COUNT, most_windows=WINDOWS, behind=BEHIND, busy=counts)
    made = classifier_of(str(model)) if model else make_checkpoint(cache_folder() / _RANDOM)
    chosen = [samples.make_ids(name, made, mix=MIX * num_threads) for name in loads.split(",")]
    engines = [specs(names, dtype, str(made), num_threads) for dtype in _dtypes(dtypes)]
    file = "contended.csv" if any(counts) else "trained.csv" if model else "cpu.csv"
    found = Findings(finding.facts(num_threads, str(made)), plan.describe())
    found.facts["model"] = "/".join(model.resolve().parts[-2:]) if model else _RANDOM
    files = Files(json=json_file, html=html_file, record=results / file if record else None)
    _alone(found, engines, chosen, plan, files)


def startup(
    dtypes: Dtypes = "",
    names: Names = NAMES,
    times: Annotated[int, typer.Option(min=1, help="Processes of each engine.")] = 3,
    threads: Threads = None,
    record: Record = False,
    results: Results = RESULTS,
) -> None:
    """Time and peak memory of a fresh process from import to first answer, of the first form of each engine."""
    from distilrt.bench import startup as starting

    num_threads = threads or usable_cores()
    checkpoint = str(make_checkpoint(cache_folder() / _RANDOM))
    chosen: dict[tuple[str, str], targets.Spec] = {}
    for dtype in _dtypes(dtypes):
        for spec in specs(names, dtype, checkpoint, num_threads):
            chosen.setdefault((spec.name, dtype), spec)
    found = Findings(finding.facts(num_threads, checkpoint) | {"model": _RANDOM}, {"scenario": "startup"})

    work = partial(starting.measure, found, list(chosen.values()), times)
    seconds = len(chosen) * (times + 1) * starting.SECONDS
    carry_out(found, seconds, work, Files(record=results / "startup.csv" if record else None))


def distillation(
    dtypes: Dtypes = "",
    loads: Loads = "1x16,1x128,8x128",
    duration: Annotated[float, typer.Option(help="Least seconds of a model on a workload.")] = 5.0,
    threads: Threads = None,
    record: Record = False,
    results: Results = RESULTS,
) -> None:
    """Time DistilBERT beside BERT-base, both on this engine with random weights.

    DistilBERT was made to have 40 % fewer parameters and to be 60 % faster (Sanh et al. 2019).
    """
    num_threads, plan = threads or usable_cores(), scenarios.Plan(scenarios.ALONE, duration, COUNT)
    deeper = DistilBertConfig(n_layers=BERT_LAYERS)
    folders = {
        "DistilBERT": make_checkpoint(cache_folder() / _RANDOM),
        "BERT-base": make_checkpoint(cache_folder() / "bert-base-folded", deeper),
    }
    chosen = [samples.make_ids(name, folders["DistilBERT"]) for name in loads.split(",")]
    engines = [[targets.Spec(peers.OURS, dtype, str(folder), form="first-rows", threads=num_threads, title=title)
                for title, folder in folders.items()] for dtype in _dtypes(dtypes)]  # fmt: skip
    found = Findings(finding.facts(num_threads), plan.describe())
    _alone(found, engines, chosen, plan, Files(record=results / "distillation.csv" if record else None))


def claims(
    pages: Annotated[list[Path] | None, typer.Argument(help="Pages with tables between comments.")] = None,
    results: Results = RESULTS,
) -> None:
    """Make the tables of speed in README and docs/benchmarks.md from committed rows."""
    for file in pages or claiming.PAGES:
        file.write_text(claiming.render(file.read_text(encoding="utf-8"), results), encoding="utf-8")


VERBS = (compare, startup, distillation, claims)
