"""How long a fresh process takes from importing an engine to its first answer, and the memory that it takes at most."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENS = 16
SECONDS = 3.0  # of a process, roughly
FIELDS = ("date", "commit", "cpu", "isa", "threads", "load", "engine", "dtype", "times", "seconds", "peak_mb")


@dataclass(frozen=True, slots=True)
class Startup:
    """Medians of several processes, or why there are none."""

    engine: str
    dtype: str
    seconds: float | None = None
    peak_mb: float | None = None
    reason: str = ""
    times: int = 0


def measure(name: str, dtype: str, checkpoint: Path, num_threads: int, times: int = 3) -> Startup:
    """Start `times` processes, after one that converts and compiles what is kept and brings files into memory."""
    from distilrt.bench.artefacts import last_line, worker_environment

    command = [sys.executable, "-m", "distilrt.bench.startup", name, dtype, str(checkpoint), str(num_threads)]
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(checkpoint / "exports" / "inductor")}
    found = []
    for _ in range(times + 1):
        done = subprocess.run(
            command, env=worker_environment(num_threads) | cache, capture_output=True, text=True, check=False
        )
        if done.returncode:
            return Startup(name, dtype, reason=last_line(done.stderr))
        found.append(json.loads(done.stdout.splitlines()[-1]))
    seconds, peaks = zip(*found[1:], strict=True)
    return Startup(name, dtype, statistics.median(seconds), statistics.median(peaks), times=times)


def rows(results: Sequence[Startup], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row of `FIELDS` for each that started; `facts` are those of the machine."""
    return [{**facts, "engine": each.engine, "dtype": each.dtype, "times": each.times,
             "seconds": round(each.seconds, 3), "peak_mb": round(each.peak_mb)}
            for each in results if each.seconds is not None and each.peak_mb is not None]  # fmt: skip


def table(results: Sequence[Startup]) -> str:
    """One line each."""
    lines = [f"{'engine':<19}{'dtype':<10}{'seconds':>9}{'peak MB':>9}"]
    for each in results:
        numbers = each.reason if each.seconds is None else f"{each.seconds:>9.2f}{each.peak_mb:>9.0f}"
        lines.append(f"{each.engine:<19}{each.dtype:<10}{numbers}")
    return "\n".join(lines)


def _first_answer(name: str, dtype: str, checkpoint: str, num_threads: str) -> tuple[float, float]:
    """Seconds and megabytes of this process; nothing heavy may be imported before it."""
    start = time.perf_counter()
    from distilrt.bench import peers, workloads

    inputs = workloads.make_inputs([[TOKENS]], 100)[0]
    peer = peers.create(name, dtype)
    peer.load(Path(checkpoint), int(num_threads))
    peer.run(inputs.input_ids, inputs.attention_mask)
    seconds = time.perf_counter() - start
    # Not getrusage, whose peak a process inherits from the one that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return seconds, int(status["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    print(json.dumps(_first_answer(*sys.argv[1:])))
