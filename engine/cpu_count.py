"""How many cores a process may use: what it may run on, not what the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

MOST_THREADS = 256  # The native thread pool takes no more.


class System(NamedTuple):
    """Where Linux says what there is and what a process may use."""

    cpus: Path = Path("/sys/devices/system/cpu")
    nodes: Path = Path("/sys/devices/system/node")
    cgroup: Path = Path("/sys/fs/cgroup")
    process: Path = Path("/proc")


HERE = System()


def usable_cores(system: System = HERE) -> int:
    """Physical cores in this thread's affinity mask, within the CPU quotas of its cgroups; 1 to 256."""
    return within_quota(count_cores(allowed_cpus(), system), system)


def allowed_cpus() -> frozenset[int]:
    """This thread's affinity mask."""
    return frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def within_quota(cores: int, system: System) -> int:
    """As many of so many cores as the quotas of this process's cgroups let it use; 1 to 256."""
    quota = min(_quotas(system), default=float(cores))
    return max(1, min(cores, int(quota), MOST_THREADS))


@lru_cache(maxsize=16)
def count_cores(cpus: frozenset[int], system: System) -> int:
    """Physical cores of these CPUs. Two hyperthreads of one share its vector units, so a second only adds waiting."""
    return len({read(system.cpus / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in cpus})


def _quotas(system: System) -> Iterator[float]:
    """CPUs that each of this process's cgroups, up to the root, lets it use."""
    for line in (read(system.process / "self/cgroup") or "0::/").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        place = Path(path.strip("/"))
        for each in (place, *place.parents):
            root = system.cgroup
            quota = _quota_of_version_1(root / "cpu" / each) if controllers else _quota_of_version_2(root / each)
            if quota is not None:
                yield quota


def _quota_of_version_2(group: Path) -> float | None:
    quota, _, period = (read(group / "cpu.max") or "max").partition(" ")
    return None if quota == "max" else int(quota) / int(period)


def _quota_of_version_1(group: Path) -> float | None:
    quota, period = read(group / "cpu.cfs_quota_us"), read(group / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota and period and int(quota) > 0 else None


def read(path: Path) -> str | None:
    """The text of one of the system's small files; None where there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return None
