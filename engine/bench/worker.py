"""One engine in a process of its own, and the other end of the pipe to it.

Engines bring thread pools and OpenMP runtimes that disturb each other inside one process. Apart, each spins and sleeps
as it does alone, and all but one wait on a pipe. A worker times what it is told to; it knows nothing of comparisons.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt.bench import peers
from distilrt.bench.artefacts import worker_environment
from distilrt.bench.child import Child, serve
from distilrt.bench.workloads import Inputs

SETTLE = 0.02  # seconds in which an engine's threads must have stopped spinning; OpenMP's take some milliseconds


class Worker(Child):
    """A loaded engine.

    Args:
        name, dtype: of `peers.ENGINES`.
        checkpoint: what it loads.
        num_threads: what it may use.

    Raises:
        PeerError: it could not be loaded.
    """

    def __init__(self, name: str, dtype: str, checkpoint: Path, num_threads: int) -> None:
        self.name, self.dtype = name, dtype
        # Compiled kernels, too, are kept with the checkpoint.
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(checkpoint / "exports" / "inductor")}
        super().__init__("distilrt.bench.worker", name, dtype, environment=worker_environment(num_threads) | cache)
        try:
            self.version: str = self.ask("load", checkpoint, num_threads)
        except BaseException:
            self.close()
            raise

    def set_inputs(self, batches: Sequence[Inputs]) -> None:
        """Hand over the batches that the following calls name by index."""
        self.ask("set_inputs", list(batches))

    def answer(self, index: int) -> npt.NDArray[np.float32]:
        """Logits of batch `index`."""
        logits: npt.NDArray[np.float32] = self.ask("answer", index)
        return logits

    def turn(self, indices: Sequence[int], warm: int = 0, runs: int = 1) -> list[float]:
        """Seconds for all of `indices`, `runs` times in a row, after `warm` untimed times."""
        times: list[float] = self.ask("turn", list(indices), warm, runs)
        return times

    def idle_load(self) -> float:
        """Cores that the engine keeps busy after a run, once it had `SETTLE` to stop spinning."""
        load: float = self.ask("idle_load")
        return load


class _Served:
    """What a worker's process answers; its methods are `Worker`'s."""

    def __init__(self, peer: peers.Peer) -> None:
        self._peer = peer
        self._inputs: list[Inputs] = []

    def load(self, checkpoint: Path, num_threads: int) -> str:
        self._peer.load(checkpoint, num_threads)
        return self._peer.version

    def set_inputs(self, batches: list[Inputs]) -> None:
        self._inputs = batches

    def answer(self, index: int) -> npt.NDArray[np.float32]:
        return run(self._peer, self._inputs[index])

    def turn(self, indices: list[int], warm: int, runs: int) -> list[float]:
        batches = [self._inputs[index] for index in indices]
        times = []
        for _ in range(warm + runs):
            start = time.perf_counter()
            for inputs in batches:
                run(self._peer, inputs)
            times.append(time.perf_counter() - start)
        return times[warm:]

    def idle_load(self) -> float:
        run(self._peer, self._inputs[0])
        time.sleep(SETTLE)
        start, busy = time.perf_counter(), time.process_time()
        time.sleep(0.1)
        return (time.process_time() - busy) / (time.perf_counter() - start)


def run(peer: peers.Peer, inputs: Inputs) -> npt.NDArray[np.float32]:
    """Logits of one batch; an engine that takes sequences without padding gets them so where there is padding."""
    packed: Any = getattr(peer, "run_packed", None)
    if packed is not None and inputs.ragged:
        logits: npt.NDArray[np.float32] = packed(inputs.sequences)
        return logits
    return peer.run(inputs.input_ids, inputs.attention_mask)


if __name__ == "__main__":
    serve(_Served(peers.create(*sys.argv[1:])))
