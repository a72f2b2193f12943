"""engine/cpu_count.py on made-up machines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distilrt.cpu_count import System, usable_cores


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    """Four CPUs, two to a core, all of them allowed."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        write(tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list", siblings)
    return System(tmp_path, tmp_path, tmp_path / "cgroup", tmp_path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


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
def test_quota(system: System, files: dict[str, str], cores: int) -> None:
    write(system.process / "self/cgroup", "1:cpu:/\n0::/")
    for name, text in files.items():
        write(system.cgroup / name, text)
    assert usable_cores(system) == cores


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
def test_quota_of_a_group_within_others(system: System, groups: str, files: dict[str, str], cores: int) -> None:
    write(system.process / "self/cgroup", groups)
    for name, text in files.items():
        write(system.cgroup / name, text)
    assert usable_cores(system) == cores


def test_affinity(monkeypatch: pytest.MonkeyPatch, system: System) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})  # two hyperthreads of one core
    assert usable_cores(system) == 1


def test_machine_without_topology_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7})
    assert usable_cores(System(tmp_path, tmp_path, tmp_path, tmp_path)) == 3


def test_this_machine() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
