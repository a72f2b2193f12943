"""Batch sizes of the GPU backend: a ladder of buckets, and one captured graph for each.

A captured graph replays a fixed list of launches on fixed addresses, which takes the host one call instead of one a
kernel; but its grids are fixed too. So a batch runs in the smallest bucket that holds it: programs whose rows lie
beyond the batch's real tokens, a number that they read on the device, return at once. The ladder and the choice are
arithmetic without torch; what is launched, the caller knows.
"""

from __future__ import annotations

import gc
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from distilrt.errors import BackendError

_TILE_ROWS, _TILE_COLUMNS = 128, 256  # of the widest GEMM tile
_capturing = threading.Lock()  # torch allows one capture at a time in a process


class Bucket(NamedTuple):
    """Up to `tokens` rows of up to `seqs` sequences, a multiple of 4 so that `cu_seqlens[seqs]` is aligned."""

    tokens: int
    seqs: int


def top_tokens(multiprocessors: int, hidden_size: int, max_position_embeddings: int) -> int:
    """Rows of the largest bucket: as many as make one full wave of 128x256 tiles in a GEMM `hidden_size` wide.

    A wave is one tile on each multiprocessor. On the 132 of an H100 or H200 and 768 columns that is 44 x 128 = 5632
    rows, where all four GEMMs of a layer are whole waves and a layer's activations stay in L2; longer batches run as
    several of these. The longest sequence always fits.
    """
    wave = multiprocessors // -(-hidden_size // _TILE_COLUMNS) * _TILE_ROWS
    longest = -(-max_position_embeddings // _TILE_ROWS) * _TILE_ROWS
    return max(wave, longest)


def ladder(top: int) -> tuple[Bucket, ...]:
    """Buckets of 16, 32, 64, 128 tokens, then two a doubling (192, 256, 384, …), up to `top`, rising.

    A bucket holds at least 4 sequences, and one for every 8 tokens.
    """
    sizes = []
    size = 16
    while size < top:
        sizes.append(size)
        if size >= _TILE_ROWS and size * 3 // 2 < top:
            sizes.append(size * 3 // 2)
        size *= 2
    return tuple(Bucket(tokens, max(4, tokens // 8)) for tokens in [*sizes, top])


def within(
    buckets: Sequence[Bucket], nbytes: Callable[[Bucket], int], limit: int | None, longest: int
) -> tuple[Bucket, ...]:
    """The buckets whose workspace `nbytes` is at most `limit` bytes; None: all.

    Raises:
        BackendError: the bucket of one sequence of `longest` tokens is beyond the limit.
    """
    if limit is None:
        return tuple(buckets)
    kept = tuple(bucket for bucket in buckets if nbytes(bucket) <= limit)
    if not kept or kept[-1].tokens < longest:
        least = next(nbytes(bucket) for bucket in buckets if bucket.tokens >= longest)
        raise BackendError(
            f"DISTILRT_GPU_MEMORY allows {limit >> 20} MiB of workspace, and one sequence of {longest} tokens takes "
            f"{-(-least >> 20)} MiB; raise or unset it"
        )
    return kept


def pick(buckets: Sequence[Bucket], tokens: int, seqs: int) -> Bucket:
    """The smallest of rising buckets that holds so many rows and sequences; there must be one."""
    number = bisect_left(buckets, (tokens, 0))
    while buckets[number].seqs < seqs:
        number += 1
    return buckets[number]


def cut(cu_seqlens: Sequence[int], top: Bucket) -> Iterator[tuple[int, int]]:
    """Split a packed batch into runs of whole sequences that `top` holds, each as long as possible.

    Args:
        cu_seqlens: `[num_seqs + 1]` first row of each sequence, and the end; no sequence is longer than `top.tokens`.
        top: the largest bucket.

    Yields:
        First sequence and end of each run.
    """
    start, last = 0, len(cu_seqlens) - 1
    while start < last:
        end = min(bisect_right(cu_seqlens, cu_seqlens[start] + top.tokens) - 1, start + top.seqs)
        yield start, end
        start = end


class Graphs:
    """A captured graph for each key, in one shared memory pool, on torch's current device.

    Captures are made on a stream of their own, after what the current stream holds, and no other stream is waited for,
    so other threads may go on using the device, though not synchronize all of it.

    Args:
        keys: largest first, so that the pool of the first serves the others.
        launch: enqueues the kernels of a key on the current stream and does not synchronize. What it allocates while it
            is captured comes from the pool; what it returns, each replay fills anew.

    Raises:
        RuntimeError: whatever a launch or CUDA raises, no memory for the graphs above all. Nothing is left in capture.
    """

    def __init__(self, keys: Sequence[Any], launch: Callable[[Any], Any]) -> None:
        import torch

        self._graphs: dict[Any, tuple[Any, Any]] = {}
        # Not `torch.cuda.graph`: its stream stays on the device of its first use, and it synchronizes the whole device.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for key in keys:
                launch(key)  # compiles and loads the kernels, which a capture must not
            stream.synchronize()
            with _capturing:
                free, _ = torch.cuda.mem_get_info()
                pool = torch.cuda.graph_pool_handle()
                for key in keys:
                    self._graphs[key] = _captured(torch.cuda.CUDAGraph(), pool, launch, key)
                    self.replay(key)  # the first takes memory and time
                stream.synchronize()
                self.nbytes = max(0, free - torch.cuda.mem_get_info()[0])

    def __contains__(self, key: Any) -> bool:
        return key in self._graphs

    def replay(self, key: Any) -> Any:
        """Enqueue a key's graph on the current stream; what its launch returned, with new contents.

        The next replay of any key may write over those.
        """
        graph, returned = self._graphs[key]
        graph.replay()
        return returned


def _captured(graph: Any, pool: Any, launch: Callable[[Any], Any], key: Any) -> tuple[Any, Any]:
    with _no_garbage_collection():
        graph.capture_begin(pool, capture_error_mode="thread_local")
        try:
            returned = launch(key)
        except BaseException:
            with suppress(RuntimeError):  # An error of the end would hide the one that came first.
                graph.capture_end()
            raise
        graph.capture_end()
    return graph, returned


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Hold the garbage collector off: a finalizer that waits for an event of the device would spoil a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
