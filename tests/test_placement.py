"""engine/placement.py on made-up machines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distilrt.cpu_count import System
from distilrt.placement import Placement, Threads, memory_nodes, place


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    """Two memory nodes of two cores with two CPUs each, and one of memory alone. This process began on CPU 5."""
    allow(monkeypatch, *range(8))
    found = System(*(tmp_path / name for name in ("cpus", "nodes", "cgroup", "process")))
    for cpu in range(8):
        write(found.cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list", f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}")
    for node, cpus in enumerate(("0-3", "4-5,6,7", "")):
        write(found.nodes / f"node{node}" / "cpulist", cpus)
    run_on(found, 5)
    return found


def allow(monkeypatch: pytest.MonkeyPatch, *cpus: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cpus))


def run_on(system: System, cpu: int) -> None:
    write(system.process / "thread-self" / "stat", f"7 (a) b) S{' 0' * 35} {cpu} 0 0")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_nodes(system: System) -> None:
    assert memory_nodes(system) == {0: {0, 1, 2, 3}, 1: {4, 5, 6, 7}}


def test_threads_stay_beside_the_node_that_the_process_began_on(system: System) -> None:
    beside = (4, 5, 6, 7)
    assert place(None, system) == Threads(2, 1, beside)
    assert place(2, system) == Threads(2, 1, beside)
    run_on(system, 0)  # its memory stays where it is
    assert place(None, system) == Threads(2, 1, beside)


def test_more_threads_than_a_node_has_cores_run_everywhere(system: System) -> None:
    assert place(3, system) == Threads(3)
    assert place(8, system) == Threads(8)


def test_one_thread_runs_where_its_caller_does(system: System) -> None:
    assert place(1, system) == Threads(1)


def test_affinity_chooses(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 0, 1, 2, 3)  # one node is left, where threads run anyway
    assert place(None, system) == Threads(2)
    allow(monkeypatch, 0, 1, 2, 3, 4)
    assert place(None, system) == Threads(2, 0, (0, 1, 2, 3))
    allow(monkeypatch, 0, 2, 4, 6)
    assert place(None, system) == Threads(2, 1, (4, 6))
    allow(monkeypatch, 0, 1, 4, 5)  # a core of each
    assert place(2, system) == Threads(2)


def test_quota_leaves_fewer_threads_beside_the_node(system: System, tmp_path: Path) -> None:
    write(system.process / "self/cgroup", "0::/")
    write(system.cgroup / "cpu.max", "100000 100000")
    assert place(None, system) == Threads(1)


def test_system_that_names_no_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 0, 1)
    nothing = System(tmp_path, tmp_path, tmp_path, tmp_path)
    assert memory_nodes(nothing) == {}
    assert place(None, nothing) == Threads(2)


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILRT_NUM_THREADS", "3")
    assert Placement(None)().num_threads == 3
    assert Placement(2)().num_threads == 2
