"""The lines of a corpus's files, which must be text."""

from __future__ import annotations

from collections.abc import Iterator

from distilrt.errors import InvalidInput

_LONGEST = 65536  # characters; a longer line is read in parts


def lines_of(path: str) -> Iterator[tuple[int, str]]:
    """The number of each line, and the line without the space around it.

    Raises:
        OSError: the file can't be read.
        InvalidInput: it is not UTF-8, or has a zero byte.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST), ""), 1):
                if "\0" in line:
                    raise InvalidInput(f"{path} is no text: line {number} has a zero byte; give UTF-8 text files")
                yield number, line.strip()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is no UTF-8 text: {error}; convert it, or leave it out of the corpus") from None
