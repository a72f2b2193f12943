"""csrc/thread_pool.* and fork_lock.*: many callers, more threads than cores, forked children.

Numbers must not depend on any of it.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import sysconfig
import threading
import time
from typing import Any

import numpy as np
import pytest

from distilrt import _C
from distilrt.backends.cpu import CpuBackend
from distilrt.batch import Batch, pack
from distilrt.checkpoint.weights import random_weights
from distilrt.cpu_count import usable_cores
from distilrt.model.config import DistilBertConfig

CONFIG = DistilBertConfig(dim=64, n_heads=2, n_layers=2, hidden_dim=96, vocab_size=50)


def _backend(num_threads: int) -> CpuBackend:
    return CpuBackend(CONFIG, random_weights(CONFIG, "DistilBertModel"), num_threads=num_threads)


def _batch(*lengths: int) -> Batch:
    rng = np.random.default_rng(sum(lengths))
    return pack(CONFIG, [rng.integers(0, CONFIG.vocab_size, length) for length in lengths])


@pytest.mark.parametrize("num_threads", [2, 3, 7, 17, 64])
def test_thread_count_does_not_change_a_bit(num_threads: int) -> None:
    batch = _batch(1, 64, 130, 7)
    np.testing.assert_array_equal(_backend(num_threads).forward(batch), _backend(1).forward(batch))


def test_32_callers_share_one_model() -> None:
    backend = _backend(2)
    batches = [_batch(1 + i, 3 + 2 * i) for i in range(32)]
    expected = [backend.forward(batch) for batch in batches]
    failures: list[Any] = []

    def call(i: int) -> None:
        for round_ in range(20):
            mine = (i + round_) % len(batches)
            if not np.array_equal(backend.forward(batches[mine]), expected[mine]):
                failures.append((i, round_))

    threads = [threading.Thread(target=call, args=(i,)) for i in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


def test_models_with_different_thread_counts_take_turns() -> None:
    backends = [_backend(n) for n in (1, 2, 3)]
    batch = _batch(40, 9)
    expected = backends[0].forward(batch)
    failures: list[int] = []

    def call(i: int) -> None:
        for _ in range(100):
            if not np.array_equal(backends[i % 3].forward(batch), expected):
                failures.append(i)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


def test_facts_are_told_while_others_compute() -> None:
    backend, done = _backend(2), threading.Event()
    sizes: set[int] = set()

    def ask() -> None:
        while not done.is_set():
            sizes.add(backend.describe()["workspace_bytes"])

    asking = threading.Thread(target=ask)
    asking.start()
    for length in range(1, 500, 25):
        backend.forward(_batch(length, length))
    done.set()
    asking.join(60)
    assert max(sizes | {0}) <= backend.describe()["workspace_bytes"]
    assert backend._encoder.workspace_bytes > 0


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
def test_python_stays_without_a_gil() -> None:
    code = "import sys; from distilrt import _C; sys.exit(sys._is_gil_enabled())"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_that_rest_miss_the_end_of_a_region() -> None:
    """With many threads a core, most rest while others finish the forward, and come back to a later one or to none."""
    config = DistilBertConfig(dim=128, n_heads=4, n_layers=2, hidden_dim=512, vocab_size=50)
    weights, batch = random_weights(config, "DistilBertModel"), _batch(300)
    crowd = CpuBackend(config, weights, num_threads=16)
    expected = CpuBackend(config, weights, num_threads=1).forward(batch)
    for _ in range(10):
        np.testing.assert_array_equal(crowd.forward(batch), expected)


def _follow_affinity() -> None:
    """In a process of its own: take a core away from the thread that computes, and give it back."""
    allowed, before = os.sched_getaffinity(0), set(os.listdir("/proc/self/task"))
    backend, batch = CpuBackend(CONFIG, random_weights(CONFIG, "DistilBertModel")), _batch(512)
    expected = _backend(1).forward(batch)
    for mask in (allowed, {min(allowed)}, allowed):
        os.sched_setaffinity(0, mask)
        due = time.monotonic() + 60
        while True:  # three threads whatever is allowed, and as many as are
            for each in (_backend(3), backend):
                np.testing.assert_array_equal(each.forward(batch), expected)
            workers = set(os.listdir("/proc/self/task")) - before
            masks = [os.sched_getaffinity(int(worker)) for worker in workers]
            if backend.describe()["num_threads"] == usable_cores() and masks.count(mask) >= 2:
                break
            assert time.monotonic() < due, (mask, masks, backend.describe())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux tells which CPUs a thread may use")
def test_threads_follow_what_their_caller_may_use() -> None:
    code = "import test_thread_pool; test_thread_pool._follow_affinity()"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("DISTILRT_NUM_THREADS", None)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.path.dirname(__file__), env=environment)


def _answer_in_child(backend: CpuBackend, batch: Batch, queue: Any) -> None:
    queue.put(backend.forward(batch))


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_forked_child_computes_with_a_pool_of_its_own() -> None:
    backend, batch = _backend(2), _batch(33, 5)
    expected = backend.forward(batch)  # the parent's pool has started
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_answer_in_child, args=(backend, batch, queue))
    child.start()
    answer = queue.get(timeout=60)
    child.join(60)
    np.testing.assert_array_equal(answer, expected)
    np.testing.assert_array_equal(backend.forward(batch), expected)


def test_child_forked_during_forwards_of_other_threads() -> None:
    """It must not inherit the model locked by a thread that it does not have."""
    backend, batch = _backend(2), _batch(200, 31)
    expected = backend.forward(batch)
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            backend.forward(batch)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context("fork")
    try:
        for _ in range(8):
            queue = context.Queue()
            child = context.Process(target=_answer_in_child, args=(backend, batch, queue))
            child.start()
            answer = queue.get(timeout=60)
            child.join(60)
            np.testing.assert_array_equal(answer, expected)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_idle_threads_sleep() -> None:
    backend = _backend(2)
    backend.forward(_batch(8))
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05  # CPU seconds of all threads, not wall time


def test_one_thread_starts_none() -> None:
    code = (
        "import os; import test_thread_pool as t; b = t._backend(1); n = len(os.listdir('/proc/self/task'));"
        "b.forward(t._batch(8)); assert len(os.listdir('/proc/self/task')) == n"
    )
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("needs /proc")
    folder = os.path.dirname(__file__)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_unknown_isa_is_an_error() -> None:
    with pytest.raises(ValueError, match="generic"):
        _C.Kernels("pentium")
