"""Limits of answers whose size the body does not bound: a small body can ask for gigabytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from distilrt import tasks
from distilrt.errors import TooLarge
from distilrt.runtime.engine import Engine

MOST_NUMBERS = 2**25  # in JSON, some hundreds of MB; in binary twice as many
MOST_ENTRIES = 2**20  # objects of a few fields; hundreds of MB until they are JSON
MOST_CANDIDATES = 2**15  # so that a mask in a short text may have the whole vocabulary


def most_tokens(engine: Engine, item: Any, prompt: str = "") -> int:
    """An upper bound of the tokens of a text, a pair as an object, or token ids: one for each character."""
    parts = item.values() if isinstance(item, Mapping) else [item]
    characters = sum(len(part) for part in (*parts, prompt) if isinstance(part, str | list))
    return min(tasks.longest(engine.tokenizer, engine.model.config), 3 + characters)


def check_answer(rows: int, width: int, binary: bool = False) -> None:
    """Refuse a request whose answer would have too many numbers, `rows` times `width`.

    Raises:
        TooLarge: more than is allowed.
    """
    most = 2 * MOST_NUMBERS if binary else MOST_NUMBERS
    if rows * width > most:
        raise TooLarge(
            f"the answer may have {rows * width} numbers, {width} for each of up to {rows} tokens; at most "
            f"{most} are allowed, send fewer or shorter inputs at once"
        )


def check_entries(entries: int) -> None:
    """Refuse a request whose answer has too many entries, which are labels of texts or weights of tokens.

    Raises:
        TooLarge: more than are allowed.
    """
    if entries > MOST_ENTRIES:
        raise TooLarge(
            f"the answer has {entries} entries or more, at most {MOST_ENTRIES} are allowed; send fewer or "
            "shorter inputs at once"
        )


def check_candidates(task: str, texts: Iterable[tuple[str, int]], top_k: Any) -> None:
    """Refuse to list too many candidates, `top_k` for each of the places in some texts. One costs the more, the longer
    its text: it is read in windows, or written out with each candidate.

    Raises:
        TooLarge: more than are allowed.
    """
    top_k = tasks.find(task).params["top_k"].default if top_k is None else top_k
    places = sum(number * (1 + len(text) // 256) for text, number in texts)
    if type(top_k) is int and top_k > 0 and places > MOST_CANDIDATES:
        raise TooLarge(
            f"the inputs have {places} places for candidates, each counted again for every 256 characters "
            f"of its text; at most {MOST_CANDIDATES} are allowed, send fewer or shorter inputs"
        )
    if type(top_k) is int and places * top_k > MOST_CANDIDATES:
        raise TooLarge(
            f"top_k must be at most {MOST_CANDIDATES // places} for inputs of this number and length, found "
            f"{top_k}; send fewer or shorter ones at once"
        )
