"""Times engines side by side: first their answers are compared, then they take turns on every workload.

Only ratios inside one run count, because a machine's speed changes from minute to minute; so engines alternate, and
each meets the same noise. How an engine works is `peers`' matter, how rows are kept and shown `report`'s.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from distilrt.bench import peers
from distilrt.bench.child import PeerError
from distilrt.bench.progress import Say
from distilrt.bench.worker import SETTLE, Worker
from distilrt.bench.workloads import Inputs, Workload, make_inputs
from distilrt.model import models
from distilrt.model.config import DistilBertConfig

Logits = npt.NDArray[np.floating[Any]]
_Item = TypeVar("_Item")

# Largest difference from float64 over the largest logit. int8's is wide because random weights leave a quantizer
# nothing to work with; the rows keep the number.
BOUNDS = {"float32": 1e-3, "bfloat16": 5e-2, "int8": 0.3}
CHECKED_TOKENS = 512  # of each workload, at most
CHECKED_SEQUENCES = 8
MOST_TURNS = 30
SHORT_RUN = 0.1  # seconds; a shorter run is first run untimed, to find threads awake and weights in caches
SHORT_TURN = 0.05  # seconds; a turn is at least about so long
MOST_RUNS = 10  # in one turn
LEAST_TURNS = 3  # of every engine on a workload
TIME_BOX = 15.0  # seconds for a workload
CLOSE = 1.15  # times the best peer's time: too close for a first look to tell which is faster
LOADING, CHECKING = 4.0, 0.4  # seconds of an engine, roughly; the second for each workload
BUSY = 0.05  # cores; an engine that keeps more busy after its turn disturbs the others


@dataclass(frozen=True, slots=True)
class Engine:
    """A name of `peers.ENGINES` and one of its dtypes."""

    dtype: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}"


@dataclass(slots=True)
class Timing:
    """One engine on one workload."""

    workload: Workload
    engine: Engine
    version: str
    error: float  # as `disagreement` gives it
    estimate: float  # seconds of a pass, roughly
    turns: list[list[float]] = field(init=False)  # seconds of each turn of a pass, as often as they were measured

    def __post_init__(self) -> None:
        self.turns = [[] for _ in self.workload.turns]

    @property
    def measured(self) -> Workload:
        """The part of the workload whose turns came."""
        batches = self.workload.batches
        came = (indices for indices, times in zip(self.workload.turns, self.turns, strict=True) if times)
        return Workload(self.workload.name, tuple(batches[index] for indices in came for index in indices))

    @property
    def rounds(self) -> float:
        """Passes measured, in parts too."""
        return sum(map(len, self.turns)) / self.runs / len(self.turns)

    @property
    def warm(self) -> int:
        """Untimed runs at the start of a turn."""
        return int(self.estimate / len(self.workload.batches) < SHORT_RUN)

    @property
    def runs(self) -> int:
        """Timed runs in a turn."""
        return max(1, min(MOST_RUNS, int(SHORT_TURN / self.estimate)))

    @property
    def cost(self) -> float:
        """Seconds of a turn, roughly."""
        return self.estimate / len(self.turns) * (self.warm + self.runs) + SETTLE

    def quantile(self, percent: float) -> float:
        """Seconds of what was measured: the sum of its turns' quantiles."""
        return float(sum(np.percentile(times, percent) for times in self.turns if times))


@dataclass(slots=True)
class Comparison:
    """All that was timed, and in words what was not and why."""

    say: Say
    timings: list[Timing] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def leave_out(self, what: str, reason: object) -> None:
        """Remember that `what` is not timed."""
        self.left_out.append(f"{what}: {reason}")
        self.say(f"left out: {self.left_out[-1]}", 0)


def choose(names: Sequence[str], dtypes: Sequence[str]) -> list[Engine]:
    """Every engine of these names in each of these dtypes that it has.

    Raises:
        ValueError: an unknown name or dtype.
    """
    for found, known in ((names, tuple(peers.ENGINES)), (dtypes, peers.DTYPES)):
        if unknown := [name for name in found if name not in known]:
            raise ValueError(f"choose from {', '.join(known)}; found {', '.join(unknown)}")
    return [Engine(dtype, name) for dtype in dtypes for name in names if dtype in peers.ENGINES[name][1]]


def expected_s(engines: int, workloads: int, time_box: float) -> float:
    """Seconds that `compare` takes, roughly, where everything is converted and compiled already."""
    return engines * LOADING + workloads * (engines * CHECKING + time_box)


def compare(
    comparison: Comparison,
    checkpoint: Path,
    engines: Sequence[Engine],
    workloads: Sequence[Workload],
    *,
    num_threads: int,
    rounds: int | None = None,
    time_box: float = TIME_BOX,
) -> None:
    """Time `engines` on `workloads`; an engine that cannot load, fails or disagrees is left out with its reason.

    Args:
        comparison: filled; where Ctrl-C ends it, with what was measured by then.
        checkpoint: a sequence classifier's folder.
        engines: from `choose`.
        workloads: from `workloads.parse`.
        num_threads: of every engine.
        rounds: of every workload; None: what fits `time_box`, in which engines far behind may have to sit out.
        time_box: seconds for one workload, without its checks.
    """
    say = comparison.say
    with ExitStack() as stack:
        workers: dict[Engine, Worker] = {}
        for engine in engines:
            say(f"loading {engine}", LOADING)
            try:
                worker = stack.enter_context(Worker(engine.name, engine.dtype, checkpoint, num_threads))
                worker.set_inputs(make_inputs([[16]], 100))
                if (load := worker.idle_load()) > BUSY:
                    say(f"{engine} keeps {load:.2f} cores busy after its turn", 0)
                workers[engine] = worker
            except PeerError as reason:
                comparison.leave_out(str(engine), reason)
        for workload in workloads:
            say(f"{workload.name}: comparing answers", CHECKING * len(workers))
            timings = _check(comparison, workers, checkpoint, workload)
            turns = len(workload.turns)
            count = (rounds or 0) * turns
            costs = {engine: timing.cost for engine, timing in timings.items()}
            if rounds is None:
                kept, count = fit(costs, time_box)
                for engine in [engine for engine in timings if engine not in kept]:
                    comparison.leave_out(f"{engine} on {workload.name}", f"slow, {costs[engine] * turns:.1f} s a round")
                    del timings[engine]
            whole = count * sum(costs[engine] for engine in timings)
            say(f"{workload.name}: timing {len(timings)} engines, {count / turns:g} rounds", whole)
            try:
                _time(comparison, workers, timings, count)
            finally:
                comparison.timings += complete(timings.values())


def _check(
    comparison: Comparison, workers: Mapping[Engine, Worker], checkpoint: Path, workload: Workload
) -> dict[Engine, Timing]:
    """Hand over the workload and keep those whose answers are right."""
    vocab_size = DistilBertConfig.from_pretrained(checkpoint).vocab_size
    # A single sequence is too few answers to judge by: more of the same lengths follow it.
    copies = CHECKED_SEQUENCES if len(workload.batches) == len(workload.batches[0]) == 1 else 1
    inputs = make_inputs(workload.batches * copies, vocab_size)
    expected = expected_logits(checkpoint, inputs)
    timings = {}
    for engine, worker in workers.items():
        try:
            worker.set_inputs(inputs)
            error = disagreement([worker.answer(index) for index in range(len(expected))], expected)
            if not error <= BOUNDS[engine.dtype]:
                raise PeerError(f"its answers are off by {error:.1e}; allowed is {BOUNDS[engine.dtype]:.0e}")
            probe = len(workload.batches) // 2
            part = Workload("", (workload.batches[probe],)).padded_tokens / workload.padded_tokens
            estimate = worker.turn([probe])[0] / part
        except PeerError as reason:
            comparison.leave_out(f"{engine} on {workload.name}", reason)
        else:
            timings[engine] = Timing(workload, engine, worker.version, error, estimate)
    return timings


def _time(comparison: Comparison, workers: Mapping[Engine, Worker], timings: dict[Engine, Timing], count: int) -> None:
    for engine, number in schedule(list(timings), count):
        timing = timings.get(engine)
        if timing is None:
            continue
        turn = number % len(timing.turns)
        time.sleep(SETTLE)
        try:
            timing.turns[turn] += workers[engine].turn(timing.workload.turns[turn], timing.warm, timing.runs)
        except PeerError as reason:
            comparison.leave_out(f"{engine} on {timing.workload.name}", reason)
            del timings[engine]


def complete(timings: Iterable[Timing]) -> list[Timing]:
    """The timings with the turns that all of them had, if there are such."""
    found = list(timings)
    for turn in zip(*(timing.turns for timing in found), strict=True):
        least = min(len(times) // timing.runs for timing, times in zip(found, turn, strict=True))
        for timing, times in zip(found, turn, strict=True):
            del times[least * timing.runs :]
    return [timing for timing in found if any(timing.turns)]


def schedule(engines: Sequence[_Item], turns: int) -> Iterator[tuple[_Item, int]]:
    """Who runs which turn: every engine has its turn before any has the next, and each time another one begins."""
    for turn in range(turns):
        first = turn % max(1, len(engines))
        for engine in (*engines[first:], *engines[:first]):
            yield engine, turn


def fit(costs: Mapping[Engine, float], time_box: float) -> tuple[list[Engine], int]:
    """Engines and turns, at least `LEAST_TURNS`, that fit `time_box` if each engine's turn costs so many seconds.

    Whoever is furthest behind the best peer of its dtype goes first; distilrt's own and close rivals stay in any case.
    """
    best: dict[str, float] = {}
    for engine, cost in costs.items():
        if engine.name not in peers.OURS:
            best[engine.dtype] = min(cost, best.get(engine.dtype, cost))
    behind = {engine: cost / best[engine.dtype] for engine, cost in costs.items() if engine.name not in peers.OURS}
    kept = list(costs)
    for engine in sorted((engine for engine in behind if behind[engine] > CLOSE), key=lambda engine: -behind[engine]):
        if LEAST_TURNS * sum(costs[each] for each in kept) <= time_box:
            break
        kept.remove(engine)
    total = sum(costs[each] for each in kept)
    return kept, max(LEAST_TURNS, min(MOST_TURNS, int(time_box / total))) if total else 0


def disagreement(actual: Sequence[Logits], expected: Sequence[Logits]) -> float:
    """Largest difference from the expected logits over the largest of them; of each batch, the first rows are known."""
    size = max(float(np.abs(rows).max()) for rows in expected)
    differences = [np.abs(mine[: len(rows)] - rows).max() for mine, rows in zip(actual, expected, strict=True)]
    return float(np.max(differences)) / size  # NaN stays NaN, which no bound allows


def expected_logits(checkpoint: Path, inputs: Sequence[Inputs]) -> list[Logits]:
    """The NumPy reference's float64 logits for the first sequences of the first batches, kept with the checkpoint."""
    chosen: list[list[npt.NDArray[np.int64]]] = []
    tokens = count = 0
    for index, ids in ((index, ids) for index, batch in enumerate(inputs) for ids in batch.sequences):
        tokens, count = tokens + len(ids), count + 1
        if count > 1 and (tokens > CHECKED_TOKENS or count > CHECKED_SEQUENCES):
            break
        if index == len(chosen):
            chosen.append([])
        chosen[index].append(ids)
    name = hashlib.sha256(repr([ids.tolist() for sequences in chosen for ids in sequences]).encode()).hexdigest()[:16]
    kept = checkpoint / "exports" / f"expected-{name}.npy"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        model = models.DistilBertForSequenceClassification.from_pretrained(
            checkpoint, backend="reference", dtype="float64"
        )
        np.save(kept, np.concatenate([model(ids[None]).logits for sequences in chosen for ids in sequences]))
    return np.split(np.load(kept), np.cumsum([len(sequences) for sequences in chosen])[:-1])
