"""engine/cpu_count.py on made-up machines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distilrt.cpu_count import usable_cores


@pytest.fixture
def topology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four CPUs, two to a core, all of them allowed."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 2),
        ({"cpu.max": "max 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "900000 100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_quota(tmp_path: Path, topology: Path, files: dict[str, str], cores: int) -> None:
    cgroup = tmp_path / "cgroup"
    for name, text in files.items():
        path = cgroup / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    membership = tmp_path / "membership"
    membership.write_text("1:cpu:/\n0::/\n")
    assert usable_cores(cgroup, topology, membership) == cores


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/system.slice/app.service", {"system.slice/app.service/cpu.max": "100000 100000"}, 1),
        ("0::/system.slice/app.service", {"system.slice/cpu.max": "100000 100000"}, 1),
        ("0::/system.slice/app.service", {"other.slice/cpu.max": "100000 100000"}, 2),
        (
            "4:memory:/app\n3:cpu,cpuacct:/app\n0::/app",
            {"cpu/app/cpu.cfs_quota_us": "100000", "cpu/app/cpu.cfs_period_us": "100000"},
            1,
        ),
    ],
)
def test_quota_of_a_group_within_others(
    tmp_path: Path, topology: Path, groups: str, files: dict[str, str], cores: int
) -> None:
    membership = tmp_path / "membership"
    membership.write_text(groups + "\n")
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert usable_cores(tmp_path / "cgroup", topology, membership) == cores


def test_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, topology: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})  # two hyperthreads of one core
    assert usable_cores(tmp_path / "cgroup", topology) == 1


def test_machine_without_topology_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7})
    assert usable_cores(tmp_path, tmp_path) == 3


def test_this_machine() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
