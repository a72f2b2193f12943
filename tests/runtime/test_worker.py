"""The compute thread with computing that the test holds in its hands: order, failures, cancelling, closing."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest

from distilrt.errors import BackendError, DeadlineExceeded, NotReady, Overloaded
from distilrt.runtime.batcher import Batcher
from distilrt.runtime.queues import CHARACTERS, LEAST_QUEUE, QUEUE_MEMORY, QUEUE_SECONDS
from distilrt.runtime.reading import Reading
from distilrt.runtime.request import Request
from distilrt.runtime.worker import Worker

PATIENCE = 60  # seconds, for what takes milliseconds


class Computing:
    """Computes a sequence to its sum, but only as many batches as are let through."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.batches: list[list[list[int]]] = []

    def __call__(self, sequences: list[list[int]], rows: list[Any]) -> list[int]:
        self.batches.append(sequences)
        self.entered.release()
        assert self.gate.acquire(timeout=PATIENCE)
        if any(0 in ids for ids in sequences):
            raise ZeroDivisionError("a zero")
        return [sum(ids) for ids in sequences]

    def let(self, batches: int = 1) -> None:
        for _ in range(batches):
            self.gate.release()

    def busy(self) -> None:
        """Wait until one more batch is being computed."""
        assert self.entered.acquire(timeout=PATIENCE)


@pytest.fixture
def computing() -> Computing:
    return Computing()


@pytest.fixture
def make(computing: Computing) -> Iterator[Callable[..., Worker]]:
    made = []

    def worker(max_queue_tokens: int | None = 1000, max_batch_tokens: int = 10, **options: Any) -> Worker:
        batcher = Batcher[Request](max_batch_tokens, **options)
        made.append(Worker(computing, batcher, max_queue_tokens=max_queue_tokens, name="test"))
        return made[-1]

    yield worker
    computing.let(1000)
    for each in made:
        each.close(drain=False)


def waiting(worker: Worker) -> tuple[int, int, int]:
    """Requests, sequences and tokens."""
    queue = worker.queues.tokens
    return queue.requests, queue.sequences, queue.tokens


class Sums(Reading):
    """Sequences, whose answer is the list of their sums."""

    task = "sum"

    def __init__(self, *given: list[int]) -> None:
        super().__init__([CHARACTERS * len(ids) for ids in given])
        self.given = list(given)

    def tokens_of(self, part: range) -> tuple[list[Any], int]:
        return self.given[part.start : part.stop], 0

    def sequences(self) -> tuple[list[list[int]], list[Any]]:
        return self.tokenized, [None] * len(self.given)

    def answer(self, outputs: list[Any]) -> Any:
        return list(outputs)


def sent(worker: Worker, *sequences: list[int], **options: Any) -> Request:
    one = Request(Sums(*sequences), **options)
    worker.submit(one)
    return one


def test_what_waits_is_computed_together(make: Any, computing: Computing) -> None:
    worker = make()
    first = sent(worker, [1])
    computing.busy()
    others = [sent(worker, [i, i]) for i in range(2, 9)]
    assert waiting(worker) == (7, 7, 14)
    computing.let(3)
    assert [one.result(PATIENCE) for one in (first, *others)] == [[1], *([2 * i] for i in range(2, 9))]
    assert [len(batch) for batch in computing.batches] == [1, 5, 2]
    assert worker.counters.requests == {("sum", "answered"): 8}
    assert worker.counters.batch_tokens.total == 15
    assert sum(worker.counters.queue_seconds.counts) == 8


def test_timing(make: Any, computing: Computing, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*given: Any) -> None:
        time.sleep(0.02)
        Reading.tokenize(*given)

    worker = make()
    sent(worker, [1])
    computing.busy()
    monkeypatch.setattr(Sums, "tokenize", slow)
    one = sent(worker, [1] * 6, [1] * 6)
    time.sleep(0.02)
    computing.let()
    computing.busy()
    time.sleep(0.02)
    computing.let(2)
    one.result(PATIENCE)
    assert one.timing is not None
    assert one.timing.tokens == 12
    assert one.timing.tokenize >= 0.02
    assert one.timing.queue >= 0.02
    assert one.timing.compute >= 0.02


def test_a_failed_batch_fails_its_own_requests_alone(make: Any, computing: Computing) -> None:
    worker = make()
    fine = sent(worker, [1])
    computing.busy()
    bad, mate = sent(worker, [0], [2] * 10), sent(worker, [1])
    computing.let(2)
    assert fine.result(PATIENCE) == [1]
    errors = [one.exception(PATIENCE) for one in (bad, mate)]
    for error in errors:
        assert isinstance(error, BackendError)
        assert isinstance(error.__cause__, ZeroDivisionError)
        assert "a zero" in str(error)
    assert errors[0] is not errors[1]
    assert worker.failing
    assert waiting(worker) == (0, 0, 0)  # the rest of the bad one isn't computed
    after = sent(worker, [3])
    computing.let()
    assert after.result(PATIENCE) == [3]
    assert not worker.failing
    assert worker.counters.requests == {("sum", "answered"): 2, ("sum", "failed"): 2}
    assert worker.counters.failed_batches == 1


@pytest.mark.parametrize("more", [0, 3])
def test_an_answer_that_raises_fails_alone(make: Any, computing: Computing, more: int) -> None:
    """Also where answers are made beside the next batch."""

    class Refusing(Sums):
        def answer(self, outputs: list[Any]) -> Any:
            raise KeyError("no answer")

    worker = make()
    sent(worker, [1])
    computing.busy()
    bad, mate = Request(Refusing([1])), sent(worker, [2])
    worker.submit(bad)
    later = [sent(worker, [1] * 10) for _ in range(more)]
    computing.let(10)
    error = bad.exception(PATIENCE)
    assert isinstance(error, BackendError)
    assert isinstance(error.__cause__, KeyError)
    assert mate.result(PATIENCE) == [2]
    assert [one.result(PATIENCE) for one in later] == [[10]] * more
    assert not worker.failing


def test_cancelled_ones_leave_the_queue(make: Any, computing: Computing) -> None:
    worker = make()
    running = sent(worker, [1])
    computing.busy()
    one, other = sent(worker, [2] * 8), sent(worker, [3])
    assert one.cancel()
    assert one.cancel()
    assert waiting(worker) == (1, 1, 1)
    assert wait([one], PATIENCE).done == {one}
    with pytest.raises(CancelledError):
        one.result(PATIENCE)
    assert running.cancel()  # while it is computed
    computing.let(2)
    assert other.result(PATIENCE) == [3]
    assert not other.cancel()
    assert computing.batches == [[[1]], [[3]]]
    assert worker.counters.requests == {("sum", "cancelled"): 2, ("sum", "answered"): 1}


def test_deadlines(make: Any, computing: Computing) -> None:
    worker = make()
    sent(worker, [1])
    computing.busy()
    late = sent(worker, [2], deadline=time.monotonic() + 0.01)
    time.sleep(0.02)
    computing.let()
    with pytest.raises(DeadlineExceeded, match="seconds in the queue"):
        late.result(PATIENCE)
    with pytest.raises(TimeoutError):
        late.result(PATIENCE)
    assert computing.batches == [[[1]]]
    assert worker.counters.requests["sum", "expired"] == 1


def test_a_full_queue_refuses_by_what_waits_before(make: Any, computing: Computing) -> None:
    worker = make(max_queue_tokens=5)
    sent(worker, [1])
    computing.busy()
    sent(worker, [1] * 4)
    large = sent(worker, [1] * 50)  # however large itself
    with pytest.raises(Overloaded, match=r"^54 tokens wait, and a request is taken while less than 5 do") as refused:
        sent(worker, [1])
    assert refused.value.retry_after > 0
    urgent = sent(worker, [2], priority=1)
    computing.let(4)
    assert (large.result(PATIENCE), urgent.result(PATIENCE)) == ([50], [2])
    sent(worker, [1])


def test_a_client_below_its_share_is_never_refused(make: Any, computing: Computing) -> None:
    worker = make(max_queue_tokens=100)
    sent(worker, [1])
    computing.busy()
    for _ in range(10):
        sent(worker, [1] * 10, client="greedy")
    with pytest.raises(Overloaded):
        sent(worker, [1], client="greedy")
    worker.queues.rate = 10.0
    for _ in range(5):
        sent(worker, [1] * 10, client="other")  # up to a half
    with pytest.raises(Overloaded, match=r"try again in 10\.0 seconds") as refused:
        sent(worker, [1], client="other")
    assert refused.value.retry_after == 10.0  # 50 of its own and as many of the other's, at 10 a second
    sent(worker, [1], client="third")
    sent(worker, [1], client="greedy", priority=1)
    computing.let(100)


def test_memory_is_shared_whatever_the_bound_of_the_queue(make: Any, computing: Computing) -> None:
    worker = make(max_queue_tokens=10**9)
    sent(worker, [1])
    computing.busy()
    half = QUEUE_MEMORY // 2
    for client in "ab":
        sent(worker, *[[1] * half], client=client)
    with pytest.raises(Overloaded):
        sent(worker, [1] * half, client="c")
    sent(worker, [1] * 100, client="c")
    with pytest.raises(Overloaded):
        sent(worker, [1], client="a")
    computing.let(100)


def test_the_bound_follows_the_measured_rate(make: Any, computing: Computing) -> None:
    worker = make(max_queue_tokens=None)
    computing.let(100)
    assert worker.queues.max_queue_tokens == QUEUE_MEMORY
    for length in (10, 2, 2):  # the first full one is a warm-up, and short ones say nothing
        sent(worker, [1] * length).result(PATIENCE)
    assert worker.queues.rate is None
    sent(worker, [1] * 5).result(PATIENCE)
    while worker.queues.rate is None:
        time.sleep(0.001)  # it is measured behind the answer
    assert worker.queues.rate > 0
    for rate, most in ((LEAST_QUEUE / 20, LEAST_QUEUE), (5000.0, int(5000 * QUEUE_SECONDS)), (1e9, QUEUE_MEMORY)):
        worker.queues.rate = rate
        assert worker.queues.max_queue_tokens == most


def test_a_batch_that_is_not_full_may_wait(make: Any, computing: Computing) -> None:
    worker = make(max_delay=0.2)
    computing.let(10)
    futures = [sent(worker, [1]) for _ in range(5)]
    assert [one.result(PATIENCE) for one in futures] == [[1]] * 5
    assert len(computing.batches) == 1
    futures = [sent(worker, [1]) for _ in range(10)]
    assert wait(futures, PATIENCE).not_done == set()


def test_closing_answers_what_was_taken(make: Any, computing: Computing) -> None:
    worker = make(max_delay=PATIENCE)
    futures = [sent(worker, [1] * 7) for _ in range(5)]
    computing.let(5)
    worker.close()
    assert all(one.done() for one in futures)
    assert [one.result() for one in futures] == [[7]] * 5
    worker.close()
    assert not worker.queues.open
    with pytest.raises(NotReady, match="closed or closing"):
        sent(worker, [1])


def test_closing_without_draining(make: Any, computing: Computing) -> None:
    worker = make()
    running = sent(worker, [1])
    computing.busy()
    waiting = [sent(worker, [1] * 7) for _ in range(3)]
    closing = threading.Thread(target=worker.close, kwargs={"drain": False})
    closing.start()
    for one in waiting:
        assert isinstance(one.exception(PATIENCE), NotReady)
    computing.let()
    assert running.result(PATIENCE) == [1]
    closing.join(PATIENCE)
    assert not closing.is_alive()


def test_closing_without_draining_while_a_text_is_tokenized(make: Any) -> None:
    worker, entered, gate = make(), threading.Event(), threading.Event()

    class Held(Sums):
        def tokens_of(self, part: range) -> tuple[list[Any], int]:
            entered.set()
            assert gate.wait(PATIENCE)
            return super().tokens_of(part)

    one = Request(Held([1]))
    worker.enqueue(one)
    assert entered.wait(PATIENCE)
    assert not worker.close(drain=False, timeout=0.01)
    assert isinstance(one.exception(0), NotReady)
    gate.set()
    assert worker.close(drain=False)


def test_whoever_hangs_up_when_the_last_part_is_tokenized_ends_no_thread(
    make: Any, computing: Computing, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make()
    note = worker.queues.tokenized

    def noted_and_gone(one: Request, *given: Any) -> Any:
        last = note(one, *given)
        one.cancel()
        return last

    def texts() -> Request:
        one = Request(Sums([1]))
        worker.enqueue(one)
        return one

    monkeypatch.setattr(worker.queues, "tokenized", noted_and_gone)
    for _ in range(3):
        with pytest.raises(CancelledError):
            texts().result(PATIENCE)
    monkeypatch.undo()
    computing.let(4)
    assert texts().result(PATIENCE) == [1]
    assert not worker.queues.reading


def test_closing_from_a_callback(make: Any, computing: Computing) -> None:
    worker = make()
    one = Request(Sums([1]))
    one.add_done_callback(lambda _: worker.close())
    worker.submit(one)
    computing.let()
    assert one.result(PATIENCE) == [1]
    worker.close()


@pytest.mark.parametrize("call", ["submit", "enqueue"])
def test_what_ended_is_held_by_nothing(
    make: Any, computing: Computing, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor by itself: nothing here waits for the garbage collector."""
    worker, references = make(), []
    monkeypatch.setattr(logging.getLogger("distilrt"), "disabled", True)  # pytest keeps what is logged

    def ended(*ids: int, deadline: float | None = None) -> Any:
        one = Request(Sums(list(ids)), deadline=deadline)
        getattr(worker, call)(one)
        references.append(weakref.ref(one))
        return one

    gc.disable()
    try:
        first = ended(1)
        computing.busy()
        ended(2).cancel()
        late, failed = ended(3, deadline=time.monotonic() + 0.001), ended(0)
        time.sleep(0.02)
        computing.let(3)
        assert first.result(PATIENCE) == [1]
        assert isinstance(failed.exception(PATIENCE), BackendError)
        assert isinstance(late.exception(PATIENCE), DeadlineExceeded)
        del first, late, failed
        end = time.monotonic() + 2
        while any(reference() for reference in references) and time.monotonic() < end:  # a thread is on its way out
            time.sleep(0.001)
        assert [reference() for reference in references] == [None] * 4
    finally:
        gc.enable()


def test_many_threads(make: Any, computing: Computing) -> None:
    """Every request gets its own answer, once, whatever is cancelled around it."""
    worker = make(max_queue_tokens=10**6)
    computing.let(10**5)
    answers: dict[int, Any] = {}

    def caller(start: int) -> None:
        for number in range(start, start + 50):
            one = sent(worker, [number], [1] * (number % 13 + 1))
            if number % 7 == 0 and one.cancel():
                answers[number] = None
            else:
                answers[number] = one.result(PATIENCE)

    threads = [threading.Thread(target=caller, args=(1000 * i + 1,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(answers) == 400
    for number, answer in answers.items():
        assert answer in (None, [number, number % 13 + 1]) if number % 7 == 0 else answer == [number, number % 13 + 1]
    requests = worker.counters.requests
    assert requests["sum", "answered"] + requests["sum", "cancelled"] == 400
    assert waiting(worker) == (0, 0, 0)


class SlowReading(Reading):
    """An input of so many characters, whose caller tokenizes it until the test lets go; it has nothing to compute."""

    def __init__(self, characters: int) -> None:
        super().__init__([characters])
        self.entered, self.gate = threading.Event(), threading.Event()

    def tokens_of(self, part: range) -> tuple[list[Any], int]:
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        return [], 0

    def answer(self, outputs: list[Any]) -> None:
        pass


def test_what_callers_tokenize_counts_as_waiting(make: Callable[..., Worker]) -> None:
    worker = make(max_queue_tokens=10)
    slow = SlowReading(10 * CHARACTERS)
    thread = threading.Thread(target=worker.submit, args=[Request(slow)])
    thread.start()
    assert slow.entered.wait(PATIENCE)
    quick = SlowReading(1)
    quick.gate.set()
    with pytest.raises(Overloaded, match="10 tokens wait"):
        worker.submit(Request(quick))
    slow.gate.set()
    thread.join(PATIENCE)
    worker.submit(Request(quick))
