"""How many threads a CPU model should use: what the process may run on, not what the machine has."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from distilrt import env

MOST_THREADS = 256  # The native thread pool takes no more.
_SECONDS = 0.5  # from one look at what the process may use to the next


class ThreadCount:
    """How many threads a model computes with now: `given`, else `DISTILRT_NUM_THREADS`, else what the process may use,
    as affinity and quotas change while it runs. Safe to call from many threads."""

    def __init__(self, given: int | None) -> None:
        self._fixed = env.num_threads() if given is None else given
        self._usable, self._look_again = 0, 0.0

    def __call__(self) -> int:
        if self._fixed is not None:
            return self._fixed
        if time.monotonic() >= self._look_again:
            self._usable, self._look_again = usable_cores(), time.monotonic() + _SECONDS
        return self._usable


def usable_cores(
    cgroup: Path = Path("/sys/fs/cgroup"),
    topology: Path = Path("/sys/devices/system/cpu"),
    membership: Path = Path("/proc/self/cgroup"),
) -> int:
    """Physical cores in this thread's affinity mask, within the CPU quotas of its cgroups; 1 to 256."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = _count_cores(frozenset(allowed), topology)
    quota = min(_quotas(cgroup, membership), default=float(cores))
    return max(1, min(cores, int(quota), MOST_THREADS))


@lru_cache(maxsize=16)
def _count_cores(cpus: frozenset[int], topology: Path) -> int:
    # Two hyperthreads of a core share its vector units, so a second one only adds waiting.
    return len({_read(topology / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in cpus})


def _quotas(cgroup: Path, membership: Path) -> Iterator[float]:
    """CPUs that each of this process's cgroups, up to the root, lets it use."""
    for line in (_read(membership) or "0::/").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        place = Path(path.strip("/"))
        for each in (place, *place.parents):
            quota = _quota_of_version_1(cgroup / "cpu" / each) if controllers else _quota_of_version_2(cgroup / each)
            if quota is not None:
                yield quota


def _quota_of_version_2(group: Path) -> float | None:
    quota, _, period = (_read(group / "cpu.max") or "max").partition(" ")
    return None if quota == "max" else int(quota) / int(period)


def _quota_of_version_1(group: Path) -> float | None:
    quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota and period and int(quota) > 0 else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
