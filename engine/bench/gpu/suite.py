"""The flow of the GPU suite: parts in processes of their own under time limits, one JSON file, a short table last.

A part that hangs or faults takes neither the others nor the results so far with it: each writes its file anew after
every row. First everything that only has to be right, side by side; then, alone on the device, what is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from distilrt.bench.artefacts import last_line, make_checkpoint, worker_environment
from distilrt.bench.gpu.report import environment, file_name, summary
from distilrt.model.config import DistilBertConfig

TOTAL = 470.0  # seconds, of the 480 that the suite may take
# Seconds of each part; those of one line run side by side.
CHECKS = {"kernels-float32": 170, "kernels-float16": 170, "kernels-bfloat16": 170, "heads": 170,
          "warm-bfloat16": 170, "warm-float16": 170, "extension": 170, "sanitizer": 170}  # fmt: skip
TIMED = {"ours": 130, "sdpa": 65, "compiled": 90}
TINY = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=64, vocab_size=50, max_position_embeddings=16)


def main(arguments: Sequence[str] | None = None, *, root: Path | None = None) -> int:
    """Run the suite, or one of its parts.

    Args:
        arguments: of the command line; None: the process's own.
        root: of the checkout, for the commit.

    Returns:
        0: all right; 1: a check failed or a part did not end well; 2: no CUDA device.
    """
    parser = argparse.ArgumentParser(description="Correctness and speed of distilrt on a GPU.")
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    parser.add_argument("--self-test", action="store_true", help="a tiny scale on the CPU, in Triton's interpreter")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, default=root, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.self_test:
        os.environ["TRITON_INTERPRET"] = "1"
    if options.part:
        _run_part(options)
        return 0
    from distilrt.backends.cuda.devices import describe_cuda

    facts = describe_cuda()
    if facts["device"] is None and not options.self_test:
        print(f"no CUDA device: {facts['reason']}")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        found = _run_all(Path(folder), options.root, tiny=options.self_test)
    report = {"environment": environment(facts, options.root), "self_test": options.self_test, **found}
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / file_name("gpu_suite", facts)
        path.write_text(json.dumps(report, indent=1) + "\n")
        print(f"wrote {path}")
    print("\n".join(summary(report)))
    return 0 if all(check["ok"] for check in found["checks"]) and not found["problems"] else 1


def _run_all(folder: Path, root: Path | None, *, tiny: bool) -> dict[str, Any]:
    start = time.monotonic()
    checkpoint = make_checkpoint(folder / "checkpoint", TINY if tiny else None)
    found: dict[str, Any] = {"checks": [], "rows": [], "facts": {}, "problems": []}
    for group in (CHECKS, *({name: seconds} for name, seconds in TIMED.items())):
        left = TOTAL - (time.monotonic() - start)
        running = {}
        for name, seconds in group.items():
            allowed = 10 * seconds if tiny else max(5.0, min(seconds, left - 5))  # an interpreter has no deadline
            print(f"{time.monotonic() - start:6.1f} s  {name}, up to {allowed:.0f} s", flush=True)
            running[name] = (allowed, *_start_part(name, checkpoint, folder, root, allowed, tiny=tiny))
        begun = time.monotonic()
        for name, (allowed, process, result, log) in running.items():
            problem = _finish(process, log, begun + allowed + 5)
            part = json.loads(result.read_text()) if result.exists() else {}
            for key in ("checks", "rows"):
                found[key] += part.get(key, [])
            found["facts"] |= part.get("facts", {})
            found["problems"] += [f"{name}: {text}" for text in (problem, part.get("cut")) if text]
    found["seconds"] = time.monotonic() - start
    return found


def _start_part(
    name: str, checkpoint: Path, folder: Path, root: Path | None, seconds: float, *, tiny: bool
) -> tuple[subprocess.Popen[bytes], Path, Path]:
    result, log = folder / f"{name}.json", folder / f"{name}.log"
    command = [sys.executable, "-m", __name__, "--part", name, "--checkpoint", str(checkpoint), "--result", str(result),
               "--seconds", str(seconds)]  # fmt: skip
    command += ["--self-test"] * tiny + (["--root", str(root)] if root else [])
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=worker_environment(), stdout=file, stderr=file)
    return process, result, log


def _finish(process: subprocess.Popen[bytes], log: Path, deadline: float) -> str | None:
    """Wait for a part, or end it; why it did not end well."""
    try:
        code = process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "did not end in time"
    return f"exit code {code}: {last_line(log.read_text(errors='replace'))}" if code else None


def _run_part(options: argparse.Namespace) -> None:
    """One part in this process; its file holds what is known so far at any time."""
    result, seconds, root = options.result, options.seconds, options.root
    end = time.monotonic() + seconds
    found: dict[str, Any] = {"checks": [], "rows": [], "facts": {}, "cut": None}

    def keep() -> None:
        temporary = result.with_suffix(".new")
        temporary.write_text(json.dumps(found))
        temporary.replace(result)

    kind, _, dtype = options.part.partition("-")
    parts: dict[str, Any] = {"kernels": partial(_kernels, dtype), "heads": _heads, "warm": partial(_warm, dtype),
             "ours": _ours, "sanitizer": _sanitizer, "sdpa": _sdpa, "compiled": _compiled,
             "extension": partial(_extension, root)}  # fmt: skip
    for key, value in parts[kind](options.checkpoint, end=end, tiny=options.self_test):
        if key == "facts":
            found[key] |= value
        else:
            found[key].append(value)
        keep()
        if time.monotonic() > end:
            found["cut"] = f"stopped after {seconds:.0f} s; what it had not reached is missing"
            break
    keep()


Rows = Iterator[tuple[str, Any]]


def _kernels(dtype: str, checkpoint: Path, *, end: float, tiny: bool) -> Rows:

    from distilrt.backends.cuda.devices import cuda_device
    from distilrt.bench.gpu import kernel_checks

    sizes = kernel_checks.TINY if tiny else kernel_checks.REAL
    seed = int.from_bytes(os.urandom(4), "little")
    yield "facts", {f"seed of kernels in {dtype}": seed}
    for name in (dtype, "tf32") if dtype == "float32" else (dtype,):
        for check in kernel_checks.kernels(cuda_device(), name, sizes, seed):
            yield "checks", check


def _heads(checkpoint: Path, *, end: float, tiny: bool) -> Rows:
    from distilrt.backends.cuda.devices import cuda_device
    from distilrt.bench.gpu import head_checks

    seed = int.from_bytes(os.urandom(4), "little")
    yield "facts", {"seed of heads": seed}
    for check in head_checks.heads(cuda_device(), head_checks.TINY if tiny else head_checks.REAL, seed):
        yield "checks", check


def _extension(root: Path | None, checkpoint: Path, *, end: float, tiny: bool) -> Rows:
    """Build the CPU's native extension if there is a compiler. Nothing on the GPU's path needs it."""
    if tiny or root is None or shutil.which("g++") is None:
        yield "facts", {"native extension": "not built: no g++" if shutil.which("g++") is None else "not built"}
        return
    start, base = time.monotonic(), checkpoint.parent / "build"
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(base)]
    try:
        subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, timeout=end - start)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        yield "facts", {"native extension": f"not built: {last_line(str(getattr(error, 'stderr', '') or error))}"}
        return
    yield "facts", {"native extension": f"built in {time.monotonic() - start:.0f} s"}


def _model(checkpoint: Path, dtype: str) -> Any:
    from distilrt.model import models

    return models.DistilBertForSequenceClassification.from_pretrained(checkpoint, backend="cuda", dtype=dtype)


def _warm(dtype: str, checkpoint: Path, *, end: float, tiny: bool) -> Rows:
    """Compile every kernel of the timed model into Triton's cache on disk, beside the checks."""
    start = time.monotonic()
    _model(checkpoint, dtype)
    yield "facts", {f"first load in {dtype}, kernels compiled": f"{time.monotonic() - start:.1f} s"}


def _ours(checkpoint: Path, *, end: float, tiny: bool) -> Rows:
    import torch

    from distilrt.backends.cuda.devices import cuda_device
    from distilrt.bench.gpu import ops, runs, stress, timing

    device = cuda_device()
    clock = timing.Clock(device, 0.4)
    most = timing.ceilings(clock, tiny=tiny)
    rates = {f"matmul {name}": f"{rate / 1e12:.1f} TFLOP/s" for name, rate in most.matmul.items()}
    yield "facts", {"copy": f"{most.copy / 1e12:.2f} TB/s", **rates, "ceilings": asdict(most)}
    loads = runs.workloads(DistilBertConfig.from_pretrained(checkpoint), tiny=tiny)
    for dtype in ("bfloat16", "float16")[: 1 if tiny else 2]:
        start = time.monotonic()
        model = _model(checkpoint, dtype)
        memory = {name: size for name, size in model.backend.describe().items() if name.endswith("bytes")}
        yield "facts", {f"load in {dtype}": f"{time.monotonic() - start:.1f} s", f"memory in {dtype}": memory}
        yield "checks", runs.same_answers(checkpoint, model, device)
        for row in runs.time_all(model, clock, most, loads):
            yield "rows", row
        if dtype == "bfloat16":
            for row in runs.without_dependent_launch(model, clock, loads[:3]):
                yield "rows", row
            new, make = stress.allocations(model, device), partial(_model, checkpoint, dtype)
            yield "checks", _exact("no allocation after warm-up", not any(new.values())) | new
            yield "checks", _exact("the same bits in 200 calls", stress.steady(model, device))
            yield "checks", _exact("two models, four threads, two streams", stress.shared_between_threads(make, device))
            yield "checks", _exact("a load without memory", stress.no_memory(model, make, device))
            for example in ops.examples(model.config, 8 if tiny else 5632, getattr(torch, dtype), device, tiny=tiny):
                found = ops.time_example(example, clock)
                yield "rows", {"engine": "kernel", "dtype": dtype, "workload": example.label, **found}


def _sanitizer(checkpoint: Path, *, end: float, tiny: bool) -> Rows:
    from distilrt.bench.gpu import stress

    small = make_checkpoint(checkpoint.parent / "small", TINY)
    stress.tiny_forward(small)  # compiles, which would take long under a tool
    for left, tool in zip((2, 1), () if tiny else stress.TOOLS, strict=False):
        ok, said = stress.sanitized(tool, small, (end - 5 - time.monotonic()) / left)
        yield "facts", {tool: said}
        yield "checks", _exact(f"compute-sanitizer {tool}", ok)


def _exact(name: str, ok: bool) -> dict[str, Any]:
    return {"name": name, "error": float(not ok), "bound": 0.0, "ok": ok}


def _sdpa(checkpoint: Path, *, end: float, tiny: bool) -> Rows:
    from distilrt.backends.cuda.devices import cuda_device
    from distilrt.bench.gpu import peers, runs, timing

    config, device = DistilBertConfig.from_pretrained(checkpoint), cuda_device()
    for dtype in ("bfloat16", "float16")[: 1 if tiny else 2]:
        model = peers.load(checkpoint, dtype, device)
        for row in peers.time_sdpa(model, config, dtype, timing.Clock(device, 0.3), runs.workloads(config, tiny=tiny)):
            yield "rows", row


def _compiled(checkpoint: Path, *, end: float, tiny: bool) -> Rows:
    from distilrt.backends.cuda.devices import cuda_device
    from distilrt.bench.gpu import peers, runs, timing

    config, device = DistilBertConfig.from_pretrained(checkpoint), cuda_device()
    model = peers.load(checkpoint, "bfloat16", device)
    loads = runs.workloads(config, tiny=tiny)
    clock = timing.Clock(device, 0.3)
    for row in peers.time_compiled(model, config, "bfloat16", clock, loads, lambda: time.monotonic() > end - 10):
        yield "rows", row


if __name__ == "__main__":
    sys.exit(main())
