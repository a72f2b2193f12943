"""One engine in a process of its own, and the other end of the pipe to it.

Engines bring thread pools and OpenMP runtimes that disturb each other inside one process. Apart, each spins and sleeps
as it does alone, and all but one wait on a pipe. A worker times what it is told to; it knows nothing of comparisons.
"""

from __future__ import annotations

import os
import pickle
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from distilrt.bench import peers
from distilrt.bench.artefacts import last_line, worker_environment
from distilrt.bench.workloads import Inputs

PATIENCE = 900.0  # seconds for one answer; a first call may compile or convert a model
SETTLE = 0.02  # seconds in which an engine's threads must have stopped spinning; OpenMP's take some milliseconds


class PeerError(Exception):
    """An engine failed; the message is its reason."""


class Worker:
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
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        # Compiled kernels, too, are kept with the checkpoint.
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(checkpoint / "exports" / "inductor")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "distilrt.bench.worker", name, dtype],
            env=worker_environment(num_threads) | cache,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        try:
            self.version: str = self._ask("load", checkpoint, num_threads)
        except BaseException:
            self.close()
            raise

    def set_inputs(self, batches: Sequence[Inputs]) -> None:
        """Hand over the batches that the following calls name by index."""
        self._ask("set_inputs", list(batches))

    def answer(self, index: int) -> npt.NDArray[np.float32]:
        """Logits of batch `index`."""
        logits: npt.NDArray[np.float32] = self._ask("answer", index)
        return logits

    def turn(self, indices: Sequence[int], warm: int = 0, runs: int = 1) -> list[float]:
        """Seconds for all of `indices`, `runs` times in a row, after `warm` untimed times."""
        times: list[float] = self._ask("turn", list(indices), warm, runs)
        return times

    def idle_load(self) -> float:
        """Cores that the engine keeps busy after a run, once it had `SETTLE` to stop spinning."""
        load: float = self._ask("idle_load")
        return load

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, method: str, *arguments: Any) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            pickle.dump((method, arguments), stdin)
            stdin.flush()
            if not select.select([stdout], [], [], PATIENCE)[0]:
                self._process.kill()
                raise PeerError(f"no answer in {PATIENCE:.0f} s")
            failed, result = pickle.load(stdout)
        except (EOFError, OSError):
            status = self._process.wait()
            self._log.seek(0)
            said = last_line(self._log.read().decode(errors="replace"))
            raise PeerError(f"its process ended with {status}: {said}") from None
        if failed:
            raise PeerError(result)
        return result


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


def _serve(name: str, dtype: str) -> None:
    """Answer on standard output until standard input ends."""
    answers: IO[bytes] = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what engines print must not get between the answers
    served = _Served(peers.create(name, dtype))
    with suppress(EOFError):
        while True:
            method, arguments = pickle.load(sys.stdin.buffer)
            try:
                answer = (False, getattr(served, method)(*arguments))
            except Exception as error:
                answer = (True, f"{type(error).__name__}: {last_line(str(error))}")
            pickle.dump(answer, answers)
            answers.flush()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
