"""The first hour on a GPU in under ten minutes: `python benches/gpu_hour.py --out DIR [--self-test]`.

It runs the tests and benches of the GPU from this checkout, with nothing installed: it needs a Python with torch,
triton, numpy, safetensors, tokenizers, transformers and pytest, and pytest-xdist to compile side by side. Each step is
a process with a time limit; one that fails or runs out of time leaves its rows in DIR/rows.jsonl and its log beside it,
and ends no other. Exit code 1: a check failed, 2: no CUDA device. `--self-test`: a tiny scale on the CPU, in Triton's
interpreter.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 580.0  # The whole run ends after so many.
# Where the processor has AMX: the native extension built from a copy of its sources, its times, and tests of its tiles.
NATIVE = """
lscpu
grep -q amx_tile /proc/cpuinfo || { echo this machine has no AMX; exit 0; }
mkdir build && cp -r "$ROOT"/{engine,kernels,csrc,tests,setup.py,pyproject.toml,README.md,LICENSE} build || exit
cd build && "$PYTHON" setup.py -q build --build-base made || exit
export PYTHONPATH=$(echo "$PWD"/made/lib*) && cd .. || exit
"$PYTHON" -m distilrt bench compare --peers distilrt --workloads 1x16,1x128,8x128 --duration 1 --json "$OUT/cpu.json"
"$PYTHON" -P -m pytest -q -x build/tests/csrc -k avx512_amx -p no:cacheprovider
"""


@dataclass(frozen=True)
class Step:
    """Files for pytest, and which of their tests; without files, `NATIVE`."""

    name: str
    seconds: float  # limit
    files: str = ""
    only: str = ""
    parallel: bool = False  # on many processes
    tiny: bool = True  # Whether it is a part of the self-test.


MODEL = "benches/bench_gpu_model.py"
STEPS = (
    Step("device", 40, "benches/bench_gpu_device.py"),
    Step("compile", 90, "tests/gpu/test_compile.py", "load", parallel=True),
    Step("checks", 60, "tests/gpu/test_kernels.py", parallel=True),
    Step("tests", 60, "tests/gpu/test_device.py tests/gpu/test_heads.py"),
    Step("ours-bfloat16", 30, MODEL, "test_ours and bfloat16"),
    Step("ours-float16", 30, MODEL, "test_ours and float16 and not bfloat16", tiny=False),
    Step("ours-float32", 40, MODEL, "test_ours and float32"),
    Step("ours-8-bits", 40, MODEL, "test_ours and (float8 or int8)"),
    Step("sdpa-bfloat16", 25, MODEL, "test_sdpa and bfloat16"),
    Step("sdpa-float16", 25, MODEL, "test_sdpa and float16 and not bfloat16", tiny=False),
    Step("sdpa-float32", 25, MODEL, "test_sdpa and float32"),
    Step("kernels", 20, "benches/bench_kernels.py", "bfloat16 and (5632 or 8])"),
    Step("compiled-1x16", 35, MODEL, "test_compiled and (1x16 or 1x4)"),
    Step("compiled-1x128", 30, MODEL, "test_compiled and 1x128", tiny=False),
    Step("compiled-32x128", 35, MODEL, "test_compiled and 32x128", tiny=False),
    Step("candidates", 60, "tests/gpu/test_compile.py", "candidates", parallel=True),
    Step("tune", 100, MODEL, "test_one_kernel or (test_tiles and bfloat16)"),
    Step("tuned", 30, MODEL, "test_ours and bfloat16"),
    Step("cpu", 90),
    Step("tune-float32", 60, MODEL, "test_tiles and float32"),  # in the time that is left
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every step; the exit code."""
    parser = argparse.ArgumentParser(description="Correctness and speed of distilrt on a GPU, in under ten minutes.")
    parser.add_argument("--out", type=Path, required=True, help="folder for rows and logs")
    parser.add_argument("--self-test", action="store_true", help="a tiny scale on the CPU, in Triton's interpreter")
    options = parser.parse_args(arguments)
    out, tiny, code = options.out.resolve(), options.self_test, 0
    with tempfile.TemporaryDirectory() as folder:
        work = link(Path(folder))
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH")))),
            "TMPDIR": folder, "XDG_CACHE_HOME": folder, "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1",
            "TRITON_INTERPRET": "1" if tiny else "0",
            "ROOT": str(ROOT), "OUT": str(out), "PYTHON": sys.executable,
        }  # fmt: skip
        if not tiny and (reason := no_device(work, environment)):
            print(f"no CUDA device: {reason}")
            return 2
        out.mkdir(parents=True, exist_ok=True)
        end = time.monotonic() + (3600 if tiny else SECONDS)
        for step in STEPS:
            if tiny and not step.tiny:
                continue
            start = time.monotonic()
            limit = min(300 if tiny else step.seconds, end - start)
            how = run(step.name, command(step, work, out, 2 if tiny else 14), work, out, environment, limit)
            row = {"bench": "hour", "step": step.name, "seconds": round(time.monotonic() - start, 1), "ended": how}
            with (out / "rows.jsonl").open("a", encoding="utf-8") as rows:
                rows.write(json.dumps(row) + "\n")
            print(f"{step.name:20}{row['seconds']:8} s  {how}", flush=True)
            code |= step.name in ("checks", "tests") and how == "failed"
    return int(code)


def link(work: Path) -> Path:
    """Make this checkout's `distilrt`, `tests` and `benches` importable, by links in a folder.

    Never by a path to the checkout itself: transformers would take its folder `kernels` for a package of that name.
    """
    (work / "distilrt").mkdir()
    for entry in (*(ROOT / "engine").iterdir(), ROOT / "kernels"):
        (work / "distilrt" / entry.name).symlink_to(entry)
    for name in ("tests", "benches"):
        (work / name).symlink_to(ROOT / name)
    return work


def no_device(work: Path, environment: dict[str, str]) -> str:
    """Why there is none; empty: there is one."""
    asked = "from distilrt.backends.cuda.devices import why_not_cuda\nprint(why_not_cuda() or '')"
    done = subprocess.run([sys.executable, "-c", asked], env=environment, cwd=work, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()


def command(step: Step, work: Path, out: Path, processes: int) -> list[str]:
    """The command line of a step."""
    if not step.files:
        return ["bash", "-c", NATIVE]
    files = [str(work / name) for name in step.files.split()]
    # The conftest of all tests needs more than is there.
    words = [sys.executable, "-m", "pytest", "-v", "-rs", "-c", os.devnull, "--import-mode=importlib", "-p",
             "no:cacheprovider", f"--rootdir={work}", f"--confcutdir={Path(files[0]).parent}", *files]  # fmt: skip
    if step.only:
        words += ["-k", step.only]
    if step.parallel and importlib.util.find_spec("xdist"):
        words += ["-n", str(processes)]
    if step.files.startswith("benches"):
        words += ["--record", str(out / "rows.jsonl")]
    if step.name == "tuned":
        words += ["--tiles", str(out / "rows.jsonl")]
    return words


def run(name: str, words: Sequence[str], work: Path, out: Path, environment: dict[str, str], seconds: float) -> str:
    """Run a command for so long at most; in words, how it ended."""
    if seconds <= 1:
        return "left out: no time was left"
    with (out / f"{name}.log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=work, env=environment, start_new_session=True)
        try:
            return "failed" if process.wait(seconds) else "done"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
            process.wait()
            return "ran out of time"


if __name__ == "__main__":
    sys.exit(main())
