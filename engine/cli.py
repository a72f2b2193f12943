"""The commands: `distilrt run`, `serve`, `info`, `verify`, `pack`, `distill` and `bench`.

They read arguments and lines and print answers, tables and errors; what is computed is decided below them. Answers go
to stdout as JSON lines and all else to stderr. They need the extra `cli`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from typing import IO, Annotated, Any

import typer

from distilrt import tasks
from distilrt.checkpoint import packed, packing
from distilrt.checkpoint.calibration import calibration_of, texts_of
from distilrt.checkpoint.codings import CODINGS
from distilrt.checkpoint.gpu_tensors import packed_for_gpu
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.weights import load_weights
from distilrt.distill.command import distill
from distilrt.errors import CheckpointError, InvalidInput
from distilrt.model import models
from distilrt.model.config import DistilBertConfig
from distilrt.runtime.loading import find, load
from distilrt.server.serve_command import serve

Checkpoint = Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id of the checkpoint.")]
Backend = Annotated[str, typer.Option(help="auto, reference, cpu or cuda.")]
Dtype = Annotated[str, typer.Option(help="auto, or one that the backend has; see info.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; else what the machine allows.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]
_PACKABLE = "; ".join(f"for {backend} {', '.join(dtypes)}" for backend, dtypes in packing.DTYPES.items())


def run(
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(tasks.TASKS)}.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Folder or hub id of the checkpoint.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Inputs, each as on a line.")] = None,
    source: Annotated[str | None, typer.Option("--input", "-i", help="File of inputs; - or none: stdin.")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="File for the answers; none: stdout.")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="KEY=JSON", help="A parameter of the task; see docs/endpoints.md."),
    ] = None,
    backend: Backend = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a batch.")] = tasks.MAX_TOKENS,
) -> None:
    """Answer inputs: one JSON line out for each line in, in order.

    A line is UTF-8: a JSON string, an object with the task's keys, or plain text. One that can't be answered becomes
    an object with "error" and "line", and the exit code 1.
    """
    chosen, params = tasks.find(task), dict(map(_param, param or []))
    if texts and source:
        raise typer.BadParameter("give texts or --input, not both")
    if not texts and source is None and sys.stdin is not None and sys.stdin.isatty():
        raise typer.BadParameter("nothing to read: give texts, --input FILE, or lines on stdin")
    if source not in (None, "-") and output is not None and os.path.realpath(source) == os.path.realpath(output):
        raise typer.BadParameter("--output would overwrite --input")
    from tqdm import tqdm

    failed = 0
    with ExitStack() as files:
        lines = texts or files.enter_context(_opened(source or "-", "rb", "--input"))
        loaded, tokenizer, sentence = load(
            model, None, chosen.architecture, backend=backend, dtype=dtype, num_threads=threads
        )
        bound = chosen(tokenizer, loaded.config, sentence)
        answers = tasks.run(loaded, bound, map(_item, lines), params, max_tokens=max_tokens, return_errors=True)
        out = files.enter_context(_opened(output or "-", "wb", "--output"))
        # tqdm shows nothing in the first second, and without a terminal never.
        for number, answer in enumerate(tqdm(answers, unit=" inputs", disable=None, delay=1), 1):
            failed += isinstance(answer, InvalidInput)
            line = {"error": str(answer), "line": number} if isinstance(answer, InvalidInput) else answer
            out.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            out.flush()
    if failed:
        raise typer.Exit(1)


def info(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Folder or hub id of a checkpoint.")] = None,
    backend: Backend = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Show what this machine and this build have, and what a checkpoint takes."""
    from distilrt import info as facts_of

    facts = facts_of.of_machine(threads)
    if model is not None:
        facts["model"] = facts_of.of_checkpoint(model, backend=backend, dtype=dtype, num_threads=threads)
    if as_json:
        print(json.dumps(facts))
    else:
        rows = [(f"{part} {name}", value) for part, values in facts.items() for name, value in values.items()]
        _print_table((), [(name.replace("_", " "), _words(value)) for name, value in rows])


def verify(
    model: Checkpoint,
    texts: Annotated[str | None, typer.Option(help="File of texts, one a line; -: stdin; none: built-in.")] = None,
    backend: Backend = "auto",
    dtype: Dtype = "auto",
    against: Annotated[
        str | None,
        typer.Option(help="Checkpoint whose outputs are right, as of a packed folder its source."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a checkpoint's answers with the reference's; the exit code is 1 where they differ too much."""
    from distilrt import verification

    lines = None
    if texts is not None:
        with _opened(texts, "rb", "--texts") as file:
            lines = texts_of(file.read(), texts)
    report = verification.verify(model, texts=lines, backend=backend, dtype=dtype, against=against)
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        _print_report(report)
    if not report.ok:
        raise typer.Exit(1)


def pack_model(
    model: Checkpoint,
    out: Annotated[str, typer.Argument(help="Folder to write.")],
    backend: Annotated[str, typer.Option(help="cpu, or cuda, for which no GPU is needed.")] = "cpu",
    dtype: Annotated[str, typer.Option(help=f"There are {_PACKABLE}.")] = "int8",
    texts: Annotated[
        str | None, typer.Option("--calibration", help="File of texts for 8 bits, one a line; else built-in.")
    ] = None,
) -> None:
    """Write a packed folder, which holds a model as a backend does and opens without computing anything."""
    start = time.perf_counter()
    if dtype not in packing.DTYPES.get(backend, ()):
        raise typer.BadParameter(f"--backend {backend} --dtype {dtype} can't be packed; there are {_PACKABLE}")
    coding = CODINGS.get((backend, dtype))
    if texts is not None and coding is None:
        raise typer.BadParameter(f"--calibration is for {' and '.join(packing.CODES)}, found {dtype}")
    place = find(Source.of(model))
    if packed.find(place.source):
        raise CheckpointError(f"{model} is packed already; give the checkpoint that it was packed from")
    architecture, config = place.architecture(), DistilBertConfig.from_pretrained(place.source)
    weights = load_weights(place.source, architecture, config)
    calibration = calibration_of(place.source, config, weights, texts, coding) if coding else None
    if backend == "cuda":
        held = packed_for_gpu(config, weights, architecture, dtype, calibration)
    else:
        how: dict[str, Any] = {"backend": backend, "dtype": dtype, "calibration": calibration}
        held = packed.of(getattr(models, architecture)(config, weights, **how))
    report = {
        "folder": out,
        "architecture": architecture,
        "backend": backend,
        "dtype": dtype,
        **held.packing.describe(),
        "bytes": packed.write(out, held, Source.of(model)),
        "seconds": round(time.perf_counter() - start, 3),
    }
    print(json.dumps(report))


def bench(context: typer.Context) -> None:
    """Measure engines and servers: latency, throughput, the highest rate that keeps a promise."""
    from distilrt.bench import command

    try:
        command.run(context.args)
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from error


def app() -> typer.Typer:
    """The commands."""
    commands = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="The DistilBERT runtime.",
    )
    for command in (run, serve, info, verify, distill):
        commands.command()(command)
    commands.command("pack")(pack_model)
    # The options of bench are its own matter: it reads them when it is called.
    own = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    commands.command("bench", add_help_option=False, context_settings=own)(bench)
    return commands


def _param(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"--param must be KEY=JSON, found {text!r}")
    with suppress(ValueError):
        return name, json.loads(value)
    return name, value


def _item(line: str | bytes) -> Any:
    """The input in a line. Numbers, true and false are texts, for plain text has such lines too."""
    with suppress(UnicodeDecodeError):  # a task refuses what is left
        line = line.rstrip(b"\r\n").decode() if isinstance(line, bytes) else line
    with suppress(ValueError, RecursionError):
        value = json.loads(line)
        return line if isinstance(value, int | float) else value
    return line


def _opened(path: str, mode: str, option: str) -> AbstractContextManager[IO[bytes]]:
    """A file, or for - stdin or stdout, which stay open; `option` is where the path was given."""
    if path != "-":
        return open(path, mode)
    stream = sys.stdin if mode == "rb" else sys.stdout
    if stream is None:
        raise OSError(f"{'stdin' if mode == 'rb' else 'stdout'} is closed; give {option} FILE")
    return nullcontext(stream.buffer)


def _print_report(report: Any) -> None:
    """What `verify` found, as a table and lines."""
    heads = ("output", "max", "relative", "mean", "cosine", "bound", "")
    rows = []
    for row in report.rows:
        differences = (row.max_abs_difference, row.relative, row.mean_abs_difference)
        numbers = [*(f"{difference:.2e}" for difference in differences), f"{row.cosine:.5f}", f"{row.bound:.2e}"]
        rows.append([row.output, *numbers, "ok" if row.ok else "too far"])
    if rows:
        _print_table(heads, rows)
    if report.backend["dtype"] in ("int8", "float8"):
        kept = _words(report.backend["kept"])
        print(f"calibrated with {report.backend['calibration'] or 'nothing'}; kept in higher precision: {kept}")
    if report.agreement is not None:
        print(f"same label or token: {report.agreement:.2%}")
    for text in report.other_tokens or ():
        print(f"other token ids than AutoTokenizer's: {text!r}")
    print(f"{'ok' if report.ok else 'not ok'}: compared with {report.reference}")


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value or "none")


def _print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=bool(heads))
    for head in heads or ("", ""):
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)
