"""barrier.py: every order in which programs may arrive and look, and real programs at once."""

from __future__ import annotations

import itertools

import pytest
import triton
import triton.language as tl

from distilrt.kernels.barrier import arrive, await_all
from tests.kernels.conftest import ints
from tests.kernels.programs import run_at_once

SIGN = -(2**31)


def wrapped(number: int) -> int:
    """As 32 bits hold it."""
    return (number - SIGN) % 2**32 + SIGN


@pytest.mark.parametrize("start", [0, SIGN])
@pytest.mark.parametrize("programs", [1, 2, 3, 4])
def test_every_order(programs: int, start: int) -> None:
    """Nobody passes before all have arrived, nobody waits for ever, and launches find what the first one found."""
    rounds = 3
    # The barrier, and of each program how often it arrived, how often it passed, and what it found.
    begin = (start, ((0, 0, 0),) * programs)
    seen, open_states, ends = {begin}, [begin], set()
    while open_states:
        barrier, states = open_states.pop()
        following = []
        for number, (arrived, passed, before) in enumerate(states):
            if arrived == passed < rounds:
                own = (1 - programs) ^ SIGN if number == 0 else 1
                change = wrapped(barrier + own), (arrived + 1, passed, barrier)
            elif arrived > passed and (barrier ^ before) < 0:
                assert all(other[0] >= arrived for other in states), "passed early"
                change = barrier, (arrived, passed + 1, before)
            else:
                continue
            following.append((change[0], (*states[:number], change[1], *states[number + 1 :])))
        if not following:
            assert all(passed == rounds for _, passed, _ in states), "waits for ever"
            ends.add(barrier)
        open_states += [state for state in following if state not in seen]
        seen.update(following)
    assert ends == {start if rounds % 2 == 0 else wrapped(start + SIGN)}


@triton.jit  # type: ignore[untyped-decorator]
def _meet_kernel(barrier_ptr, arrived_ptr, wrong_ptr, rounds, first, programs: tl.constexpr):  # type: ignore[no-untyped-def]
    """Each program counts its rounds, and behind each barrier looks whether the others have counted as far."""
    program = tl.program_id(0)
    for i in range(rounds):
        tl.store(arrived_ptr + program, first + i + 1)
        await_all(barrier_ptr, arrive(barrier_ptr), False)
        for other in range(programs):
            if tl.load(arrived_ptr + other) < first + i + 1:
                tl.atomic_add(wrong_ptr, 1)
        await_all(barrier_ptr, arrive(barrier_ptr), False)


@pytest.mark.parametrize("programs", [1, 2, 3])
def test_programs_at_once(programs: int) -> None:
    """The same barrier in launch after launch, with nothing reset."""
    barrier, arrived, wrong = ints(0), ints(*[0] * programs), ints(0)
    rounds = (5, 4, 5)
    for first, count in zip(itertools.accumulate((0, *rounds)), rounds, strict=False):

        def launch(first: int = first, count: int = count) -> None:
            _meet_kernel[(1,)](barrier, arrived, wrong, count, first=first, programs=programs)

        run_at_once(programs, launch, [barrier, arrived, wrong])
    assert wrong.item() == 0
    assert arrived.tolist() == [sum(rounds)] * programs
    assert barrier.item() == 0, "an even number of barriers"


def test_who_waits_for_ever_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.kernels.programs.SECONDS", 3.0)
    barrier, arrived, wrong = ints(0), ints(0, 0), ints(0)
    barrier += 1  # As if someone had come already, the first passes without the second, which then waits.
    with pytest.raises(TimeoutError, match="of 2 programs"):
        run_at_once(2, lambda: _meet_kernel[(1,)](barrier, arrived, wrong, 3, first=0, programs=2),
                    [barrier, arrived, wrong])  # fmt: skip
