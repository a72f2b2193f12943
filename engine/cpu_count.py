"""How many threads a CPU model should use: what the process may run on, not what the machine has."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup"), topology: Path = Path("/sys/devices/system/cpu")) -> int:
    """Physical cores in this process's affinity mask, within its cgroup's CPU quota; at least 1."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    # Two hyperthreads of a core share its vector units, so a second one only adds waiting.
    cores = {_read(topology / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed}
    quota = _quota(cgroup)
    return max(1, min(len(cores), int(quota) if quota else len(cores)))


def _quota(cgroup: Path) -> float | None:
    """CPUs that the cgroup (version 2, else 1) lets this process use; None: no limit."""
    version2 = (_read(cgroup / "cpu.max") or "").split()
    if len(version2) == 2:
        return None if version2[0] == "max" else int(version2[0]) / int(version2[1])
    quota, period = _read(cgroup / "cpu/cpu.cfs_quota_us"), _read(cgroup / "cpu/cpu.cfs_period_us")
    return int(quota) / int(period) if quota and period and int(quota) > 0 else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
