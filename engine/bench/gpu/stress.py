"""What only a real device can get wrong: races, allocations, threads and streams, memory that runs out, sanitizers."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distilrt.bench.artefacts import last_line, worker_environment
from distilrt.bench.gpu.head_checks import short_ladder
from distilrt.bench.gpu.runs import padded
from distilrt.errors import BackendError

TOOLS = ("memcheck", "racecheck")


def steady(model: Any, device: torch.device, calls: int = 200) -> bool:
    """Whether the same batches give the same bits however often and in whichever order: a race would show."""
    longest = model.config.max_position_embeddings
    shapes: tuple[tuple[int, ...], ...] = ((4,), (90, 5, 33), (128,) * 8, (300,) * 4)
    if device.type != "cuda":
        shapes, calls = shapes[:1], 1
    inputs = [padded(model.config, [min(length, longest) for length in shape], device) for shape in shapes]
    first = [model(*given).logits.clone() for given in inputs]
    rng = np.random.default_rng()
    for _ in range(calls):
        case = int(rng.integers(len(inputs)))
        if not torch.equal(model(*inputs[case]).logits, first[case]):
            return False
    return True


def allocations(model: Any, device: torch.device, calls: int = 50) -> dict[str, int]:
    """What torch asked of the driver, and kept, over calls of several shapes after each was met once; 0 is right."""
    if device.type != "cuda":
        return {"num_device_alloc": 0, "reserved_bytes": 0}
    inputs = [padded(model.config, lengths, device) for lengths in ((16,), (128,) * 8, (5, 90, 33), (256,) * 40)]

    def counters() -> dict[str, int]:
        stats = torch.cuda.memory_stats(device)
        return {"num_device_alloc": stats["num_device_alloc"], "reserved_bytes": stats["reserved_bytes.all.current"]}

    for ids, mask in inputs:
        model(ids, mask)
        model(ids.cpu().numpy())
    torch.cuda.synchronize(device)
    before = counters()
    for call in range(calls):
        model(*inputs[call % len(inputs)])
        model(inputs[call % len(inputs)][0].cpu().numpy())
    torch.cuda.synchronize(device)
    return {name: value - before[name] for name, value in counters().items()}


def shared_between_threads(make: Callable[[], Any], device: torch.device, threads: int = 4, calls: int = 20) -> bool:
    """Whether two models used by several threads, on two streams and their own, answer as alone, to the bit.

    The models are loaded by two threads at once, while a third uses another.
    """
    if device.type != "cuda":
        return True  # there are no streams, and the interpreter is not safe to call from many threads
    both: list[Any] = [make()]
    ids, _ = padded(both[0].config, (16,), device)
    loading = [threading.Thread(target=lambda: both.append(make())) for _ in range(2)]
    for thread in loading:
        thread.start()
    while any(thread.is_alive() for thread in loading):
        both[0](ids)
    inputs = [padded(both[0].config, lengths, device) for lengths in ((16,), (90, 5, 33), (128,) * 6, (7,) * 9)]
    models = both[1:]
    if len(models) < 2:
        return False  # a load failed
    alone = [model(*given).logits.clone() for model in models for given in inputs]
    torch.cuda.synchronize(device)
    streams = [torch.cuda.Stream(device) for _ in range(2)]  # type: ignore[no-untyped-call]
    wrong: list[int] = []

    def use(thread: int) -> None:
        rng = np.random.default_rng(thread)
        for _ in range(calls):
            stream = streams[int(rng.integers(len(streams)))]
            with torch.cuda.stream(stream):
                case = int(rng.integers(len(alone)))
                found = models[case // len(inputs)](*inputs[case % len(inputs)]).logits
                stream.synchronize()
                if not torch.equal(found, alone[case]):
                    wrong.append(case)

    workers = [threading.Thread(target=use, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return not wrong


def no_memory(model: Any, make: Callable[[], Any], device: torch.device) -> bool:
    """Whether a load without memory is refused with a clear error, and everything works before, after and again."""
    if device.type != "cuda":
        return True  # memory does not run out in the interpreter
    ids, _ = padded(model.config, (16,), device)
    expected = model(ids).logits.clone()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    hoard = torch.empty(max(1, free - (96 << 20)), dtype=torch.uint8, device=device)
    try:
        make()
        refused = False
    except BackendError as error:
        refused = "too little free memory" in str(error)
    same = torch.equal(model(ids).logits, expected)
    del hoard
    torch.cuda.empty_cache()
    return refused and same and torch.equal(make()(ids).logits, expected)


def sanitized(tool: str, checkpoint: Path, seconds: float) -> tuple[bool, str]:
    """Run a tiny model under one tool of NVIDIA's compute-sanitizer, if that is installed.

    Returns:
        Whether nothing was found; and the tool's last line, or why it did not run.
    """
    program = shutil.which("compute-sanitizer")
    if program is None:
        return True, "not run: compute-sanitizer is not installed"
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", __name__, str(checkpoint)]
    try:
        done = subprocess.run(command, env=worker_environment(), capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return True, f"not finished in {seconds:.0f} s"
    return done.returncode == 0, last_line(done.stdout + done.stderr)


def tiny_forward(checkpoint: Path) -> None:
    """Both roads of a small model, for a sanitizer to watch."""
    from distilrt.backends.cuda.devices import cuda_device
    from distilrt.model import models

    device = cuda_device()
    for dtype in ("float32", "bfloat16"):
        with short_ladder(1):
            model: Any = models.DistilBertForSequenceClassification.from_pretrained(
                checkpoint, backend="cuda", dtype=dtype
            )
        longest = model.config.max_position_embeddings
        for lengths in ((4,), (longest, 3, longest // 2), (longest,) * 20)[: 3 if device.type == "cuda" else 1]:
            ids, mask = padded(model.config, lengths, device)
            for _ in range(2):
                model(ids, mask)
                model(ids.cpu().numpy())
        model.backend.synchronize()


if __name__ == "__main__":
    tiny_forward(Path(sys.argv[1]))
