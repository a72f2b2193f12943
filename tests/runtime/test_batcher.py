"""The queue of an engine under a clock of the test's own: what comes out, when, and in which order."""

from __future__ import annotations

import time
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from distilrt.runtime.batcher import LOOK_AHEAD, MAX_AGE, Batcher, Waiting


def add(batcher: Batcher[Waiting], *lengths: int, now: float = 0.0, **options: Any) -> Waiting:
    waiting = Waiting(lengths, **options)
    batcher.add(waiting, now)
    return waiting


def take(batcher: Batcher[Waiting], now: float = 0.0) -> list[int]:
    """The lengths of the next batch."""
    return [waiting.lengths[index] for waiting, index in batcher.take(now)]


def test_a_batch_is_what_waits_up_to_the_budget() -> None:
    batcher = Batcher[Waiting](10)
    assert batcher.due() is None
    assert take(batcher) == []
    for length in (4, 3, 2, 1, 5):
        add(batcher, length)
    assert (batcher.tokens, batcher.sequences, batcher.requests) == (15, 5, 5)
    assert [take(batcher), take(batcher), take(batcher)] == [[4, 3, 2, 1], [5], []]
    assert (batcher.tokens, batcher.sequences, batcher.requests) == (0, 0, 0)


def test_what_is_longer_than_the_budget_goes_alone() -> None:
    batcher = Batcher[Waiting](10)
    add(batcher, 3, 50, 2)
    assert [take(batcher), take(batcher)] == [[3, 2], [50]]
    add(batcher, 50, 1)
    assert [take(batcher), take(batcher)] == [[50], [1]]


def test_a_request_may_leave_in_several_batches() -> None:
    batcher = Batcher[Waiting](10)
    waiting = add(batcher, 6, 6, 4)
    assert [index for _, index in batcher.take(0)] == [0, 2]
    assert (batcher.tokens, batcher.sequences, batcher.requests, waiting.left) == (6, 1, 1, 1)
    assert [index for _, index in batcher.take(0)] == [1]
    assert batcher.requests == waiting.left == 0


def test_later_ones_fill_what_the_next_leaves_but_not_from_far_behind() -> None:
    batcher = Batcher[Waiting](10)
    for length in (7, *[4] * LOOK_AHEAD, 3):
        add(batcher, length)
    assert take(batcher) == [7]
    assert take(batcher) == [4, 4]
    add(batcher, 2)
    assert take(batcher) == [4, 4, 2]


def test_priorities_and_arrival() -> None:
    batcher = Batcher[Waiting](1)
    names = {
        add(batcher, 1, priority=priority): name
        for name, priority in (("b1", 0), ("c", -3), ("a1", 5), ("b2", 0), ("a2", 5))
    }
    assert [batcher.ahead(priority) for priority in (6, 5, 0, -3)] == [0, 2, 4, 5]
    assert [names[batcher.take(0)[0][0]] for _ in range(5)] == ["a1", "a2", "b1", "b2", "c"]


def test_small_requests_of_a_client_pass_its_large_ones() -> None:
    batcher = Batcher[Waiting](10)
    large, other = add(batcher, *[10] * 40), add(batcher, *[10] * 40)
    for _ in range(20):
        take(batcher)
        small = add(batcher, 3, 3)
        assert [waiting for waiting, _ in batcher.take(0)] == [small, small]
    assert (large.left, other.left) == (20, 40)  # equal ones keep their order


def test_a_large_request_gets_its_even_share_beside_small_ones() -> None:
    batcher = Batcher[Waiting](10)
    large, batches = add(batcher, *[10] * 40), 0
    while large.left:
        if batches % 2:
            add(batcher, 10)
        take(batcher)
        batches += 1
    assert batches <= 2 * 40


def test_the_longest_waiting_goes_first_after_a_while() -> None:
    batcher = Batcher[Waiting](1)
    add(batcher, 1, priority=-1, now=0)
    for arrival in range(3):
        add(batcher, 1, priority=9, now=arrival / 10)
    assert batcher.take(MAX_AGE)[0][0].priority == 9
    assert batcher.take(MAX_AGE + 0.001)[0][0].priority == -1


def test_a_flood_of_higher_priority_leaves_a_batch_a_second() -> None:
    batcher, now, low = Batcher[Waiting](10), 0.0, 0
    for _ in range(100):
        add(batcher, 5, priority=-1, now=now)
    while now < 5:
        add(batcher, 10, priority=5, now=now)
        low += sum(waiting.priority == -1 for waiting, _ in batcher.take(now))
        now += 0.05
    assert low == 2 * 4


def owners(batch: list[tuple[Waiting, int]]) -> list[str]:
    return [waiting.client for waiting, _ in batch]


def test_clients_take_turns_by_tokens() -> None:
    batcher = Batcher[Waiting](12)
    add(batcher, *[4] * 30, client="greedy")
    add(batcher, *[2] * 60, client="other")
    for _ in range(4):
        served = owners(batcher.take(0))
        assert (served.count("greedy"), served.count("other")) in ((2, 2), (1, 4), (2, 1)), served
    greedy, other = (batcher.ahead(0, client) for client in ("greedy", "other"))
    assert abs((120 - greedy) - (120 - other)) <= 12
    assert batcher.ahead(0) == greedy + other
    assert batcher.clients() == {"greedy", "other"}


def test_who_comes_while_another_floods_goes_next_and_does_not_wait_for_a_full_batch() -> None:
    batcher = Batcher[Waiting](512)
    add(batcher, *[60] * 1000, client="greedy")
    assert len(batcher.take(0)) == 8
    one, another = add(batcher, 10, client="one"), add(batcher, 20, 20, client="another")
    assert [waiting for waiting, _ in batcher.take(0)] == [one, another, another]
    assert len(batcher.take(0)) == 8


def test_nobody_saves_up_turns() -> None:
    batcher = Batcher[Waiting](10)
    add(batcher, *[5] * 100, client="always")
    for _ in range(20):
        batcher.take(0)
    add(batcher, *[5] * 100, client="late")
    served = [client for _ in range(10) for client in owners(batcher.take(0))]
    assert abs(served.count("late") - served.count("always")) <= 2


def test_priorities_go_across_clients() -> None:
    batcher = Batcher[Waiting](2)
    add(batcher, *[1] * 10, client="greedy", priority=1)
    add(batcher, 1, 1, client="other")
    urgent = add(batcher, 1, client="other", priority=2)
    assert batcher.take(0)[0][0] is urgent
    for _ in range(4):
        assert owners(batcher.take(0)) == ["greedy"] * 2


def test_clients_that_left_are_forgotten() -> None:
    batcher = Batcher[Waiting](10)
    add(batcher, *[10] * 2000)
    for number in range(1000):
        add(batcher, 1, client=str(number))
        batcher.take(0)
    assert len(batcher._levels[0].flows) < 200
    assert batcher.ahead(0, "") < 20_000 - 300  # which were served meanwhile, although newcomers go first


def test_deadlines() -> None:
    batcher = Batcher[Waiting](10)
    first, second = add(batcher, 5, deadline=1.0), add(batcher, 8, deadline=2.0)
    add(batcher, 3, now=0.5)
    assert batcher.expire(0.9) == []
    assert batcher.expire(1.0) == [first]
    assert (batcher.tokens, batcher.requests) == (11, 2)
    assert take(batcher) == [8]
    assert batcher.expire(5.0) == []  # it left in time
    assert second.left == 0
    assert take(batcher) == [3]


def test_discarding() -> None:
    batcher = Batcher[Waiting](10)
    one, other = add(batcher, 6, 6), add(batcher, 4)
    batcher.take(0)
    batcher.discard(one)
    batcher.discard(one)
    batcher.discard(other)  # nothing of it waits
    assert (batcher.tokens, batcher.sequences, batcher.requests) == (0, 0, 0)
    assert batcher.due() is None
    assert batcher.take(0) == []


@pytest.mark.parametrize("newest_first", [False, True])
def test_many_are_given_up_in_little_time(newest_first: bool) -> None:
    """It costs the same for each, where a scan of the queue for each would take minutes."""
    batcher = Batcher[Waiting](10)
    waiting = [add(batcher, 1) for _ in range(50_000)]
    start = time.process_time()
    for each in reversed(waiting[1:]) if newest_first else waiting[:-1]:
        batcher.discard(each)
    assert time.process_time() - start < 5
    assert batcher.requests == 1
    assert [each for each, _ in batcher.take(0)] == [waiting[0] if newest_first else waiting[-1]]


def test_what_was_given_up_is_not_held() -> None:
    batcher = Batcher[Waiting](10)
    add(batcher, 1)
    references = [weakref.ref(add(batcher, 1)) for _ in range(50)]
    for reference in references:
        waiting = reference()
        assert waiting is not None
        batcher.discard(waiting)
    del waiting
    assert [reference() for reference in references] == [None] * 50


def test_clearing() -> None:
    batcher = Batcher[Waiting](10)
    one, other = add(batcher, 6, 6), add(batcher, 4, priority=1)
    assert set(batcher.clear()) == {one, other}
    assert (batcher.tokens, batcher.sequences, batcher.requests, batcher.ahead(-9)) == (0, 0, 0, 0)


def test_delay() -> None:
    assert add(batcher := Batcher[Waiting](10), 1, now=5.0).arrived == 5.0
    assert batcher.due() == 5.0
    batcher = Batcher[Waiting](10, max_delay=0.5)
    add(batcher, 1, now=5.0)
    add(batcher, 2, now=5.2)
    assert batcher.due() == 5.5
    add(batcher, 7, now=5.3)
    due = batcher.due()
    assert due is not None
    assert due <= 5.3  # it is full


def test_requests_that_left_in_time_are_forgotten_before_their_deadline() -> None:
    batcher = Batcher[Waiting](10)
    for _ in range(1000):
        add(batcher, 1, deadline=1e9)
        batcher.take(0)
    assert len(batcher._deadlines) < 100


LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=30)


@given(st.lists(LENGTHS, min_size=2, max_size=4))
def test_clients_that_wait_from_the_start_differ_by_a_batch_at_most(requests: list[list[int]]) -> None:
    batcher, served = Batcher[Waiting](20), dict.fromkeys(map(str, range(len(requests))), 0)
    for client, lengths in zip(served, requests, strict=True):
        add(batcher, *lengths, client=client)
    while len(batcher.clients()) == len(requests):
        assert max(served.values()) - min(served.values()) <= 20
        for waiting, index in batcher.take(0):
            served[waiting.client] += waiting.lengths[index]


@given(st.lists(st.tuples(st.sampled_from("abcd"), LENGTHS, st.integers(0, 3)), min_size=2, max_size=25))
def test_whoever_comes_and_goes_gains_little(arrivals: list[tuple[str, list[int], int]]) -> None:
    """Over any interleaving of arrivals and batches: what two clients were served since both wait."""
    batcher, served = Batcher[Waiting](20), dict.fromkeys("abcd", 0)
    began: dict[tuple[str, str], tuple[int, int]] = {}
    for client, lengths, batches in [*arrivals, ("a", [1], 100)]:
        add(batcher, *lengths, client=client)
        for _ in range(batches):
            there = sorted(batcher.clients())
            pairs = [(one, other) for one in there for other in there if one < other]
            began = {(one, other): began.get((one, other), (served[one], served[other])) for one, other in pairs}
            for (one, other), (first, second) in began.items():
                assert abs((served[one] - first) - (served[other] - second)) <= 3 * 20
            for waiting, index in batcher.take(0):
                served[waiting.client] += waiting.lengths[index]


class Queue(RuleBasedStateMachine):
    """Any history: everything that is not given up comes out once, within the budget, and nobody waits for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.batcher = Batcher[Waiting](20)
        self.now = 0.0
        self.inside: list[tuple[Waiting, int]] = []
        self.since: dict[int, float] = {}  # of each priority that waits: when it was served last, or began to wait

    @rule(
        lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
        priority=st.integers(-2, 2),
        patience=st.none() | st.floats(0.01, 3),
    )
    def arrive(self, lengths: list[int], priority: int, patience: float | None) -> None:
        waiting = Waiting(lengths, priority, None if patience is None else self.now + patience)
        ahead = sum(one.lengths[index] for one, index in self.inside if one.priority >= priority)
        assert self.batcher.ahead(priority) == ahead
        self.batcher.add(waiting, self.now)
        self.since.setdefault(priority, self.now)
        self.inside += [(waiting, index) for index in range(len(lengths))]

    @rule(seconds=st.floats(0.001, 0.7))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def give_up(self, data: Any) -> None:
        waiting, _ = data.draw(st.sampled_from(self.inside))
        self.batcher.discard(waiting)
        self._remove(waiting)

    @rule()
    def expire(self) -> None:
        expired = self.batcher.expire(self.now)
        late = {id(one) for one, _ in self.inside if one.deadline is not None and one.deadline <= self.now}
        assert {id(one) for one in expired} == late
        assert len(expired) == len(late)
        for waiting in expired:
            self._remove(waiting)

    @rule()
    def take(self) -> None:
        before = list(self.inside)
        batch = self.batcher.take(self.now)
        assert bool(batch) == bool(before)
        for item in batch:
            self.inside.remove(item)  # fails for what is not inside, hence for what comes out twice
        if not batch:
            return
        sizes = [waiting.lengths[index] for waiting, index in batch]
        assert sum(sizes) <= 20 or len(sizes) == 1
        levels = sorted({waiting.priority for waiting, _ in before}, reverse=True)
        patient = min(levels, key=lambda level: self.since[level])
        first = patient if self.now - self.since[patient] > MAX_AGE else levels[0]
        among = (waiting for waiting, _ in before if waiting.priority == first)
        assert batch[0][0] is min(among, key=lambda waiting: (waiting.finish, waiting.number))
        self.since |= {waiting.priority: self.now for waiting, _ in batch}
        self._forget()
        # Whatever fits and is in sight goes too.
        room = 20 - sum(sizes)
        if len(before) <= LOOK_AHEAD:
            assert all(waiting.lengths[index] > room for waiting, index in self.inside)

    def _remove(self, waiting: Waiting) -> None:
        self.inside = [item for item in self.inside if item[0] is not waiting]
        self._forget()

    def _forget(self) -> None:
        waiting = {one.priority for one, _ in self.inside}
        self.since = {priority: since for priority, since in self.since.items() if priority in waiting}

    @invariant()
    def counts(self) -> None:
        assert self.batcher.sequences == len(self.inside)
        assert self.batcher.tokens == sum(waiting.lengths[index] for waiting, index in self.inside)
        assert self.batcher.requests == len({id(waiting) for waiting, _ in self.inside})
        assert (self.batcher.due() is None) == (not self.inside)


TestQueue = Queue.TestCase


@given(st.lists(st.integers(1, 12), min_size=1, max_size=60), st.integers(12, 30))
def test_one_priority_is_served_in_order_of_the_first_of_each_batch(lengths: list[int], budget: int) -> None:
    batcher = Batcher[Waiting](budget)
    numbers = {add(batcher, length): number for number, length in enumerate(lengths)}
    left = list(range(len(lengths)))
    while left:
        batch = [numbers[waiting] for waiting, _ in batcher.take(0)]
        assert batch[0] == left[0]
        assert batch == sorted(batch)
        left = [number for number in left if number not in batch]


@pytest.mark.parametrize("flood", [1, 3])
def test_nobody_starves_under_a_flood_of_higher_priority(flood: int) -> None:
    batcher = Batcher[Waiting](10)
    patient = add(batcher, 10, priority=-5)
    now = 0.0
    while patient.left and now < 10:
        for _ in range(flood):
            add(batcher, 10, priority=5, now=now)
        batcher.take(now)
        now += 0.05
    assert now <= MAX_AGE + 0.1
