"""How large an answer may be, where it has numbers of each token: a small body can ask for gigabytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distilrt.engine import Engine
from distilrt.server.errors import TooLarge

MOST_NUMBERS = 2**25  # in JSON, some hundreds of MB; in binary twice as many


def most_tokens(engine: Engine, item: Any) -> int:
    """As many tokens as a text, a pair as an object, or token ids may have: as if each character were one."""
    parts = item.values() if isinstance(item, Mapping) else [item]
    return min(int(engine.describe()["max_input_tokens"]), 3 + sum(map(len, parts)))


def check_answer(rows: int, width: int, binary: bool = False) -> None:
    """Refuse what would have too large an answer, `rows` times `width` numbers.

    Raises:
        TooLarge: more than is allowed.
    """
    most = 2 * MOST_NUMBERS if binary else MOST_NUMBERS
    if rows * width > most:
        raise TooLarge(f"the answer may have {rows * width} numbers, {width} for each of up to {rows} tokens; at most "
                       f"{most} are allowed, send fewer or shorter inputs at once")  # fmt: skip
