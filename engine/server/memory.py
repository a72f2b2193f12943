"""The memory that the bodies of all requests may take together, and its return to the system."""

from __future__ import annotations

import asyncio
import ctypes
from collections import Counter
from contextlib import suppress

_TRIM_SECONDS = 1.0  # between returns of free memory, each of which stops allocations for some milliseconds


class Budget:
    """Bytes that bodies may hold together; a body that finds none left waits to be read.

    One client holds at most half, so that no client waits because of a single other one. Of the clients that wait, the
    one that holds the fewest bytes goes first.

    Args:
        total: bytes; a single body counts as at most half of them.
    """

    def __init__(self, total: int) -> None:
        self._most, self._free = total // 2, total
        self._held: Counter[str] = Counter()
        self._waiting: list[tuple[asyncio.Future[None], str, int]] = []
        self._trimming: asyncio.TimerHandle | None = None

    async def take(self, client: str, size: int) -> int:
        """Wait for so many bytes; returns how many were taken, to be given back."""
        size = min(size, self._most)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, client, size))
        self._next()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # its turn had just come
                self.give(client, size)
            raise
        return size

    def give(self, client: str, size: int) -> None:
        """Give bytes back; soon afterwards the process gives the system what is free."""
        self._free += size
        self._held[client] -= size
        self._held = +self._held
        self._next()
        if self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(_TRIM_SECONDS, self._trim)

    def _next(self) -> None:
        self._waiting = [each for each in self._waiting if not each[0].done()]
        while fit := [each for each in self._waiting if self._held[each[1]] + each[2] <= self._most]:
            chosen = min(fit, key=lambda each: self._held[each[1]])
            turn, client, size = chosen
            if size > self._free:
                return
            self._waiting.remove(chosen)
            self._free -= size
            self._held[client] += size
            turn.set_result(None)

    def _trim(self) -> None:
        self._trimming = None
        asyncio.get_running_loop().run_in_executor(None, _trim)


def _trim() -> None:
    """Return free pages of the heap to the system, which glibc keeps for itself."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
