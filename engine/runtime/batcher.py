"""Which waiting sequences are computed together next: a token budget, fairness, priorities, ages and deadlines.

A plain data structure. It has no thread, no lock and no clock: the caller brings the time, in seconds of any clock that
never goes back, and calls from one thread at a time. It knows nothing of models, texts or futures.

A batch is whatever waits, up to a number of tokens (the policy of text-embeddings-inference's queue, which needs no
timer), with a bounded look for shorter sequences that fill what the next one leaves. Clients share each priority by
fair queueing: the client that was served the fewest tokens goes next. One that was away starts a batch before the
average of those who wait, so that it goes first, but nobody saves up turns. The requests of one client, which may stand
for many behind a proxy, go in the order in which they would be done if they shared its turns evenly: those of up to a
batch keep their order and pass larger ones, and none is done later than by even shares.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Generic, TypeVar

PRIORITIES = range(-10, 11)  # few, since each may fill a queue of its own
LOOK_AHEAD = 64  # sequences that don't fit and are passed over in one batch
MAX_AGE = 1.0  # seconds after which a priority that was not served begins a batch, whatever waits above it


class Waiting:
    """A request in the queue: the sequences of it that wait, which may leave in several batches.

    Args:
        lengths: tokens of each sequence, each at least 1.
        priority: one of `PRIORITIES`; a higher one goes first.
        deadline: the time at which those that still wait are given up; None: never.
        client: who sent the request; clients share the queue fairly.
    """

    def __init__(
        self, lengths: Sequence[int], priority: int = 0, deadline: float | None = None, client: str = ""
    ) -> None:
        self.priority, self.deadline, self.client = priority, deadline, client
        self.arrived = 0.0
        self.finish = 0.0  # the time, on its client's clock, at which even shares would have served it
        self.number = 0
        self.wait(lengths)

    def wait(self, lengths: Sequence[int]) -> None:
        """Have these sequences wait; at least one when the request is queued."""
        self.lengths = lengths
        self.tokens = sum(lengths)  # that wait
        self.pending = deque(range(len(lengths)))  # the sequences that wait

    @property
    def left(self) -> int:
        """How many sequences wait."""
        return len(self.pending)


_Request = TypeVar("_Request", bound=Waiting)


class _Flow(Generic[_Request]):
    """The requests of one client at one priority that wait.

    Attributes:
        waiting: the requests by number.
        heap: times at which even shares would have served them, with their numbers. Those of requests that were given
            up stay until they are in front or many, so that giving up costs little; the one in front always waits.
        clock: tokens that a request which always waited would have got by even shares.
        served: tokens, and those that others were served on average while this client was away.
        tokens: how many wait.
    """

    __slots__ = ("client", "clock", "heap", "served", "tokens", "waiting")

    def __init__(self, client: str) -> None:
        self.client = client
        self.waiting: dict[int, _Request] = {}
        self.heap: list[tuple[float, int]] = []
        self.clock = self.served = 0.0
        self.tokens = 0

    @property
    def first(self) -> _Request:
        """The request that goes first."""
        return self.waiting[self.heap[0][1]]

    def push(self, waiting: _Request) -> None:
        """Have a request wait."""
        self.waiting[waiting.number] = waiting
        heapq.heappush(self.heap, (waiting.finish, waiting.number))

    def remove(self, waiting: _Request) -> None:
        """Note that a request does not wait any more."""
        del self.waiting[waiting.number]
        while self.heap and self.heap[0][1] not in self.waiting:
            heapq.heappop(self.heap)
        if len(self.heap) > 2 * len(self.waiting) + 64:
            self.heap = [entry for entry in self.heap if entry[1] in self.waiting]
            heapq.heapify(self.heap)


class _Level(Generic[_Request]):
    """What waits at one priority.

    Attributes:
        heap: the flows with something that waits, by how much they were served.
        served: tokens that a client which always waited was served on average.
        since: when this priority was last served, or began to wait.
    """

    def __init__(self, now: float, batch: int) -> None:
        self.flows: dict[str, _Flow[_Request]] = {}
        self.heap: list[tuple[float, int, _Flow[_Request]]] = []
        self.served = 0.0
        self.tokens = 0
        self.since = now
        self._batch = batch  # tokens of a full one

    def add(self, waiting: _Request) -> None:
        flow = self.flows.get(waiting.client)
        if flow is None:
            if len(self.flows) > 2 * len(self.heap) + 64:  # most have left, and start anew if they come again
                start = self.served - self._batch
                self.flows = {name: each for name, each in self.flows.items() if each.waiting or each.served > start}
            flow = self.flows[waiting.client] = _Flow(waiting.client)
        waiting.finish = flow.clock + max(waiting.tokens, self._batch)
        flow.push(waiting)
        flow.tokens += waiting.tokens
        self.tokens += waiting.tokens
        if len(flow.waiting) == 1:
            flow.served = max(flow.served, self.served - self._batch)
            heapq.heappush(self.heap, (flow.served, waiting.number, flow))

    def remove(self, waiting: _Request) -> None:
        """Forget a request that was just given up."""
        flow = self.flows[waiting.client]
        flow.remove(waiting)
        flow.tokens -= waiting.tokens
        self.tokens -= waiting.tokens
        if not flow.waiting:
            self.heap = [entry for entry in self.heap if entry[2] is not flow]
            heapq.heapify(self.heap)

    def pop(self) -> tuple[_Flow[_Request], _Request, int]:
        """The next sequence of the flow in front, which then goes where `settle` puts it."""
        flow = self.heap[0][2]
        waiting = flow.first
        index = waiting.pending.popleft()
        if not waiting.pending:
            flow.remove(waiting)
        return flow, waiting, index

    def settle(self, flow: _Flow[_Request]) -> None:
        """Put the flow in front where it belongs now."""
        if flow.waiting:
            heapq.heapreplace(self.heap, (flow.served, flow.first.number, flow))
        else:
            heapq.heappop(self.heap)

    def put_back(self, flow: _Flow[_Request], waiting: _Request, index: int) -> None:
        """Undo `pop`, of the last one first."""
        if not flow.waiting:
            heapq.heappush(self.heap, (flow.served, waiting.number, flow))
        if not waiting.pending:
            flow.push(waiting)
        waiting.pending.appendleft(index)


class Batcher(Generic[_Request]):
    """The queue of an engine, in sequences. Its order: priority, but see `MAX_AGE`; then the client served least; then
    the request that even shares would serve first.

    Attributes:
        max_batch_tokens: of a batch; a longer sequence gets a batch of its own.
        max_delay: seconds that a batch which isn't full may wait for more; 0: it never waits.
        tokens, sequences, requests: that wait now.
    """

    def __init__(self, max_batch_tokens: int, *, max_delay: float = 0.0) -> None:
        self.max_batch_tokens, self.max_delay = max_batch_tokens, max_delay
        self.tokens = self.sequences = self.requests = 0
        self._levels: dict[int, _Level[_Request]] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._timed: dict[int, _Request] = {}  # those with a deadline, by number
        self._numbers = count()

    def ahead(self, priority: int, client: str | None = None) -> int:
        """Tokens that wait at this priority and above: of one client, or of all."""
        levels = [level for found, level in self._levels.items() if found >= priority]
        if client is None:
            return sum(level.tokens for level in levels)
        return sum(level.flows[client].tokens for level in levels if client in level.flows)

    def clients(self) -> set[str]:
        """The clients with something that waits."""
        return {flow.client for flow in self._flows()}

    def add(self, waiting: _Request, now: float) -> None:
        """Queue a request's sequences."""
        waiting.arrived, waiting.number = now, next(self._numbers)
        level = self._levels.get(waiting.priority)
        if level is None:
            level = self._levels[waiting.priority] = _Level(now, self.max_batch_tokens)
        level.add(waiting)
        self.requests += 1
        self.sequences += waiting.left
        self.tokens += waiting.tokens
        if waiting.deadline is not None:
            self._timed[waiting.number] = waiting
            heapq.heappush(self._deadlines, (waiting.deadline, waiting.number))
            if len(self._deadlines) > 2 * self.requests + 64:  # most are of requests that left in time
                self._deadlines = [entry for entry in self._deadlines if entry[1] in self._timed]
                heapq.heapify(self._deadlines)

    def discard(self, waiting: _Request) -> None:
        """Give up those of a request's sequences that still wait. Harmless where none does."""
        if not waiting.pending:
            return
        self.requests -= 1
        self.sequences -= waiting.left
        self.tokens -= waiting.tokens
        self._timed.pop(waiting.number, None)
        waiting.pending.clear()
        level = self._levels[waiting.priority]
        level.remove(waiting)
        if not level.heap:
            del self._levels[waiting.priority]

    def first_deadline(self) -> float:
        """A time before which no request expires."""
        return self._deadlines[0][0] if self._deadlines else math.inf

    def expire(self, now: float) -> list[_Request]:
        """Give up, and return, the requests with sequences that wait at or after their deadline."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            waiting = self._timed.get(heapq.heappop(self._deadlines)[1])
            if waiting is not None:
                self.discard(waiting)
                expired.append(waiting)
        return expired

    def clear(self) -> list[_Request]:
        """Give up, and return, every request with sequences that wait."""
        everything = [waiting for flow in self._flows() for waiting in flow.waiting.values()]
        for waiting in everything:
            self.discard(waiting)
        return everything

    def due(self) -> float | None:
        """When the next batch is to be taken: the time, maybe past; None: nothing waits."""
        if not self.sequences:
            return None
        if self.tokens >= self.max_batch_tokens or not self.max_delay:
            return min(flow.first.arrived for flow in self._flows())
        return self.max_delay + min(waiting.arrived for flow in self._flows() for waiting in flow.waiting.values())

    def take(self, now: float) -> list[tuple[_Request, int]]:
        """The next batch, as (request, number of its sequence); empty only where nothing waits.

        Once several clients share a batch, one that was served half a batch more than the first waits for the next:
        who asks for little is not to wait for others' long sequences twice.
        """
        batch: list[tuple[_Request, int]] = []
        room = self.max_batch_tokens
        passed: list[tuple[_Level[_Request], _Flow[_Request], _Request, int]] = []
        for level in self._order(now):
            start, clients, before, inside = level.heap[0][0], len(level.heap), level.tokens, set()
            while level.heap and len(passed) < LOOK_AHEAD and (not batch or room > 0):
                flow = level.heap[0][2]
                if flow.served > start + self.max_batch_tokens // 2 and flow not in inside:
                    break
                _, waiting, index = level.pop()
                size = waiting.lengths[index]
                if batch and size > room:
                    passed.append((level, flow, waiting, index))
                else:
                    batch.append((waiting, index))
                    room -= size
                    inside.add(flow)
                    self._leave(level, flow, waiting, size)
                level.settle(flow)
            if inside:
                level.served += (before - level.tokens) / clients
                level.since = now
        for level, flow, waiting, index in reversed(passed):
            level.put_back(flow, waiting, index)
        self._levels = {priority: level for priority, level in self._levels.items() if level.heap}
        return batch

    def _flows(self) -> Iterator[_Flow[_Request]]:
        """Those with something that waits."""
        return (flow for level in self._levels.values() for _, _, flow in level.heap)

    def _leave(self, level: _Level[_Request], flow: _Flow[_Request], waiting: _Request, size: int) -> None:
        flow.served += size
        flow.clock += size / (len(flow.waiting) + (not waiting.pending))
        for counted in (flow, level, waiting, self):
            counted.tokens -= size
        self.sequences -= 1
        if not waiting.tokens:
            self.requests -= 1
            self._timed.pop(waiting.number, None)

    def _order(self, now: float) -> list[_Level[_Request]]:
        """The levels as they fill a batch."""
        levels = [self._levels[priority] for priority in sorted(self._levels, reverse=True)]
        if len(levels) > 1:
            patient = min(levels, key=lambda level: level.since)
            if now - patient.since > MAX_AGE:
                levels.remove(patient)
                levels.insert(0, patient)
        return levels
