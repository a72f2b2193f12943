"""Which waiting sequences are computed together next: a token budget, priorities, ages and deadlines.

A plain data structure. It has no thread, no lock and no clock: the caller brings the time, in seconds of any clock that
never goes back, and calls from one thread at a time. It knows nothing of models, texts or futures.

A batch is whatever waits, up to a number of tokens (the policy of text-embeddings-inference's queue, which needs no
timer), with a bounded look for shorter sequences that fill what the next one leaves.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any

PRIORITIES = range(-10, 11)  # few, since each may fill a queue of its own
LOOK_AHEAD = 64  # sequences that don't fit and are passed over in one batch
MAX_AGE = 1.0  # seconds after which the longest waiting goes first, whatever its priority


class Waiting:
    """Sequences of one request, which may leave in several batches.

    Args:
        owner: whose they are, for the caller.
        lengths: tokens of each sequence, at least one, each at least 1.
        priority: one of `PRIORITIES`; a higher one goes first.
        deadline: the time at which those that still wait are given up; None: never.
    """

    __slots__ = ("alive", "arrived", "deadline", "left", "lengths", "number", "owner", "priority", "tokens")

    def __init__(self, owner: Any, lengths: Sequence[int], priority: int = 0, deadline: float | None = None) -> None:
        self.owner, self.lengths, self.priority, self.deadline = owner, lengths, priority, deadline
        self.tokens = sum(lengths)  # that wait
        self.left = len(lengths)  # sequences that wait
        self.alive = True
        self.arrived = 0.0
        self.number = 0


class Batcher:
    """The queue of an engine, in sequences. Its order: priority, then arrival; but see `MAX_AGE`.

    Attributes:
        max_batch_tokens: of a batch; a longer sequence gets a batch of its own.
        max_delay: seconds that a batch which isn't full may wait for more; 0: it never waits.
        tokens, sequences, requests: that wait now.
    """

    def __init__(self, max_batch_tokens: int, *, max_delay: float = 0.0) -> None:
        self.max_batch_tokens, self.max_delay = max_batch_tokens, max_delay
        self.tokens = self.sequences = self.requests = 0
        # A level is in arrival's order, and what was given up stays in it until its turn.
        self._levels: dict[int, deque[tuple[Waiting, int]]] = {}
        self._level_tokens: dict[int, int] = {}
        self._deadlines: list[tuple[float, int, Waiting]] = []
        self._numbers = count()

    def ahead(self, priority: int) -> int:
        """Tokens that would go before a request that came now, ages aside."""
        return sum(tokens for level, tokens in self._level_tokens.items() if level >= priority)

    def add(self, waiting: Waiting, now: float) -> None:
        """Queue a request's sequences."""
        waiting.arrived, waiting.number = now, next(self._numbers)
        level = self._levels.setdefault(waiting.priority, deque())
        level.extend((waiting, index) for index in range(waiting.left))
        self.requests += 1
        self._count(waiting, waiting.left, waiting.tokens)
        if waiting.deadline is not None:
            heapq.heappush(self._deadlines, (waiting.deadline, waiting.number, waiting))
            if len(self._deadlines) > 2 * self.requests + 64:  # most are of requests that left in time
                self._deadlines = [entry for entry in self._deadlines if entry[2].alive and entry[2].left]
                heapq.heapify(self._deadlines)

    def discard(self, waiting: Waiting) -> None:
        """Give up those of a request's sequences that still wait. Harmless where none does."""
        if waiting.alive and waiting.left:
            self.requests -= 1
            self._count(waiting, -waiting.left, -waiting.tokens)
        waiting.alive = False

    def expire(self, now: float) -> list[Waiting]:
        """Give up, and return, the requests with sequences that wait at or after their deadline."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            waiting = heapq.heappop(self._deadlines)[2]
            if waiting.alive and waiting.left:
                self.discard(waiting)
                expired.append(waiting)
        return expired

    def clear(self) -> list[Waiting]:
        """Give up, and return, every request with sequences that wait."""
        waiting = list({id(item): item for level in self._levels.values() for item, _ in level if item.alive}.values())
        for each in waiting:
            self.discard(each)
        return waiting

    def due(self) -> float | None:
        """When the next batch is to be taken: the time, maybe past; None: nothing waits."""
        if not self.sequences:
            return None
        heads = self._heads()
        oldest = min(level[0][0].arrived for level in heads.values())
        return oldest if self.tokens >= self.max_batch_tokens else oldest + self.max_delay

    def take(self, now: float) -> list[tuple[Waiting, int]]:
        """The next batch, as (request, number of its sequence); empty only where nothing waits."""
        batch: list[tuple[Waiting, int]] = []
        room = self.max_batch_tokens
        passed: list[tuple[Waiting, int]] = []
        while len(passed) < LOOK_AHEAD and (not batch or room > 0) and (heads := self._heads()):
            priority = self._first(heads, now)
            item = waiting, index = heads[priority].popleft()
            size = waiting.lengths[index]
            if batch and size > room:
                passed.append(item)
                continue
            batch.append(item)
            room -= size
            waiting.left -= 1
            self.requests -= not waiting.left
            self._count(waiting, -1, -size)
            waiting.tokens -= size
        for item in reversed(passed):
            self._levels.setdefault(item[0].priority, deque()).appendleft(item)
        return batch

    def _heads(self) -> dict[int, deque[tuple[Waiting, int]]]:
        """The levels with something that waits, each with such in front; what was given up before it is dropped."""
        for priority, level in list(self._levels.items()):
            while level and not level[0][0].alive:
                level.popleft()
            if not level:
                del self._levels[priority]
        return self._levels

    def _first(self, heads: dict[int, deque[tuple[Waiting, int]]], now: float) -> int:
        """The level whose turn it is."""
        if len(heads) == 1:
            return next(iter(heads))
        oldest = min(heads, key=lambda priority: heads[priority][0][0].number)
        return oldest if now - heads[oldest][0][0].arrived > MAX_AGE else max(heads)

    def _count(self, waiting: Waiting, sequences: int, tokens: int) -> None:
        self.sequences += sequences
        self.tokens += tokens
        left = self._level_tokens.get(waiting.priority, 0) + tokens
        if left:
            self._level_tokens[waiting.priority] = left
        else:
            self._level_tokens.pop(waiting.priority, None)
