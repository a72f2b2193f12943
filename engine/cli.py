"""The command line: `distilrt run`, `serve`, `info`, `verify`, `pack` and `bench`.

It reads arguments and lines and prints answers, tables and errors; what is computed is decided below it. Answers go to
stdout as JSON lines and all else to stderr. Needs the extra `cli`.
"""

from __future__ import annotations

import io
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from importlib import metadata
from typing import IO, Annotated, Any

from distilrt import __version__, env, tasks
from distilrt.backends import base as backends
from distilrt.backends.cuda.devices import DTYPES, describe_cuda, why_not_cuda
from distilrt.batch import pack
from distilrt.checkpoint import checkpoint, packed
from distilrt.checkpoint.calibration import of_checkpoint
from distilrt.checkpoint.source import Source
from distilrt.cpu_count import usable_cores
from distilrt.errors import DistilrtError, InvalidInput
from distilrt.model import models
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS
from distilrt.narrower import faster
from distilrt.runtime.loading import find, load
from distilrt.server.command import serve

with suppress(ModuleNotFoundError):  # main says what to install
    import typer

_LIBRARIES = ("numpy", "tokenizers", "safetensors", "torch", "triton", "transformers")


def run(
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(tasks.TASKS)}.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Folder or hub id of the checkpoint.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Inputs, each as on a line.")] = None,
    source: Annotated[str | None, typer.Option("--input", "-i", help="File of inputs; - or none: stdin.")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="File for the answers; none: stdout.")] = None,
    param: Annotated[list[str] | None, typer.Option("--param", "-p", metavar="KEY=JSON", help="Of the task.")] = None,
    backend: Annotated[str, typer.Option(help="auto, reference, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, or one that the backend has; see info.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; else what the machine allows.")] = None,
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
        lines = texts or files.enter_context(_opened(source or "-", "rb"))
        loaded, tokenizer, sentence = load(
            model, None, chosen.architecture, backend=backend, dtype=dtype, num_threads=threads
        )
        kind = chosen(tokenizer, loaded.config, sentence)
        answers = tasks.run(loaded, kind, map(_item, lines), params, max_tokens=max_tokens, return_errors=True)
        out = files.enter_context(_opened(output or "-", "wb"))
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
    backend: Annotated[str, typer.Option(help="auto, reference, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, or one that the backend has.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; else what the machine allows.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Show what this machine and this build have, and what a checkpoint takes."""
    from distilrt import _C

    isas = _C.available_isas()
    isa = env.force_isa() or isas[0]
    facts: dict[str, Mapping[str, Any]] = {
        "versions": {"distilrt": __version__, "python": platform.python_version(), **_versions()},
        "cpu": {
            "available_isas": isas,
            "active_isa": isa,
            "usable_cores": usable_cores(),
            "num_threads": threads or env.num_threads() or usable_cores(),
        },
        "gpu": describe_cuda(),
        "backends": _dtypes(isa),
    }
    if model is not None:
        facts["model"] = _describe(model, backend, dtype, threads)
    if as_json:
        print(json.dumps(facts))
    else:
        rows = [(f"{part} {name}", value) for part, values in facts.items() for name, value in values.items()]
        _print_table((), [(name.replace("_", " "), _words(value)) for name, value in rows])


def verify(
    model: Annotated[str, typer.Argument(help="Folder or hub id of the checkpoint.")],
    texts: Annotated[str | None, typer.Option(help="File of texts, one a line; else built-in ones.")] = None,
    backend: Annotated[str, typer.Option(help="auto, reference, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, or one that the backend has.")] = "auto",
    against: Annotated[
        str | None,
        typer.Option(help="Checkpoint whose outputs are right, as of a packed folder its source."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Compare a checkpoint's answers with the reference's; the exit code is 1 where they differ too much."""
    from distilrt import verification

    lines = None
    if texts is not None:
        with _opened(texts, "rb") as file:
            lines = list(filter(None, file.read().decode().splitlines()))
    report = verification.verify(model, texts=lines, backend=backend, dtype=dtype, against=against)
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        heads = ("output", "max", "relative", "mean", "cosine", "bound", "")
        rows = [(row.output, f"{row.max_abs_difference:.2e}", f"{row.relative:.2e}", f"{row.mean_abs_difference:.2e}",
                 f"{row.cosine:.5f}", f"{row.bound:.2e}", "ok" if row.ok else "too far")
                for row in report.rows]  # fmt: skip
        if rows:
            _print_table(heads, rows)
        if report.backend["dtype"] == "int8":
            print(f"calibrated with {report.backend['calibration'] or 'nothing'}; kept in higher precision: "
                  f"{_words(report.backend['kept'])}")  # fmt: skip
        if report.agreement is not None:
            print(f"same label or token: {report.agreement:.2%}")
        for text in report.other_tokens or ():
            print(f"other token ids than AutoTokenizer's: {text!r}")
        print(f"{'ok' if report.ok else 'not ok'}: compared with {report.reference}")
    if not report.ok:
        raise typer.Exit(1)


def pack_model(
    model: Annotated[str, typer.Argument(help="Folder or hub id of the checkpoint.")],
    out: Annotated[str, typer.Argument(help="Folder to write.")],
    dtype: Annotated[str, typer.Option(help=f"{', '.join(packed.LANES)}; what can be packed here, see info.")] = "int8",
    texts: Annotated[
        str | None, typer.Option("--calibration", help="File of texts for int8, one a line; else built-in.")
    ] = None,
) -> None:
    """Write a packed folder, which opens in milliseconds and stays memory-mapped."""
    if texts is not None and dtype != "int8":
        raise typer.BadParameter(f"--calibration is for --dtype int8, found {dtype}")
    start = time.perf_counter()
    place = find(Source(model))
    architecture = place.architecture()
    if texts is None:
        loaded = getattr(models, architecture).from_pretrained(place.source, backend="cpu", dtype=dtype)
    else:
        config = DistilBertConfig.from_pretrained(place.source)
        weights = checkpoint.load(place.source, architecture, config)
        calibration = of_checkpoint(place.source, config, weights, texts)
        loaded = getattr(models, architecture)(config, weights, backend="cpu", dtype=dtype, calibration=calibration)
    size = packed.write(out, loaded, Source(model))
    facts = loaded.backend.describe()
    print(json.dumps({"folder": out, "architecture": architecture, "dtype": loaded.dtype,
                      **{name: facts[name] for name in ("calibration", "kept") if name in facts}, "bytes": size,
                      "seconds": round(time.perf_counter() - start, 3)}))  # fmt: skip


def bench(context: typer.Context) -> None:
    """Measure engines and servers: latency, throughput, the highest rate that keeps a promise."""
    from distilrt.bench import command

    command.run(context.args)


def app() -> typer.Typer:
    """The commands."""
    commands = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                           help="The DistilBERT runtime.")  # fmt: skip
    for command in (run, serve, info, verify):
        commands.command()(command)
    commands.command("pack")(pack_model)
    # Its options are its own matter, loaded when it is called.
    own = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    commands.command("bench", add_help_option=False, context_settings=own)(bench)
    return commands


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0, 1 where inputs or comparisons failed, 2 where the command could not be carried out.

    Args:
        arguments: None: the process's own.
    """
    _fill_closed_streams()
    if "typer" not in globals():
        print("distilrt: the command line needs more packages: pip install 'distilrt[cli]'", file=sys.stderr)
        raise SystemExit(2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale that lacks a character is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        app()(args=arguments, prog_name="distilrt")
    except (DistilrtError, OSError, ValueError, ImportError) as error:
        print("distilrt:", *str(error).split(), file=sys.stderr)
        raise SystemExit(2) from None


def _fill_closed_streams() -> None:
    """Open the null device where a standard stream is closed. Else a socket or file would get its number, messages
    could go there, and libuv ends a process that closes one of these numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


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


def _opened(path: str, mode: str) -> AbstractContextManager[IO[bytes]]:
    """A file, or for - stdin or stdout, which stay open."""
    if path != "-":
        return open(path, mode)
    stream = sys.stdin if mode == "rb" else sys.stdout
    if stream is None:
        name, option = ("stdin", "--input") if mode == "rb" else ("stdout", "--output")
        raise OSError(f"{name} is closed; give {option} FILE")
    return nullcontext(stream.buffer)


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = dict.fromkeys(_LIBRARIES)
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _dtypes(isa: str) -> dict[str, list[str]]:
    """What each backend computes in; nothing where it is not there."""
    from distilrt import _C
    from distilrt.backends import reference

    on_gpu = [] if why_not_cuda() else list(DTYPES)
    known = {"reference": list(reference.DTYPES), "cpu": _C.dtypes(isa), "cuda": on_gpu}
    return {name: known[name] for name in backends.NAMES}


def _describe(model: str, backend: str, dtype: str, threads: int | None) -> dict[str, Any]:
    place = find(Source(model))
    architecture = place.architecture()
    loaded = getattr(models, architecture).from_pretrained(
        place.source, backend=backend, dtype=dtype, num_threads=threads
    )
    config, limit = loaded.config, loaded.config.max_position_embeddings
    with suppress(OSError):  # there is no tokenizer
        limit = tasks.longest(place.tokenizer(), config)
    # A workspace is as large as the largest batch so far.
    loaded.backend.forward(pack(config, [[0] * config.max_position_embeddings]))
    sizes = ("num_layers", "hidden_size", "num_heads", "intermediate_size", "vocab_size", "max_position_embeddings")
    return {
        "name": model,
        "architecture": architecture,
        "parameters": loaded.num_parameters(),
        **{name: getattr(config, name) for name in sizes},
        "max_input_tokens": limit,
        "labels": config.label_names() if HEADS[architecture].has_labels else [],
        **loaded.backend.describe(),
        "faster_dtypes": faster(loaded.backend.describe()),
    }


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
