"""The order of the GPU hour and its time limits. Each step runs in processes of its own and ends with its limit.

Rows go to `rows.jsonl` of the output folder as they are made, a JSON object a line with the name of its step, and what
a process prints goes to a log beside it. A step that fails or runs out of time leaves what it has and ends no other.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilrt.bench.artefacts import worker_environment

SECONDS = 580.0  # The whole run ends after so many.
WORKERS = 14  # processes that compile side by side


@dataclass(frozen=True, slots=True)
class Step:
    """A step by its name in `distilrt.bench.gpu.steps`, which may have a word for it after a hyphen."""

    name: str
    seconds: float  # limit
    processes: int = 1  # So many share the work of the step.


STEPS = (
    Step("probe", 40), Step("compile", 90, WORKERS), Step("checks", 60, WORKERS), Step("tests", 60),
    Step("ours-bfloat16", 30), Step("ours-float16", 30), Step("ours-float32", 40),
    Step("sdpa-bfloat16", 20), Step("sdpa-float16", 20), Step("sdpa-float32", 20), Step("kernels", 20),
    Step("compiled-1x16", 35), Step("compiled-1x128", 30), Step("compiled-32x128", 35),
    Step("candidates", 60, WORKERS), Step("tune", 100), Step("tuned", 30), Step("cpu", 90),
)  # fmt: skip
# The interpreter's clock is no clock: one half dtype and one compiled shape suffice.
TINY_STEPS = tuple(
    Step(step.name.replace("1x128", "1x4"), 200, min(2, step.processes))
    for step in STEPS
    if step.name not in ("compiled-1x16", "compiled-32x128") and "-float16" not in step.name
)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a step finds and leaves things."""

    root: Path  # the checkout
    work: Path  # Temporary files lie here, which are removed at the end.
    out: Path  # rows and logs

    def keep(self, step: str, row: dict[str, Any]) -> None:
        """Append one row; lines of several processes do not mix, for each is one short write."""
        line = json.dumps({"step": step, **row}, default=str) + "\n"
        with (self.out / "rows.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)

    def rows(self, step: str) -> Iterator[dict[str, Any]]:
        """The rows of a step so far."""
        for line in (self.out / "rows.jsonl").read_text(encoding="utf-8").splitlines():
            if (row := json.loads(line))["step"] == step:
                yield row


def main(root: Path, work: Path, arguments: Sequence[str] | None = None) -> int:
    """Run every step.

    Args:
        root: of the checkout.
        work: a temporary folder on the path of Python.
        arguments: of the command line; None: the process's own.

    Returns:
        0; 1: a check was wrong; 2: no CUDA device.
    """
    parser = argparse.ArgumentParser(description="Correctness and speed of distilrt on a GPU, in under ten minutes.")
    parser.add_argument("--out", type=Path, required=True, help="folder for rows and logs")
    parser.add_argument("--self-test", action="store_true", help="a tiny scale on the CPU, in Triton's interpreter")
    options = parser.parse_args(arguments)
    os.environ["TRITON_INTERPRET"] = "1" if options.self_test else "0"
    from distilrt.backends.cuda.devices import why_not_cuda

    if not options.self_test and (reason := why_not_cuda()):
        print(f"no CUDA device: {reason}")
        return 2
    folders = Folders(root, work, options.out.resolve())
    folders.out.mkdir(parents=True, exist_ok=True)
    folders.keep("hour", {"what": "begin", "self_test": options.self_test})
    end = time.monotonic() + (SECONDS if not options.self_test else 3600)
    for step in TINY_STEPS if options.self_test else STEPS:
        start = time.monotonic()
        how = run(step, folders, min(step.seconds, end - start))
        row = {"what": step.name, "seconds": round(time.monotonic() - start, 1), "ended": how}
        folders.keep("hour", row)
        print(f"{step.name:20}{row['seconds']:8} s  {how}", flush=True)
    return int(any(not row.get("ok", True) for row in (*folders.rows("checks"), *folders.rows("tests"))))


def run(step: Step, folders: Folders, seconds: float) -> str:
    """Run the processes of a step for so long at most; in words, how they ended."""
    if seconds <= 1:
        return "left out: no time was left"
    end, started = time.monotonic() + seconds, []
    for part in range(step.processes):
        command = [sys.executable, "-m", "distilrt.bench.gpu.steps", step.name, str(folders.root), str(folders.work),
                   str(folders.out), str(part), str(step.processes)]  # fmt: skip
        with (folders.out / f"{step.name}{f'.{part}' if step.processes > 1 else ''}.log").open("w") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folders.work,
                                            env=worker_environment(), start_new_session=True))  # fmt: skip
    failed = late = 0
    for process in started:
        try:
            failed += process.wait(max(0.0, end - time.monotonic())) != 0
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
            process.wait()
            late += 1
    words = [f"{late} ran out of time"] if late else []
    return ", ".join([*words, f"{failed} failed"] if failed else words) or "done"
