"""`distilrt distill`: from flags to a distillation. torch loads when the command runs."""

from __future__ import annotations

import inspect
import json
import os
from dataclasses import MISSING, fields
from typing import Annotated, Any, get_type_hints

import typer

from distilrt.distill.settings import Settings


def distill(more: list[str] | None, **given: Any) -> None:
    """Make a student of a BERT: half of its layers, trained by the triple loss to answer as the BERT does.

    Losses of every step go to stdout as JSON lines, and then what was written. A run that was stopped goes on where it
    was if the command is given again. Run it by torchrun for several GPUs.
    """
    corpus = [os.path.expanduser(path) for path in (*given["corpus"], *(more or ()))]
    settings = Settings(**given | {"corpus": corpus})
    try:
        from tqdm import tqdm

        from distilrt.distill.run import distil
    except ModuleNotFoundError as error:
        words = f"distillation needs more packages, {error.name} among them: pip install 'distilrt[distill]'"
        raise ImportError(words) from None
    with tqdm(unit=" steps", disable=None, delay=1) as bar:  # It shows nothing without a terminal.

        def show(row: dict[str, Any], steps: int) -> None:
            if bar.total is None:  # Where a run goes on, the steps before are no part of the time left.
                bar.initial = bar.n = row["step"] - 1
                bar.total = steps
            bar.update()
            print(json.dumps(row), flush=True)

        facts = distil(settings, show)
    if facts:
        print(json.dumps(facts))


def _signature() -> inspect.Signature:
    """A flag for each field of the settings, and the files behind --corpus that a shell's pattern gives."""
    hints, keyword = get_type_hints(Settings), inspect.Parameter.KEYWORD_ONLY
    more = Annotated[list[str] | None, typer.Argument(metavar="[FILE]…", help="More files of the corpus.")]
    flags = [inspect.Parameter("more", keyword, annotation=more, default=None)]
    for each in fields(Settings):
        hint: Any = hints[each.name]
        kind = Annotated[hint, typer.Option(help=each.metadata["help"])]
        default = inspect.Parameter.empty if each.default is MISSING else each.default
        flags.append(inspect.Parameter(each.name, keyword, annotation=kind, default=default))
    return inspect.Signature(flags)


distill.__signature__ = _signature()  # type: ignore[attr-defined]  # typer makes the flags of it
