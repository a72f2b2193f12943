"""Small files of a checkpoint: JSON that is read, whoever wrote it, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from distilrt.errors import CheckpointError


def read_object(path: Path) -> dict[str, Any]:
    """The content of a JSON file that must hold an object.

    Raises:
        CheckpointError: as `read_value`, or it holds something else.
        OSError: it can't be read.
    """
    values = read_value(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, found {type(values).__name__}")
    return values


def read_value(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        CheckpointError: it is not UTF-8 or not JSON, is nested too deeply, or has text that no encoding can carry.
        OSError: it can't be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
        if "\\ud" in text.lower():  # half a surrogate pair could be neither saved nor sent
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    return values


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` once it is written and on the disk; a crash leaves the old one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
