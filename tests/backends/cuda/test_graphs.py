"""engine/backends/cuda/graphs.py: the ladder, the choice of a bucket, the cut into parts.

Capture itself needs a GPU; here a stand-in of torch.cuda writes down what is asked of it, and in which order.
"""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from distilrt.backends.cuda.graphs import Bucket, Graphs, cut, ladder, pick, top_tokens, within
from distilrt.errors import BackendError


def test_the_top_is_one_wave_of_tiles() -> None:
    assert top_tokens(132, 768, 512) == 44 * 128  # H100 and H200: 44 x 3 tiles
    assert top_tokens(108, 768, 512) == 36 * 128  # A100
    assert top_tokens(132, 1024, 512) == 33 * 128
    assert top_tokens(132, 100, 512) == 132 * 128
    assert top_tokens(2, 768, 512) == 512  # the longest sequence fits all the same
    assert top_tokens(2, 768, 513) == 640


@pytest.mark.parametrize("top", [16, 20, 128, 512, 640, 4224, 4608, 5632, 16896])
def test_steps_of_the_ladder(top: int) -> None:
    buckets = ladder(top)
    sizes = [bucket.tokens for bucket in buckets]
    assert sizes[-1] == top
    assert sizes[0] == 16
    for small, large in pairwise(sizes):
        assert small < large <= (2 if small < 128 else 1.5) * small
    for bucket in buckets:
        assert bucket.seqs == max(4, bucket.tokens // 8)
        assert bucket.tokens % 16 or bucket.seqs % 2 == 0


def test_sequences_of_real_ladders_keep_alignment() -> None:
    for top in (512, 4224, 4608, 5632, 16896):
        assert all(bucket.seqs % 4 == 0 for bucket in ladder(top))


def test_pick_takes_the_smallest_that_holds() -> None:
    buckets = ladder(5632)
    assert pick(buckets, 0, 0) == Bucket(16, 4)
    assert pick(buckets, 16, 4) == Bucket(16, 4)
    assert pick(buckets, 17, 1) == Bucket(32, 4)
    assert pick(buckets, 16, 5).seqs == 8
    assert pick(buckets, 5632, 704).tokens == 5632
    rng = np.random.default_rng()
    for _ in range(200):
        tokens = int(rng.integers(1, 5633))
        bucket = pick(buckets, tokens, int(rng.integers(1, tokens // 8 + 2)))
        assert tokens <= bucket.tokens <= max(16, 2 * tokens)


def test_cut_makes_the_fewest_parts_in_order() -> None:
    top = Bucket(64, 8)
    rng = np.random.default_rng()
    for _ in range(200):
        lengths = rng.integers(1, 65, rng.integers(1, 40))
        if rng.random() < 0.5:
            lengths = rng.integers(1, 5, rng.integers(1, 40))
        ends = [0, *np.cumsum(lengths).tolist()]
        parts = list(cut(ends, top))
        assert [part[0] for part in parts] == [0, *(part[1] for part in parts[:-1])]
        assert parts[-1][1] == len(lengths)
        for start, end in parts:
            assert ends[end] - ends[start] <= top.tokens
            assert 1 <= end - start <= top.seqs
        for (start, end), _ in pairwise(parts):  # none could have taken one more
            assert ends[end + 1] - ends[start] > top.tokens or end + 1 - start > top.seqs
    assert list(cut([0], top)) == []


def test_a_limit_keeps_the_lower_buckets() -> None:
    buckets = ladder(5632)
    assert within(buckets, lambda bucket: bucket.tokens << 10, None, 512) == buckets
    kept = within(buckets, lambda bucket: bucket.tokens << 10, 1 << 20, 512)
    assert kept[-1].tokens == 1024
    with pytest.raises(BackendError, match=r"DISTILRT_GPU_MEMORY allows 0 MiB.*512 tokens takes 1 MiB"):
        within(buckets, lambda bucket: bucket.tokens << 10, 1 << 18, 512)
    with pytest.raises(BackendError, match=r"DISTILRT_GPU_MEMORY allows 0 MiB.*takes 1 MiB"):
        within(buckets, lambda bucket: bucket.tokens << 10, 1, 512)


class Cuda:
    """As much of torch.cuda as a capture uses. `log` has the calls; `current` is the stream of the current thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.current = "caller"
        self.in_capture = 0
        self.most_in_capture = 0
        cuda = self

        class Stream:
            def wait_stream(self, other: str) -> None:
                cuda.log.append(f"wait for {other}")

            def synchronize(self) -> None:
                cuda.log.append("synchronize")

        class Graph:
            def capture_begin(self, pool: str, capture_error_mode: str) -> None:
                assert (pool, capture_error_mode) == ("pool", "thread_local")
                cuda.in_capture += 1
                cuda.most_in_capture = max(cuda.most_in_capture, cuda.in_capture)
                cuda.log.append(f"begin on {cuda.current}")

            def capture_end(self) -> None:
                cuda.in_capture -= 1
                cuda.log.append("end")
                if "broken" in cuda.log:
                    raise RuntimeError("operation failed due to a previous error during capture")

            def replay(self) -> None:
                cuda.log.append("replay")

        @contextmanager
        def use(stream: Stream) -> Any:
            cuda.current = "its own stream"
            try:
                yield
            finally:
                cuda.current = "caller"

        replaced = {
            "Stream": Stream, "CUDAGraph": Graph, "stream": use, "current_stream": lambda: "caller",
            "mem_get_info": lambda: (100 - len(cuda.log), 100), "graph_pool_handle": lambda: "pool",
        }  # fmt: skip
        for name, value in replaced.items():
            monkeypatch.setattr(torch.cuda, name, value)
        # Either would wait for other threads' work, or stop their captures.
        for name in ("synchronize", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, lambda name=name: pytest.fail(f"called {name}"))


def test_capture_warms_up_first_and_replays_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)

    def launch(key: str) -> str:
        cuda.log.append(f"launch {key} on {cuda.current}")
        return f"output {len(cuda.log)} of {key}"

    graphs = Graphs(["big", "small"], launch)
    own = "its own stream"
    assert cuda.log == [
        "wait for caller", f"launch big on {own}", f"launch small on {own}", "synchronize",
        f"begin on {own}", f"launch big on {own}", "end", "replay",
        f"begin on {own}", f"launch small on {own}", "end", "replay", "synchronize",
    ]  # fmt: skip
    assert graphs.nbytes == 9
    assert graphs.replay("small") == "output 10 of small", "what was returned while it was captured"
    assert cuda.log[-1] == "replay"
    assert "small" in graphs
    assert "other" not in graphs


def test_an_error_inside_a_capture_ends_it_and_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    calls: list[str] = []

    def launch(key: str) -> None:
        calls.append(key)
        if len(calls) > 2:
            cuda.log.append("broken")
            raise torch.OutOfMemoryError("1 TiB")

    with pytest.raises(torch.OutOfMemoryError, match="1 TiB"):
        Graphs(["big", "small"], launch)
    assert cuda.log[-1] == "end"
    assert cuda.in_capture == 0
    Cuda(monkeypatch)
    Graphs(["big"], lambda key: None)  # nothing is held that the next load would need


def test_no_garbage_is_collected_inside_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is collected may wait for an event of the device, which would spoil the capture."""
    cuda = Cuda(monkeypatch)
    collects: list[tuple[bool, bool]] = []
    Graphs(["big"], lambda key: collects.append((cuda.in_capture > 0, gc.isenabled())))
    assert collects == [(False, True), (True, False)]
    assert gc.isenabled()


def test_one_capture_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that load in several threads take turns, for torch has one capture a process."""
    cuda = Cuda(monkeypatch)
    met = threading.Barrier(3)

    def load() -> None:
        met.wait(20)
        Graphs(range(20), lambda key: None)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert cuda.log.count("end") == 60
    assert cuda.most_in_capture == 1
