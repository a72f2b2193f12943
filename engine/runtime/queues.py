"""The two queues of an engine behind one lock, inputs to be tokenized and sequences to be computed, and their bounds.

A request is let in once, before it is tokenized: `admit`. Once it is tokenized, `put` queues its sequences, whatever
waits. Both queues are a `Batcher`, so tokenizing is as fair as computing. Nothing here runs by itself:
`distilrt.runtime.worker` has the threads.
"""

from __future__ import annotations

import os
import threading
import time

from distilrt.errors import NotReady, Overloaded
from distilrt.runtime.batcher import PRIORITIES, Batcher
from distilrt.runtime.reading import PART
from distilrt.runtime.request import Request

QUEUE_SECONDS = 10.0  # default bound of the queue, in seconds of compute
LEAST_QUEUE = 2**15  # tokens that the default bound allows on any machine
QUEUE_MEMORY = 2**20  # tokens, about 130 MB; where so many wait, each client may hold its share of them and no more
CHARACTERS = 4  # of a token, about, as long as a text is not tokenized


class Queues:
    """The queues, who may enter them, and the next batch of each. Safe to call from many threads.

    Args:
        tokens: the queue of sequences, empty.
        max_queue_tokens: as in `Engine`.

    Attributes:
        tokens, texts: the queues; `texts` counts characters.
        rate: tokens computed in a second, as measured; None until then.
        reading: requests that were let in and are not tokenized.
    """

    def __init__(self, tokens: Batcher[Request], max_queue_tokens: int | None) -> None:
        self.tokens: Batcher[Request] = tokens
        self.texts: Batcher[Request] = Batcher(PART)
        self.rate: float | None = None
        self.reading: set[Request] = set()
        self._max_queue_tokens = max_queue_tokens
        self._pid = os.getpid()
        self._closing = False
        self._lock = threading.Lock()
        self._turns = {queue: threading.Condition(self._lock) for queue in (self.tokens, self.texts)}

    @property
    def open(self) -> bool:
        """Whether requests are taken."""
        return not self._closing and self.here

    @property
    def here(self) -> bool:
        """Whether this is the process that made the queues."""
        return os.getpid() == self._pid

    @property
    def max_queue_tokens(self) -> int:
        """How many tokens may wait before a request that is let in."""
        if self._max_queue_tokens is not None:
            return self._max_queue_tokens
        if self.rate is None:
            return QUEUE_MEMORY
        return min(max(LEAST_QUEUE, int(QUEUE_SECONDS * self.rate)), QUEUE_MEMORY)

    def admit(self, request: Request) -> None:
        """Let a request in, and queue the parts of its inputs, if it has parts.

        Raises:
            NotReady: closed, or another process.
            Overloaded: too much waits before it.
        """
        if not self.here:
            raise NotReady(
                "this process was forked from the one that made the engine, and its threads stayed there; "
                "make an Engine here, after the fork"
            )
        with self._lock:
            self._check(request)
            self.reading.add(request)
            if request.parts:
                costs = request.reading.costs
                self._put(request, self.texts, [sum(costs[part.start : part.stop]) for part in request.parts])

    def tokenized(self, request: Request, seconds: float) -> bool:
        """Note that a part of a request took so long; True with the last part of a request that has not ended."""
        with self._lock:
            request.tokenize_seconds += seconds
            request.unfinished -= 1
            return request.open and not request.unfinished

    def put(self, request: Request) -> None:
        """Queue the sequences of a request that was let in, unless it has ended."""
        with self._lock:
            if request.open:
                self._read(request)
                self._put(request, self.tokens, [len(ids) for ids in request.sequences])

    def settle(self, request: Request) -> bool:
        """Take what waits of a request out of the queues; True for the first caller, who decides how it ends."""
        with self._lock:
            first, request.open = request.open, False
            if first:
                self._read(request)
                if request.queue is not None:
                    request.queue.discard(request)
            return first

    def next(self, queue: Batcher[Request]) -> tuple[list[Request], list[tuple[Request, int]]] | None:
        """Wait for the next batch of a queue, or for requests in it that expired; None when there will be no more.

        Returns the expired requests and the batch, of which one may be empty.
        """
        turn = self._turns[queue]
        with self._lock:
            while True:
                now = time.monotonic()
                expired, due = queue.expire(now), queue.due()
                if due is not None and (due <= now or self._closing):
                    return expired, queue.take(now)
                if expired:
                    return expired, []
                if due is None and self._closing and not self.reading:
                    return None
                turn.wait(None if due is None else min(due, queue.first_deadline()) - now)

    def close(self, drain: bool) -> list[Request]:
        """Take no more requests, and without `drain` give up, and return, those that wait or are tokenized."""
        with self._lock:
            self._closing = True
            self._wake()
            return [] if drain else [*self.reading, *self.tokens.clear()]

    def _check(self, request: Request) -> None:
        """Raise NotReady or Overloaded, as `admit`."""
        if self._closing:
            raise NotReady("the engine is closed or closing and takes no more requests; send it to another one")
        client, ahead, most = request.client, self._ahead(request.priority), self.max_queue_tokens
        if ahead < min(most, QUEUE_MEMORY):
            return
        tokens = request.reading.cost // CHARACTERS
        clients = len({client, *self.tokens.clients(), *self.texts.clients()})
        own, held = self._ahead(request.priority, client), self._ahead(PRIORITIES[0], client)
        if clients * own >= most or (ahead >= QUEUE_MEMORY and clients * (held + tokens) > QUEUE_MEMORY):
            # A client's turn comes when its own are done and the others had as much each.
            seconds = min(ahead, clients * max(own, tokens)) / self.rate if self.rate else 1.0
            raise Overloaded(
                f"{ahead} tokens wait, and a request is taken while less than {most} do, or less than a client's "
                f"share; try again in {seconds:.1f} seconds",
                seconds,
            )

    def _ahead(self, priority: int, client: str | None = None) -> int:
        """Tokens that wait or will, at this priority and above, of one client or of all.

        A request that is being tokenized, by its caller or in parts, counts by its characters until its tokens wait.
        """
        characters = sum(
            each.reading.cost for each in self.reading if each.priority >= priority and client in (None, each.client)
        )
        return self.tokens.ahead(priority, client) + characters // CHARACTERS

    def _put(self, request: Request, queue: Batcher[Request], lengths: list[int]) -> None:
        request.wait(lengths)
        request.queue = queue
        queue.add(request, time.monotonic())
        self._turns[queue].notify()

    def _read(self, request: Request) -> None:
        """Note that a request is not tokenized any more, if it was."""
        self.reading.discard(request)
        if self._closing and not self.reading:
            self._wake()

    def _wake(self) -> None:
        for turn in self._turns.values():
            turn.notify_all()
