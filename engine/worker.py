"""The compute thread of an engine: it takes batches from the queue, computes them, and hands answers out.

It knows requests as token ids and a function that makes an answer of the head's rows; texts and tasks are above it.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from distilrt.batcher import Batcher, Waiting
from distilrt.counters import Counters
from distilrt.errors import BackendError, DeadlineExceeded, NotReady, Overloaded

QUEUE_SECONDS = 0.2  # of computing, that may wait where no number of tokens is given
_MEMORY = 0.9  # how much of the measured rate the next full batch leaves

Compute = Callable[[list[list[int]], list[Any]], Sequence[Any]]  # sequences and their selections to the head's rows


class Timing(NamedTuple):
    """Where a request's time went, in seconds, and its size."""

    tokenize: float
    queue: float  # from when it was tokenized to the start of its first batch
    compute: float  # from there to the end of its last
    tokens: int


class Request(Future[Any]):
    """A request on its way: a future of its answer.

    Cancelling it takes what has not been computed out of the queue.

    Attributes:
        timing: where its time went; None until it is computed.
    """

    timing: Timing | None = None

    def __init__(
        self,
        task: str,
        sequences: list[list[int]],
        rows: list[Any],
        answer: Callable[[list[Any]], Any],
        *,
        keep: Callable[[Any], Any] = lambda rows: rows,
        priority: int = 0,
        deadline: float | None = None,
        tokenize_seconds: float = 0.0,
    ) -> None:
        """A request that is not queued yet.

        Args:
            task: its name, for the counters; empty: not to be counted.
            sequences: token ids, at least one sequence.
            rows: of each sequence, those that the head reads.
            answer: from the head's rows of all sequences, or what is kept of them, to the result.
            keep: from the head's rows of one sequence to what is kept of them.
            priority, deadline: as in `Waiting`; the clock is `time.monotonic`.
            tokenize_seconds: for `timing`.
        """
        super().__init__()
        self.task, self.sequences, self.rows, self.answer = task, sequences, rows, answer
        self.keep = keep
        self.outputs: list[Any] = [None] * len(sequences)
        self.left = len(sequences)  # not computed
        self.open = True  # nobody has decided yet how it ends
        self.waiting = Waiting(self, [len(ids) for ids in sequences], priority, deadline)
        self.worker: Worker | None = None
        self.tokenize_seconds, self.started = tokenize_seconds, 0.0

    def cancel(self) -> bool:
        """Give the request up; False where it already has its answer or is about to."""
        cancelled = super().cancel()
        if cancelled and self.worker is not None:
            self.worker.settle(self)
        return cancelled


class Worker:
    """The queue, its bound, the thread that empties it, and the counters.

    Args:
        compute: one batch, called from one thread.
        batcher: the queue, empty.
        max_queue_tokens: how many tokens may wait before a request that is let in; None: what is computed in
            `QUEUE_SECONDS`, at least two batches, and without end until that has been measured.
        name: of the threads.

    Attributes:
        counters: what happened so far.
        rate: tokens a second of batches at least half full; None until one was computed.
        failing: whether the last batch raised.
    """

    def __init__(self, compute: Compute, batcher: Batcher, *, max_queue_tokens: int | None, name: str) -> None:
        self.counters = Counters()
        self.rate: float | None = None
        self.failing = False
        self._compute, self._batcher, self._max_queue_tokens = compute, batcher, max_queue_tokens
        self._full_tokens = self._full_seconds = 0.0
        self._warm = False  # the first full batch also touches all weights and makes the workspace
        self._pid = os.getpid()
        self._closing = False
        self._turn = threading.Condition()
        # One batch may wait for its answers while the next is computed; then computing waits too.
        self._computed: queue.Queue[list[Request] | None] = queue.Queue(maxsize=1)
        # At exit the interpreter waits for other threads before anybody could close this.
        self._threads = [
            threading.Thread(target=target, name=f"{name}-{part}", daemon=True)
            for part, target in (("compute", self._work), ("answer", self._finish_all))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def open(self) -> bool:
        """Whether requests are taken."""
        return not self._closing and os.getpid() == self._pid

    @property
    def waiting(self) -> tuple[int, int, int]:
        """Requests, sequences and tokens in the queue."""
        return self._batcher.requests, self._batcher.sequences, self._batcher.tokens

    @property
    def max_queue_tokens(self) -> float:
        """How many tokens may wait before a request that is let in."""
        if self._max_queue_tokens is not None:
            return self._max_queue_tokens
        if self.rate is None:
            return float("inf")
        return max(2 * self._batcher.max_batch_tokens, int(QUEUE_SECONDS * self.rate))

    def admit(self, priority: int) -> None:
        """Refuse a request that can't be taken now.

        Raises:
            NotReady: closed, or another process.
            Overloaded: too much waits before it.
        """
        if os.getpid() != self._pid:
            raise NotReady("this process was forked from the one that made the engine, and its threads stayed there; "
                           "make an Engine here, after the fork")  # fmt: skip
        with self._turn:
            self._admit(priority)

    def enqueue(self, request: Request) -> None:
        """Queue a request.

        Raises:
            NotReady, Overloaded: as `admit`.
        """
        with self._turn:
            self._admit(request.waiting.priority)
            request.worker = self
            self._batcher.add(request.waiting, time.monotonic())
            self._turn.notify()

    def settle(self, request: Request) -> bool:
        """Decide how a request ends; True for the one caller who then must set its result or exception."""
        with self._turn:
            first, request.open = request.open, False
            self._batcher.discard(request.waiting)
        if not first:
            return False
        if request.set_running_or_notify_cancel():
            return True
        self._count(request, "cancelled")
        return False

    def close(self, drain: bool = True) -> None:
        """Take no more requests, and return when those taken have ended.

        Args:
            drain: compute what waits; else it fails with NotReady.
        """
        if os.getpid() != self._pid:
            return  # the threads are the parent's
        with self._turn:
            self._closing = True
            given_up = [] if drain else self._batcher.clear()
            self._turn.notify()
        for waiting in given_up:
            self._fail(waiting.owner, NotReady("the engine was closed before it came to this request"), "failed")
        if threading.current_thread() not in self._threads:  # of which one may drop the last reference to the engine
            for thread in self._threads:
                thread.join()

    def _admit(self, priority: int) -> None:
        if self._closing:
            raise NotReady("the engine is closed or closing and takes no more requests; send it to another one")
        ahead, most = self._batcher.ahead(priority), self.max_queue_tokens
        if ahead >= most:
            seconds = ahead / self.rate if self.rate else 1.0
            raise Overloaded(f"{ahead} tokens wait, and a request is taken while less than {most:.0f} do; "
                             f"try again in {seconds:.1f} seconds", seconds)  # fmt: skip

    def _work(self) -> None:
        while self._step():
            pass
        self._computed.put(None)

    def _step(self) -> bool:
        """One batch; False when there will be no more. A function of its own, so that its variables end with it."""
        expired: list[Waiting] = []
        batch: list[tuple[Waiting, int]] = []
        with self._turn:
            while not (expired or batch):
                now = time.monotonic()
                expired, due = self._batcher.expire(now), self._batcher.due()
                if due is None:
                    if self._closing and not expired:
                        return False
                    if not expired:
                        self._turn.wait()
                elif due <= now or self._closing:
                    batch = self._batcher.take(now)
                elif not expired:
                    self._turn.wait(due - now)
        for waiting in expired:
            self._fail(waiting.owner, DeadlineExceeded(
                f"the deadline passed after {now - waiting.arrived:.3f} seconds in the queue; give it more time, or "
                "send less at once"), "expired")  # fmt: skip
        if batch:
            self._run([(waiting.owner, index) for waiting, index in batch])
        return True

    def _run(self, batch: list[tuple[Request, int]]) -> None:
        start = time.monotonic()
        sequences = [request.sequences[index] for request, index in batch]
        for request, _ in batch:
            request.started = request.started or start
        try:
            outputs = self._compute(sequences, [request.rows[index] for request, index in batch])
            outputs = [request.keep(rows) for (request, _), rows in zip(batch, outputs, strict=True)]
        except Exception as cause:
            self.failing = True
            with self.counters.lock:
                self.counters.failed_batches += 1
            for request in {id(request): request for request, _ in batch}.values():
                self._fail(request, _because("a batch failed", cause), "failed")
            return
        self.failing = False
        end = time.monotonic()
        if any(request.task for request, _ in batch):
            self.counters.batch([len(ids) for ids in sequences], end - start)
        finished = []
        for (request, index), rows in zip(batch, outputs, strict=True):
            request.outputs[index] = rows
            request.left -= 1
            if not request.left:
                finished.append(request)
                tokens = sum(request.waiting.lengths)
                queued = request.started - request.waiting.arrived
                request.timing = Timing(request.tokenize_seconds, queued, end - request.started, tokens)
        # A thread more costs a switch, which pays only where there is something to compute meanwhile.
        if self._batcher.sequences:
            self._computed.put(finished)
        else:
            for request in finished:
                self._finish(request)
        self._measure(sum(map(len, sequences)), time.monotonic() - start)

    def _measure(self, tokens: int, seconds: float) -> None:
        if 2 * tokens < self._batcher.max_batch_tokens:
            return
        if self._warm:
            self._full_tokens = _MEMORY * self._full_tokens + tokens
            self._full_seconds = _MEMORY * self._full_seconds + seconds
            self.rate = self._full_tokens / max(self._full_seconds, 1e-9)
        self._warm = True

    def _finish_all(self) -> None:
        while (finished := self._computed.get()) is not None:
            while finished:
                self._finish(finished.pop(0))

    def _finish(self, request: Request) -> None:
        """Make the answer of a computed request and hand it out."""
        if not request.open:
            return
        try:
            answer = request.answer(request.outputs)
        except Exception as cause:
            self._fail(request, _because("the answer could not be made", cause), "failed")
            return
        request.outputs = []
        if self.settle(request):
            self._count(request, "answered")
            request.set_result(answer)

    def _fail(self, request: Request, error: Exception, outcome: str) -> None:
        if self.settle(request):
            self._count(request, outcome)
            request.set_exception(error)

    def _count(self, request: Request, outcome: str) -> None:
        if not request.task:
            return
        with self.counters.lock:
            self.counters.requests[request.task, outcome] += 1
            if outcome == "answered" and request.timing is not None:
                self.counters.tokenize_seconds.observe(request.timing.tokenize)
                self.counters.queue_seconds.observe(request.timing.queue)
                self.counters.compute_seconds.observe(request.timing.compute)
                self.counters.request_seconds.observe(sum(request.timing[:3]))


def _because(what: str, cause: Exception) -> BackendError:
    """An error of one request's own: raising an error in two threads would mix their tracebacks."""
    error = BackendError(f"{what}: {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error
