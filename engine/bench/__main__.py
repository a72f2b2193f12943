"""The command line of `python -m distilrt.bench`: what to measure and where to keep it. Progress goes to stderr."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from distilrt.bench import compare as comparing
from distilrt.bench import peers, report, workloads
from distilrt.bench import roofline as rooflines
from distilrt.bench import startup as starting
from distilrt.bench.artefacts import make_checkpoint
from distilrt.bench.progress import Bar, Say
from distilrt.cpu_count import usable_cores
from distilrt.errors import BackendError
from distilrt.model.config import DistilBertConfig

app = typer.Typer(help="Speed of distilrt beside other engines on this machine.", add_completion=False)

NAMES, DTYPES, LOADS = (",".join(all_of) for all_of in (peers.ENGINES, peers.DTYPES, workloads.DEFAULT))
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distilrt" / "bench"
RESULTS = Path("benches/results/cpu.csv")
DISTILLATION = RESULTS.with_name("distillation.csv")
STARTUP = RESULTS.with_name("startup.csv")

Dtypes = Annotated[str, typer.Option(help="Comma-separated.")]
Names = Annotated[str, typer.Option("--peers", help="Comma-separated engines.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of every engine; default: the usable cores.")]
Cache = Annotated[Path, typer.Option(help="Folder for the checkpoint, converted models and compiled loops.")]


def _bar(seconds: float) -> Bar:
    return Bar(seconds, Console(stderr=True), log=True)


def _end(bar: Bar, record: bool = False) -> None:
    """After what was found is shown: the exit code of a run that Ctrl-C ended."""
    if bar.stopped:
        typer.echo("broken off: what is above is all that was measured" + "; nothing was recorded" * record, err=True)
        raise typer.Exit(130)


def _engines(names: str, dtypes: str) -> list[comparing.Engine]:
    try:
        return comparing.choose(names.split(","), dtypes.split(","))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _peaks(num_threads: int, cache: Path, say: Say) -> rooflines.Roofline:
    say("measuring peaks", rooflines.SECONDS)
    try:
        return rooflines.measure(num_threads, cache)
    except RuntimeError as error:
        say(f"no peaks: {error}", 0)
        return rooflines.Roofline({}, None)


@app.command()
def compare(
    dtypes: Dtypes = DTYPES,
    names: Names = NAMES,
    loads: Annotated[str, typer.Option("--workloads", help="Comma-separated.")] = LOADS,
    rounds: Annotated[int | None, typer.Option(min=1, help="Exactly so many, whatever the time.")] = None,
    time_box: Annotated[
        float, typer.Option(help="Seconds for a workload where --rounds is not given.")
    ] = comparing.TIME_BOX,
    threads: Threads = None,
    record: Annotated[bool, typer.Option("--record", help="Append the rows to --results.")] = False,
    results: Annotated[Path, typer.Option(help="CSV file.")] = RESULTS,
    cache: Cache = CACHE,
) -> None:
    """Time every engine on every workload, in turns, and compare with the peaks of the machine."""
    engines = _engines(names, dtypes)
    try:
        chosen = [workloads.parse(name) for name in loads.split(",")]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    num_threads = threads or usable_cores()
    facts = report.machine(num_threads)
    checkpoint = make_checkpoint(cache / "distilbert-base")
    seconds = comparing.expected_s(len(engines), len(chosen), time_box)
    peaks = rooflines.Roofline({}, None)
    with _bar(2 * rooflines.SECONDS + seconds) as bar:
        found = comparing.Comparison(bar.step)
        peaks = _peaks(num_threads, cache, bar.step)
        comparing.compare(found, checkpoint, engines, chosen, num_threads=num_threads, rounds=rounds, time_box=time_box)
        peaks = peaks.better(_peaks(num_threads, cache, bar.step))
    rows = report.rows(found.timings, DistilBertConfig.from_pretrained(checkpoint), peaks, facts)
    if record and not bar.stopped:
        report.append(results, rows)
    typer.echo(" ".join(f"{key}={value}" for key, value in facts.items()))
    typer.echo(_shown(peaks) + "\n")
    typer.echo(report.table(rows))
    if found.left_out:
        typer.echo("\nnot timed:\n" + "\n".join(f"  {line}" for line in found.left_out))
    _end(bar, record)


@app.command()
def startup(
    dtypes: Dtypes = DTYPES,
    names: Names = NAMES,
    times: Annotated[int, typer.Option(min=1, help="Processes of each engine.")] = 3,
    threads: Threads = None,
    record: Annotated[bool, typer.Option("--record", help="Append the rows to --results.")] = False,
    results: Annotated[Path, typer.Option(help="CSV file.")] = STARTUP,
    cache: Cache = CACHE,
) -> None:
    """Time and peak memory of a fresh process from import to first answer."""
    num_threads = threads or usable_cores()
    facts = report.machine(num_threads)
    checkpoint = make_checkpoint(cache / "distilbert-base")
    found, engines = list[starting.Startup](), _engines(names, dtypes)
    seconds = (times + 1) * starting.SECONDS
    with _bar(len(engines) * seconds) as bar:
        for engine in engines:
            bar.step(f"starting {engine}", seconds)
            found.append(starting.measure(engine.name, engine.dtype, checkpoint, num_threads, times))
    if record and not bar.stopped:
        report.append(results, starting.rows(found, facts), starting.FIELDS)
    typer.echo(starting.table(found))
    _end(bar, record)


@app.command()
def roofline(threads: Threads = None, cache: Cache = CACHE) -> None:
    """Peak arithmetic by dtype and memory read of this machine."""
    with _bar(rooflines.SECONDS) as bar:
        typer.echo(_shown(_peaks(threads or usable_cores(), cache, bar.step)))
    _end(bar)


@app.command()
def tiles(
    dtypes: Dtypes = "bfloat16,float16",
    tokens: Annotated[str, typer.Option(help="Comma-separated counts of packed tokens; default: the ladder.")] = "",
    self_test: Annotated[bool, typer.Option("--self-test", help="A tiny scale in Triton's interpreter.")] = False,
) -> None:
    """Time the tiles of the GPU kernels and print the fastest as entries for kernels/tiles.py; exit code 2: no GPU."""
    if self_test:
        os.environ["TRITON_INTERPRET"] = "1"  # Triton looks when the kernels are defined
    from distilrt.backends.cuda.devices import cuda_device
    from distilrt.bench import tiles as tuning

    config = DistilBertConfig()
    if self_test:
        config = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=64, max_position_embeddings=16)
    try:
        counts = [int(count) for count in tokens.split(",")] if tokens else tuning.buckets(config, cuda_device())
        found: dict[str, list[tuning.Found]] = {dtype: [] for dtype in dtypes.split(",")}
        with _bar(len(found) * len(counts) * tuning.OPS * tuning.OP_SECONDS) as bar:
            for dtype, rows in found.items():
                rows.extend(tuning.tune(config, counts, dtype, bar.step, tiny=self_test))
        for dtype, rows in found.items():
            typer.echo(f"# {dtype}\n{tuning.table(rows)}")
        _end(bar)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except BackendError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error


@app.command()
def ptx(
    chips: Annotated[str, typer.Option(help="Comma-separated compute capabilities.")] = "80,89,90,100",
    dtypes: Annotated[str, typer.Option(help="Comma-separated.")] = "float32,tf32,float16,bfloat16",
    only: Annotated[str, typer.Option(help="Compile only the kernels whose row has this text.")] = "",
    out: Annotated[Path | None, typer.Option(help="Write the table to this Markdown file too.")] = None,
) -> None:
    """Compile the GPU kernels ahead of time, no GPU needed, and show registers, spills and tensor-core instructions."""
    from distilrt.bench import ptx as compiling

    found: list[compiling.Row] = []
    try:
        wanted = [(int(chip), dtype) for chip in chips.split(",") for dtype in dtypes.split(",")]
        with _bar(compiling.SECONDS * sum(compiling.count(*each, only) for each in wanted)) as bar:
            for chip, dtype in wanted:
                for row in compiling.rows(chip, dtype, only):
                    found.append(row)
                    bar.step(f"sm_{chip} {dtype} {row.label}", compiling.SECONDS)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(compiling.table(found))
    if out is not None and not bar.stopped:
        out.write_text(compiling.page(found))
    faults = [f"sm_{row.capability} {row.dtype} {row.label}: {fault}" for row in found for fault in row.faults]
    if faults:
        typer.echo("\n".join(["", "faults:", *faults]))
    _end(bar)
    if faults:
        raise typer.Exit(1)


@app.command()
def distillation(
    names: Annotated[str, typer.Option("--workloads", help="Comma-separated.")] = "1x16,1x128,8x128",
    dtypes: Dtypes = DTYPES,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each model on every workload.")] = 15,
    threads: Threads = None,
    record: Annotated[bool, typer.Option("--record", help="Append the rows to --results.")] = False,
    results: Annotated[Path, typer.Option(help="CSV file.")] = DISTILLATION,
    cache: Cache = CACHE,
) -> None:
    """Time DistilBERT beside BERT-base, both on this engine."""
    from distilrt.bench import distillation as distilling

    num_threads = threads or usable_cores()
    rows, wanted = list[report.Row](), (names.split(","), dtypes.split(","))
    with _bar(len(wanted[0]) * len(wanted[1]) * distilling.SECONDS) as bar:
        rows.extend(distilling.measure(cache, *wanted, num_threads, rounds, bar.step))
    if record and not bar.stopped:
        report.append(results, rows, distilling.FIELDS)
    for row in rows:
        faster = row["bert_ms"] / row["distilbert_ms"] - 1
        typer.echo(f"{row['workload']:<8}{row['dtype']:<10}{row['distilbert_ms']:>9.2f} ms{row['bert_ms']:>9.2f} ms"
                   f"  {faster:+.0%}")  # fmt: skip
    _end(bar, record)


@app.command()
def claims(
    page: Annotated[Path, typer.Argument(help="Page with tables between comments.")] = Path("README.md"),
    results: Annotated[Path, typer.Option(help="Folder of committed rows.")] = RESULTS.parent,
) -> None:
    """Make the tables of speed in README from committed rows."""
    from distilrt.bench.claims import render

    page.write_text(render(page.read_text(encoding="utf-8"), results), encoding="utf-8")


@app.command()
def changes(
    before: Annotated[str, typer.Argument(help="What distilrt bench --json wrote; several runs with commas.")],
    after: Annotated[str, typer.Argument(help="The same of later runs.")],
    peer: Annotated[str, typer.Option(help="Target that did not change, as in 'onnxruntime int8'.")],
) -> None:
    """Compare runs by their ratios to the same peer; exit code 1: one changed by 5 % or more, 3: unclear.

    Single runs know nothing of other minutes: take several of each kind in turns where a neighbour uses the machine.
    """
    from distilrt.bench import changes as changing
    from distilrt.bench import findings

    try:
        runs = [[findings.read(Path(name)) for name in names.split(",")] for names in (before, after)]
        found = changing.changes(runs[0], runs[1], peer)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    for change in found:
        typer.echo(str(change))
    verdicts = {change.verdict for change in found}
    if "unclear" in verdicts:
        typer.echo("unclear: noise could hide a change of 5 %; measure longer, several runs of each, or elsewhere")
    if verdicts != {"same"}:
        raise typer.Exit(1 if "CHANGED" in verdicts else 3)


def _shown(peaks: rooflines.Roofline) -> str:
    parts = [f"{dtype} {'?' if rate is None else f'{rate / 1e9:.0f}'} GFLOP/s" for dtype, rate in peaks.flops.items()]
    read = "?" if peaks.read_bandwidth is None else f"{peaks.read_bandwidth / 1e9:.1f}"
    return f"peaks: {', '.join(parts)}; memory read {read} GB/s"


if __name__ == "__main__":
    app()
