"""How long a fresh process takes from importing an engine to its first answer, and the memory that it takes at most."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # nothing but an engine's own imports may count
    from distilrt.bench.findings import Findings
    from distilrt.bench.progress import Say
    from distilrt.bench.targets import Spec

TOKENS = 16
SECONDS = 3.0  # of a process, roughly


def measure(found: Findings, specs: Sequence[Spec], times: int, say: Say) -> None:
    """A row for each spec with medians of `times` processes, after one that converts and compiles what is kept."""
    from distilrt.bench.artefacts import last_line, worker_environment

    for spec in specs:
        say(f"starting {spec.named}", (times + 1) * SECONDS)
        words = [spec.name, spec.form, spec.dtype, spec.model, str(spec.threads)]
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(Path(spec.model) / "exports" / "inductor")}
        start = partial(subprocess.run, [sys.executable, "-m", "distilrt.bench.startup", *words], check=True,
                        env=worker_environment(spec.threads) | cache, capture_output=True, text=True)  # fmt: skip
        try:
            seen = [json.loads(start().stdout.splitlines()[-1]) for _ in range(times + 1)]
        except subprocess.CalledProcessError as error:
            found.left_out.append(f"{spec.named}: {last_line(error.stderr)}")
            continue
        seconds, peaks, versions = zip(*seen[1:], strict=True)
        found.rows.append({
            "target": spec.label, "form": spec.form, "dtype": spec.dtype, "version": versions[0],
            "scenario": "startup", "workload": f"1x{TOKENS}", "queries": times,
            "start_s": round(statistics.median(seconds), 3), "peak_mb": round(statistics.median(peaks)),
        })  # fmt: skip


def _first_answer(name: str, form: str, dtype: str, checkpoint: str, num_threads: str) -> tuple[float, float, str]:
    """Seconds and megabytes of this process; nothing heavy may be imported before it."""
    start = time.perf_counter()
    import numpy as np

    from distilrt.bench import artefacts, peers

    peer = peers.create(name, form, dtype)
    peer.load(Path(checkpoint), int(num_threads))
    peer.batch([np.arange(1, TOKENS + 1)])
    seconds = time.perf_counter() - start
    return seconds, artefacts.memory_mb() or 0.0, peer.version


if __name__ == "__main__":
    print(json.dumps(_first_answer(*sys.argv[1:])))
