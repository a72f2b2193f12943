"""`distilrt bench`: arguments to a plan, and findings to the terminal and to files, whatever happens meanwhile; its
sub-verbs are those of `verbs`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from distilrt import env
from distilrt.bench import findings as finding
from distilrt.bench import plots, samples, scenarios, statistics, targets, verbs, wire
from distilrt.bench.outcome import Files, carry_out
from distilrt.bench.peers import OURS
from distilrt.checkpoint import packed
from distilrt.checkpoint.source import Source
from distilrt.cpu_count import usable_cores
from distilrt.errors import InvalidParameter


def bench(
    context: typer.Context,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Folder or hub id of the checkpoint.")] = None,
    scenario: Annotated[str, typer.Option(help=", ".join(scenarios.SCENARIOS))] = "single",
    target: Annotated[
        list[str] | None,
        typer.Option(help=f"{OURS}, {OURS}:DTYPE or a server's URL; repeatable."),
    ] = None,
    workload: Annotated[
        list[str] | None, typer.Option(help=f"BATCHxLENGTH or {', '.join(samples.MIXES)}; may be repeated.")
    ] = None,
    source: Annotated[Path | None, typer.Option("--input", "-i", help="File of texts, one a line.")] = None,
    rate: Annotated[list[float] | None, typer.Option(help="Queries per second of server; may be repeated.")] = None,
    slo: Annotated[str | None, typer.Option(help="What peak must keep, as in p99=20ms.")] = None,
    duration: Annotated[float, typer.Option(help="Least seconds of a measurement.")] = 10.0,
    count: Annotated[int, typer.Option(help="Least queries of a measurement.")] = 32,
    backend: Annotated[str, typer.Option(help="auto, reference, cpu or cuda; of distilrt.")] = "auto",
    dtype: Annotated[str, typer.Option(help=", ".join(targets.DTYPES))] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of each engine; else the usable cores.")] = None,
    wire_format: Annotated[
        str, typer.Option("--format", help=f"What servers speak: {', '.join(wire.FORMATS)}.")
    ] = "hf",
    served: Annotated[str, typer.Option("--served-model", help="The model's name on a server.")] = "default",
    key: Annotated[str | None, typer.Option(help="Bearer key of a server.")] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Requests at a time that fill a server.")] = 32,
    against: Annotated[
        str | None, typer.Option(help="Checkpoint whose float32 answers are right; needed for a packed model.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the findings.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="File for one line a row.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="File for a page with plots.")] = None,
    png_folder: Annotated[Path | None, typer.Option("--png", help="Folder for the plots.")] = None,
) -> None:
    """Measure this engine and servers on the same texts: latency, throughput, or the highest rate that keeps a promise.

    Answers are compared with float32's first; an engine whose answers are wrong gets no speed. The exit code is 1 where
    a target was left out.
    """
    if context.invoked_subcommand is not None:
        return
    if model is None:
        raise InvalidParameter("distilrt bench needs --model, or one of its sub-verbs; see distilrt bench --help")
    plan = scenarios.Plan(scenario, duration, count, tuple(rate or ()), statistics.parse_slo(slo) if slo else None)
    if wire_format not in wire.FORMATS:
        raise InvalidParameter(f"--format must be one of {', '.join(wire.FORMATS)}, found {wire_format!r}")
    if packed.find(Source.of(model)) and not against:
        raise InvalidParameter(
            f"{model} is packed and has no float32 answers to compare with; give the checkpoint that it was packed "
            "from: --against CHECKPOINT"
        )
    for path in (json_file, csv_file, html_file):
        if path is not None and not path.resolve().parent.is_dir():
            raise InvalidParameter(f"there is no folder {path.resolve().parent} for {path.name}; make it first")
    if png_folder is not None and not plots.available():
        raise InvalidParameter("--png needs vl-convert: pip install 'distilrt[bench]'; --html has no charts without")
    if source is not None and workload:
        raise InvalidParameter("give --workload or --input, not both")
    names = workload or ["mixed"]
    loads = [samples.make(name, model, file=source) for name in ([""] if source else names)]
    specs = [targets.Spec(*targets.parse(text, dtype), model, backend, threads=threads, wire=wire_format, served=served,
                          key=key, in_flight=in_flight) for text in target or [OURS]]  # fmt: skip
    if len(set(specs)) < len(specs):
        raise InvalidParameter("a target is named twice; a target is told from another by name and dtype")
    num_threads = threads or env.num_threads() or usable_cores()
    found = finding.Findings(finding.facts(num_threads, model), plan.describe())
    seconds = 4.0 + len(specs) * (2.0 + len(loads) * (0.5 + plan.seconds))
    work = partial(scenarios.run, [specs], loads, plan, found, exact_model=against or model)
    carry_out(found, seconds, lambda say: work(say=say), Files(json_file, csv_file, html_file, png_folder), log=False)
    if found.left_out:
        raise typer.Exit(1)


def run(arguments: list[str]) -> None:
    """The command with these arguments; exits by SystemExit where something is wrong with them."""
    commands = typer.Typer(add_completion=False, pretty_exceptions_enable=False, invoke_without_command=True)
    commands.callback(invoke_without_command=True)(bench)
    for verb in verbs.VERBS:
        commands.command()(verb)
    commands(args=arguments, prog_name="distilrt bench")
