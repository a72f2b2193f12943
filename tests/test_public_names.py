"""The public names, signatures, commands and options, as `golden/public_names.txt` lists them.

After a change that is meant: `python tests/test_public_names.py > tests/golden/public_names.txt`.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import typer.main

import distilrt
from distilrt import cli, errors

LIST = Path(__file__).parent / "golden" / "public_names.txt"
# What the documentation imports from modules.
MODULES = {
    "dropin.attention": ("attention", "attention_forward", "padding_mask"),
    "server.app": ("create_app",),
    "server.settings": ("Settings",),
}


def public_names() -> Iterator[str]:
    """One line for every name that users may rely on."""
    for name in distilrt.__all__:
        value = getattr(distilrt, name)
        own = getattr(value, "__name__", name)
        yield from [f"{name} = {own}"] if own != name and own in distilrt.__all__ else _described(name, value)
    for error in sorted(vars(errors).values(), key=str):
        if inspect.isclass(error) and issubclass(error, Exception):
            bases = ", ".join(base.__name__ for base in error.__mro__[1:-1])
            yield f"errors.{error.__name__}({bases})"
    for module, names in MODULES.items():
        for name in names:
            yield from _described(f"{module}.{name}", getattr(import_module(f"distilrt.{module}"), name))
    command: Any = typer.main.get_command(cli.app())
    for name, each in sorted(command.commands.items()):
        for parameter in each.params:
            spelled = parameter.name if isinstance(parameter, click.Argument) else "/".join(parameter.opts)
            yield f"distilrt {name} {spelled} = {parameter.default!r} {parameter.envvar or ''}".rstrip()


def _described(name: str, value: Any) -> Iterator[str]:
    if not callable(value):
        yield name
        return
    yield f"{name}{_parameters(value)}"
    if not inspect.isclass(value):
        return
    fields = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
    for attribute in sorted({*dir(value), *fields}):
        found = inspect.getattr_static(value, attribute, None)
        if attribute.startswith("_") or hasattr(object, attribute):
            continue
        if attribute in fields or isinstance(found, property) or not callable(getattr(value, attribute)):
            yield f"{name}.{attribute}"
        else:
            yield f"{name}.{attribute}{_parameters(getattr(value, attribute))}"


def _parameters(function: Any) -> str:
    """Names and defaults, without types."""
    parameters = inspect.signature(function).parameters.values()
    plain = [parameter.replace(annotation=parameter.empty) for parameter in parameters]
    return str(inspect.Signature(plain))


def test_public_names_stay() -> None:
    found, expected = list(public_names()), LIST.read_text().splitlines()
    changes = "\n".join(difflib.unified_diff(expected, found, "listed", "found", lineterm="", n=0))
    assert not changes, f"{changes}\nwhere this is meant, renew the list as this file's docstring says"


if __name__ == "__main__":
    print(*public_names(), sep="\n")
