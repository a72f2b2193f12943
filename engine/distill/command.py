"""`distilrt distill`: from flags to a distillation. torch loads when the command runs."""

from __future__ import annotations

import inspect
import json
import os
from contextlib import ExitStack
from dataclasses import MISSING, fields
from typing import Annotated, Any, get_type_hints

import typer

from distilrt.distill.settings import Settings


def distill(more: list[str] | None, **given: Any) -> None:
    """Make a student of a BERT: half of its layers, trained by the triple loss to answer as the BERT does.

    Losses of every step go to stdout as JSON lines, and then what was written. A run that was stopped goes on where it
    was if the command is given again. Run it by torchrun for several GPUs.
    """
    settings = Settings(**given | {"corpus": (*given["corpus"], *(more or ()))})
    try:
        from tqdm import tqdm

        from distilrt.distill.run import distil
    except ModuleNotFoundError as error:
        raise ImportError(
            f"distillation needs more packages, {error.name} among them: pip install 'distilrt[distill]'"
        ) from None

    with ExitStack() as stack:
        bar: Any = None

        def show(row: dict[str, Any], steps: int) -> None:
            nonlocal bar
            if bar is None:  # Where a run goes on, the steps before are no part of the time left.
                bar = stack.enter_context(tqdm(total=steps, initial=row["step"] - 1, unit=" steps", disable=None))
            bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
            bar.update()
            print(json.dumps(row), flush=True)

        facts = distil(settings, show)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(facts))


def _signature() -> inspect.Signature:
    """A flag for each field of the settings, and the files behind --corpus that a shell's pattern gives."""
    hints = get_type_hints(Settings)
    files = typer.Argument(metavar="[FILE]…", help="More files of the corpus.", show_default=False)
    flags = [_parameter("more", Annotated[list[str] | None, files], None)]
    for each in fields(Settings):
        kind = list[str] if each.name == "corpus" else hints[each.name]
        default = inspect.Parameter.empty if each.default is MISSING else each.default
        flags.append(_parameter(each.name, Annotated[kind, typer.Option(help=each.metadata["help"])], default))
    return inspect.Signature(flags)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


distill.__signature__ = _signature()  # type: ignore[attr-defined]  # of which typer makes the flags
