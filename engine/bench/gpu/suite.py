"""What the GPU suite times: distilrt from graphs and by the wall, its kernels, and transformers on the same device.

Rows are those of every bench; a time is the device's (form `graph`, `eager` or `max-autotune`), or by the wall with
tensors or arrays. Each row comes as it is done, so that a run that ends early keeps what it has.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distilrt.bench.artefacts import make_checkpoint
from distilrt.bench.findings import Findings, Row, facts
from distilrt.model.config import DistilBertConfig

SECONDS = 300.0  # Measuring ends after so many.
CHECKS = 170.0  # seconds of the tests on the device
TINY = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=64, vocab_size=50, max_position_embeddings=16)


def main(root: Path, arguments: Sequence[str] | None = None) -> int:
    """Run the tests of the device, measure, print a short table and keep the findings.

    Args:
        root: of the checkout, for its tests.
        arguments: of the command line; None: the process's own.

    Returns:
        0: all right; 1: a test failed; 2: no CUDA device.
    """
    parser = argparse.ArgumentParser(description="Correctness and speed of distilrt on a GPU.")
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    parser.add_argument("--self-test", action="store_true", help="a tiny scale on the CPU, in Triton's interpreter")
    options = parser.parse_args(arguments)
    about = device_facts(self_test=options.self_test)
    if about is None:
        return 2
    found = Findings(about, {"scenario": "device", "self_test": options.self_test})
    wrong = not options.self_test and failed(root)  # `make test-whole` runs them at a tiny scale
    try:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = make_checkpoint(Path(folder) / "checkpoint", TINY if options.self_test else None)
            end = time.monotonic() + SECONDS
            for row in rows(checkpoint, about, tiny=options.self_test):
                found.rows.append(row)
                print(shown(row), flush=True)
                if time.monotonic() > end and not options.self_test:
                    found.left_out.append(f"stopped after {SECONDS:.0f} s; what it had not reached is missing")
                    break
            else:
                found.complete = True
    finally:
        write(found, "gpu_suite", options.out)
    return int(wrong)


def device_facts(*, self_test: bool) -> Row | None:
    """Facts of machine and device; None, and why on standard output, where there is no device to measure."""
    if self_test:
        os.environ["TRITON_INTERPRET"] = "1"
    from distilrt.backends.cuda.devices import describe_cuda

    device = describe_cuda()
    if device["device"] is None and not self_test:
        print(f"no CUDA device: {device['reason']}")
        return None
    about = {**facts(os.cpu_count() or 1), **device}
    if not self_test:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        about["driver"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    print(" ".join(f"{key}={value}" for key, value in about.items()))
    if self_test:
        print("SELF-TEST in Triton's interpreter on the CPU: the figures mean nothing")
    return about


def write(found: Findings, what: str, folder: Path | None) -> None:
    """Keep the findings under the name of what was run and of the device, where a folder is given."""
    if folder is not None:
        device = re.sub(r"[^a-z0-9]+", "-", str(found.facts["device"] or "no device").lower()).strip("-")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{what}_{device}.json"
        path.write_text(found.to_json(), encoding="utf-8")
        print(f"wrote {path}")


def failed(root: Path) -> bool:
    """Whether a test of kernels, heads or the device failed, or they did not end in time."""
    # Beside the links to the package, for a path to the checkout would show its folder `kernels`; the tests of the
    # whole repository have a conftest of their own, which needs more than is there.
    tests = Path(sys.path[0]) / "tests"
    if not tests.exists():
        tests.symlink_to(root / "tests")
    options = ["-q", "-c", os.devnull, "--import-mode=importlib", "-p", "no:cacheprovider"]
    folders = [f"--confcutdir={tests / 'gpu'}", f"--rootdir={tests.parent}", str(tests / "gpu")]
    words = [sys.executable, "-m", "pytest", *options, *folders]
    try:
        done = subprocess.run(words, cwd=tests.parent, env=os.environ | {"TRITON_INTERPRET": "0"}, timeout=CHECKS)
    except subprocess.TimeoutExpired:
        print(f"the tests did not end in {CHECKS:.0f} s")
        return True
    return done.returncode != 0


def rows(checkpoint: Path, about: Row, *, tiny: bool) -> Iterator[Row]:
    """Every row, what matters most first; ceilings of the device are added to its facts."""
    import torch

    from distilrt.backends.cuda.devices import cuda_device
    from distilrt.bench.gpu import ops, peers, runs, timing
    from distilrt.model import models

    device, config = cuda_device(), DistilBertConfig.from_pretrained(checkpoint)
    clock = timing.Clock(device, 0.3)
    most = timing.ceilings(clock, tiny=tiny)
    about |= {"copy_tb_s": round(most.copy / 1e12, 3),
              "matmul_tflops": {name: round(rate / 1e12, 2) for name, rate in most.matmul.items()}}  # fmt: skip
    loads, dtypes = runs.workloads(config, tiny=tiny), ("bfloat16", "float16")[: 1 if tiny else 2]
    make: Any = models.DistilBertForSequenceClassification.from_pretrained
    for dtype in dtypes:
        model = make(checkpoint, backend="cuda", dtype=dtype)
        error = runs.relative_error(checkpoint, model, device)
        for row in (*runs.time_all(model, clock, most, loads), *runs.without_dependent_launch(model, clock, loads[:3])):
            yield row | {"max_difference": error}
    for dtype in dtypes:
        yield from peers.time_sdpa(peers.load(checkpoint, dtype, device), config, dtype, clock, loads)
    for example in ops.examples(config, 8 if tiny else 5632, torch.bfloat16, device, tiny=tiny):
        yield {"target": "kernel", "form": "", "dtype": "bfloat16", "scenario": "device", "workload": example.label,
               **ops.time_example(example, clock)}  # fmt: skip
    yield from peers.time_compiled(peers.load(checkpoint, "bfloat16", device), config, "bfloat16", clock, loads)


def shown(row: Row) -> str:
    """One line."""
    name = f"{row['workload']:44}{row['target']} {row['form']} {row['dtype']}"
    if "failed_with" in row:
        return f"{name}: {row['failed_with']}"
    share = f", {row['peak_share']:.0%} of the floor" if row.get("peak_share") else ""
    return f"{name:90}{1e3 * row['p50_ms']:10.1f} us{share}"
