"""Which threads a CPU model computes with, and where: as many as the process may use, beside one memory node."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from distilrt import env
from distilrt.cpu_count import HERE, System, allowed_cpus, count_cores, read, within_quota

_SECONDS = 0.5  # from one look at what the process may use to the next


class Threads(NamedTuple):
    """What a model computes with."""

    num_threads: int
    node: int | None = None  # the memory node that they run beside; None: wherever the caller may run
    cpus: tuple[int, ...] = ()  # of that node, those that are allowed


class Placement:
    """The threads of a model now, as affinity and quotas change while it runs: `given`, else `DISTILRT_NUM_THREADS`,
    else one for each core of one node. Safe to call from many threads."""

    def __init__(self, given: int | None) -> None:
        self._given = env.num_threads() if given is None else given
        self._found, self._look_again = Threads(1), 0.0

    def __call__(self) -> Threads:
        if time.monotonic() >= self._look_again:
            self._found, self._look_again = place(self._given), time.monotonic() + _SECONDS
        return self._found


def place(count: int | None, system: System = HERE) -> Threads:
    """So many threads, or one for each core beside one memory node that the process may use.

    Memory of another node is slower to read, so threads are kept beside one where they fit there, each on a core of its
    own. It is the node with the most allowed cores, and of equals the one where this process ran when it first asked,
    since that is where it has its memory.
    """
    allowed, nodes = allowed_cpus(), memory_nodes(system)
    parts = {number: cpus & allowed for number, cpus in nodes.items() if cpus & allowed}
    if len(parts) < 2:
        return Threads(count or within_quota(count_cores(allowed, system), system))
    cores = {number: count_cores(cpus, system) for number, cpus in parts.items()}
    first_ran_on = _first_ran_on(system.process)
    node = max(parts, key=lambda number: (cores[number], first_ran_on in nodes[number], -number))
    count = count or within_quota(cores[node], system)
    # One thread is the caller's own.
    return Threads(count, node, tuple(sorted(parts[node]))) if 1 < count <= cores[node] else Threads(count)


@lru_cache(maxsize=16)
def memory_nodes(system: System = HERE) -> dict[int, frozenset[int]]:
    """The machine's memory nodes by number, each with its CPUs; none where the system names none."""
    found = {int(path.name[4:]): _cpus(read(path / "cpulist") or "") for path in system.nodes.glob("node[0-9]*")}
    return {number: cpus for number, cpus in sorted(found.items()) if cpus}


def _cpus(text: str) -> frozenset[int]:
    """The numbers of a list like "0-3,8"."""
    ranges = [[int(end) for end in part.split("-")] for part in text.split(",") if part]
    return frozenset(cpu for ends in ranges for cpu in range(ends[0], ends[-1] + 1))


@lru_cache(maxsize=16)
def _first_ran_on(process: Path) -> int | None:
    """The CPU that ran this thread when this was first called."""
    fields = (read(process / "thread-self/stat") or "").rpartition(")")[2].split()
    return int(fields[36]) if len(fields) > 36 else None
