"""The threads of an engine: two tokenize long requests part by part, one computes batches, one hands answers out.

The way of a request: `submit` or `enqueue`, `_put` when it is tokenized, `_run` in one or more batches, `_finish`.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from distilrt.errors import BackendError, DeadlineExceeded, InvalidInput, NotReady, detached
from distilrt.runtime.batcher import Batcher
from distilrt.runtime.counters import Counters, Timing
from distilrt.runtime.queues import Queues
from distilrt.runtime.request import Request

_log = logging.getLogger("distilrt")

_READERS = 2  # threads that tokenize; one that has a single long text does not stop the others' texts
_MEMORY = 0.9  # how much of the measured rate the next full batch leaves

Compute = Callable[[list[list[int]], list[Any]], Sequence[Any]]  # sequences and their selections to the head's rows


class Worker:
    """The threads that empty the queues, and the counters.

    Args:
        compute: one batch, called from one thread.
        batcher: the queue of sequences, empty.
        max_queue_tokens: as in `Queues`.
        name: of the threads.

    Attributes:
        queues: what waits, and the measured rate: of batches at least half full.
        counters: what happened so far.
        failing: whether the last batch raised.
    """

    def __init__(self, compute: Compute, batcher: Batcher[Request], *, max_queue_tokens: int | None, name: str) -> None:
        self.queues = Queues(batcher, max_queue_tokens)
        self.counters = Counters()
        self.failing = False
        self._compute, self._full_batch = compute, batcher.max_batch_tokens
        self._full_tokens = self._full_seconds = 0.0
        self._warm = False  # the first full batch also touches all weights and makes the workspace
        # One batch may wait for its answers while the next is computed; then computing waits too.
        self._computed: queue.Queue[list[Request] | None] = queue.Queue(maxsize=1)
        # At exit the interpreter waits for other threads before anybody could close this.
        targets = [("compute", self._work), ("answer", self._finish_all), *[("tokenize", self._read)] * _READERS]
        self._threads = [
            threading.Thread(target=target, name=f"{name}-{part}", daemon=True) for part, target in targets
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, request: Request) -> None:
        """Let a request in, tokenize its inputs in this thread, and queue what they give.

        Raises:
            NotReady, Overloaded: as `Queues.admit`.
            Exception: as `Reading.tokenize`.
        """
        request.settle = self.settle
        self.queues.admit(request)
        start = time.monotonic()
        try:
            request.reading.tokenize(range(len(request.reading.costs)))
            request.tokenize_seconds = time.monotonic() - start
            self._put(request)
        except BaseException:
            self.queues.settle(request)
            raise

    def enqueue(self, request: Request) -> None:
        """Let a request in, and leave it to other threads to tokenize its inputs, part by part.

        Raises:
            NotReady, Overloaded: as `Queues.admit`.
        """
        request.settle = self.settle
        request.parts = request.reading.parts()
        request.unfinished = len(request.parts)
        self.queues.admit(request)
        if not request.parts:
            self._put(request)

    def settle(self, request: Request) -> bool:
        """Decide how a request ends; True for the one caller who then must set its result or exception."""
        if not self.queues.settle(request):
            return False
        if request.set_running_or_notify_cancel():
            return True
        self._count(request, "cancelled")
        return False

    def close(self, drain: bool = True, timeout: float | None = None) -> bool:
        """See `Engine.close`."""
        if not self.queues.here:
            return True  # the threads are the parent's
        for request in self.queues.close(drain):
            self._fail(request, NotReady("the engine was closed before it came to this request"), "failed")
        end = None if timeout is None else time.monotonic() + timeout
        if threading.current_thread() not in self._threads:  # of which one may drop the last reference to the engine
            for thread in self._threads:
                thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _step(self, batcher: Batcher[Request], run: Callable[[list[tuple[Request, int]]], None]) -> bool:
        """One batch; False when there will be no more. A function of its own, so that its variables end with it."""
        found = self.queues.next(batcher)
        if found is None:
            return False
        expired, batch = found
        for request in expired:
            seconds = time.monotonic() - request.created
            message = f"the deadline passed after {seconds:.3f} seconds in the queue"
            self._fail(request, DeadlineExceeded(f"{message}; give it more time, or send less at once"), "expired")
        if batch:
            run(batch)
        return True

    def _read(self) -> None:
        while self._step(self.queues.texts, self._tokenize):
            pass

    def _tokenize(self, batch: list[tuple[Request, int]]) -> None:
        for request, index in batch:
            if request.open:  # a client that hung up meanwhile costs nothing more
                self._tokenize_part(request, index)

    def _tokenize_part(self, request: Request, index: int) -> None:
        start = time.monotonic()
        try:
            request.reading.tokenize(request.parts[index])
            if self.queues.tokenized(request, time.monotonic() - start):
                self._put(request)
        except InvalidInput as error:
            self._fail(request, detached(error), "invalid")
        except Exception as cause:
            self._fail(request, because("the inputs could not be tokenized", cause), "failed")

    def _put(self, request: Request) -> None:
        """Queue what the inputs of a request gave; where that is nothing, the answer is there."""
        request.sequences, request.rows = request.reading.sequences()
        request.unfinished = len(request.sequences)
        request.outputs = [None] * request.unfinished
        if request.sequences:
            self.queues.put(request)
        else:
            self._finish(request)

    def _work(self) -> None:
        while self._step(self.queues.tokens, self._run):
            pass
        self._computed.put(None)

    def _run(self, batch: list[tuple[Request, int]]) -> None:
        start = time.monotonic()
        sequences = [request.sequences[index] for request, index in batch]
        for request, _ in batch:
            request.started = request.started or start
        try:
            outputs = self._compute(sequences, [request.rows[index] for request, index in batch])
            outputs = [request.reading.keep(rows) for (request, _), rows in zip(batch, outputs, strict=True)]
        except Exception as cause:
            self.failing = True
            with self.counters.lock:
                self.counters.failed_batches += 1
            for request in {id(request): request for request, _ in batch}.values():
                self._fail(request, because("a batch failed", cause), "failed")
            return
        self.failing = False
        end = time.monotonic()
        if any(request.reading.task for request, _ in batch):
            self.counters.batch([len(ids) for ids in sequences], end - start)
        finished = []
        for (request, index), rows in zip(batch, outputs, strict=True):
            request.outputs[index] = rows
            request.unfinished -= 1
            if not request.unfinished:
                finished.append(request)
                queued = request.started - request.created - request.tokenize_seconds
                tokens = sum(request.lengths)
                request.timing = Timing(request.tokenize_seconds, queued, end - request.started, tokens)
        # A thread more costs a switch, which pays only where there is something to compute meanwhile.
        if self.queues.tokens.sequences:
            self._computed.put(finished)
        else:
            for request in finished:
                self._finish(request)
        self._measure(sum(map(len, sequences)), time.monotonic() - start)

    def _measure(self, tokens: int, seconds: float) -> None:
        if 2 * tokens < self._full_batch:
            return
        if self._warm:
            self._full_tokens = _MEMORY * self._full_tokens + tokens
            self._full_seconds = _MEMORY * self._full_seconds + seconds
            self.queues.rate = self._full_tokens / max(self._full_seconds, 1e-9)
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
            answer = request.reading.answer(request.outputs)
        except Exception as cause:
            self._fail(request, because("the answer could not be made", cause), "failed")
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
        if request.reading.task:
            self.counters.request(request.reading.task, outcome, request.timing if outcome == "answered" else None)


def because(what: str, cause: Exception) -> BackendError:
    """What a caller is told of an error in the engine's own code. Each request gets an error of its own, since raising
    one in two threads would mix their tracebacks."""
    _log.error("%s", what, exc_info=cause)  # where it happened is lost with the traceback
    error = BackendError(f"{what}: {type(cause).__name__}: {cause}")
    error.__cause__ = detached(cause)
    return error
