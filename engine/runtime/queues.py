"""The two queues of an engine behind one lock, texts to be tokenized and sequences to be computed, and their bounds.

Both are a `Batcher`, so tokenizing is as fair as computing. Nothing here runs by itself: `distilrt.runtime.worker` has
the threads.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Literal

from distilrt.errors import NotReady, Overloaded
from distilrt.runtime.batcher import PRIORITIES, Batcher
from distilrt.runtime.request import Request

QUEUE_SECONDS = 10.0  # default bound of the queue, in seconds of compute
LEAST_QUEUE = 2**15  # tokens that the default bound allows on any machine
QUEUE_MEMORY = 2**20  # tokens, about 130 MB; where so many wait, each client may hold its share of them and no more
PART = 16384  # characters that are tokenized at a time, in some 10 ms
CHARACTERS = 4  # of a token, about, as long as a text is not tokenized

Kind = Literal["texts", "tokens"]


class Queues:
    """The queues, who may enter them, and the next batch of each. Safe to call from many threads.

    Args:
        tokens: the queue of sequences, empty.
        max_queue_tokens: how many tokens may wait before a request that is let in; None: what is computed in
            `QUEUE_SECONDS` as measured, from `LEAST_QUEUE` to `QUEUE_MEMORY`. A client that has less than its share of
            these in the queue is let in all the same.

    Attributes:
        tokens, texts: the queues; `texts` counts characters.
        rate: tokens computed in a second, as measured; None until then.
        reading: requests that were let in and are not tokenized.
    """

    def __init__(self, tokens: Batcher, max_queue_tokens: int | None) -> None:
        self.tokens, self.texts = tokens, Batcher(PART)
        self.rate: float | None = None
        self.reading: set[Request] = set()
        self._max_queue_tokens = max_queue_tokens
        self._pid = os.getpid()
        self._closing = False
        self._lock = threading.Lock()
        self._turns = {kind: threading.Condition(self._lock) for kind in ("tokens", "texts")}

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

    def admit(self, priority: int, client: str = "", tokens: int = 0) -> None:
        """Refuse a request that can't be taken now.

        Args:
            priority, client: the request's.
            tokens: about how many it has.

        Raises:
            NotReady: closed, or another process.
            Overloaded: too much waits before it.
        """
        if not self.here:
            raise NotReady("this process was forked from the one that made the engine, and its threads stayed there; "
                           "make an Engine here, after the fork")  # fmt: skip
        with self._lock:
            self._admit(priority, client, tokens)

    def enqueue(self, request: Request) -> None:
        """Queue a request for computing, or for tokenizing first where it has texts.

        Raises:
            NotReady, Overloaded: as `admit`.
        """
        with self._lock:
            waiting = request.waiting
            if request.texts is None:
                self._admit(request.priority, request.client, waiting.tokens)
                self._put(request, "tokens")
            else:
                self._admit(request.priority, request.client, waiting.tokens // CHARACTERS)
                self.reading.add(request)
                self._put(request, "texts")

    def tokenized(self, request: Request, index: int, found: object, seconds: float) -> bool:
        """Note what a part of a request's texts gave. With the last one the request is queued for computing, whatever
        waits, since it was let in with its texts; True where it has nothing to be computed.
        """
        with self._lock:
            request.tokenize_seconds += seconds
            request.found[index] = found
            request.left -= 1
            if request.left or not request.open:
                return False
            assert request.texts is not None
            request.fill(*request.texts.join(request.found))
            self._read(request)
            if request.sequences:
                self._put(request, "tokens")
            return not request.sequences

    def settle(self, request: Request) -> bool:
        """Take what waits of a request out of the queues; True for the first caller, who decides how it ends."""
        with self._lock:
            first, request.open = request.open, False
            if first and request in self.reading:
                self._read(request)
            if request.queue is not None:
                request.queue.discard(request.waiting)
            request.waiting.owner = (
                None  # else both held each other, and all texts, until the garbage collector comes by
            )
            return first

    def next(self, kind: Kind) -> tuple[list[Request], list[tuple[Request, int]]] | None:
        """The requests that expired, and the next batch, one of which is not empty; None when there will be no more. It
        waits for that.
        """
        queue, turn = getattr(self, kind), self._turns[kind]
        with self._lock:
            while True:
                now = time.monotonic()
                expired, due = [waiting.owner for waiting in queue.expire(now)], queue.due()
                if due is not None and (due <= now or self._closing):
                    return expired, [(waiting.owner, index) for waiting, index in queue.take(now)]
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
            return [] if drain else [*self.reading, *(waiting.owner for waiting in self.tokens.clear())]

    def _admit(self, priority: int, client: str, tokens: int) -> None:
        if self._closing:
            raise NotReady("the engine is closed or closing and takes no more requests; send it to another one")
        ahead, most = self._ahead(priority), self.max_queue_tokens
        if ahead < min(most, QUEUE_MEMORY):
            return
        clients = len({client, *self.tokens.clients(), *self.texts.clients()})
        own, held = self._ahead(priority, client), self._ahead(PRIORITIES[0], client)
        if clients * own >= most or (ahead >= QUEUE_MEMORY and clients * (held + tokens) > QUEUE_MEMORY):
            # A client's turn comes when its own are done and the others had as much each.
            seconds = min(ahead, clients * max(own, tokens)) / self.rate if self.rate else 1.0
            raise Overloaded(f"{ahead} tokens wait, and a request is taken while less than {most} do, or less than a "
                             f"client's share; try again in {seconds:.1f} seconds", seconds)  # fmt: skip

    def _ahead(self, priority: int, client: str | None = None) -> int:
        """Tokens that wait at this priority and above, of one client or of all; about, where they are texts."""
        return self.tokens.ahead(priority, client) + self.texts.ahead(priority, client) // CHARACTERS

    def _put(self, request: Request, kind: Kind) -> None:
        request.queue = getattr(self, kind)
        request.queue.add(request.waiting, time.monotonic())
        self._turns[kind].notify()

    def _read(self, request: Request) -> None:
        self.reading.remove(request)
        if self._closing and not self.reading:
            self._wake()

    def _wake(self) -> None:
        for turn in self._turns.values():
            turn.notify_all()
