"""What only a real device can get wrong: races, allocations, threads and streams, memory that runs out, sanitizers."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distilrt.bench.artefacts import last_line, worker_environment
from distilrt.errors import BackendError
from distilrt.model import models
from tests.gpu.checks import padded, short_ladder

pytestmark = [pytest.mark.gpu, pytest.mark.whole]


@pytest.fixture(scope="module")
def make(checkpoint: Path) -> Callable[[], Any]:
    """Loads the model again and again."""
    make: Any = models.DistilBertForSequenceClassification.from_pretrained
    return partial(make, checkpoint, backend="cuda", dtype="bfloat16")


@pytest.fixture(scope="module")
def model(make: Callable[[], Any]) -> Any:
    """One of them."""
    return make()


def test_the_same_bits(model: Any, device: torch.device) -> None:
    """The same batches give the same bits however often and in whichever order: a race would show."""
    calls = 200
    longest = model.config.max_position_embeddings
    shapes: tuple[tuple[int, ...], ...] = ((4,), (90, 5, 33), (128,) * 8, (300,) * 4)
    if device.type != "cuda":
        shapes, calls = shapes[:1], 1
    inputs = [padded(model, [min(length, longest) for length in shape], device) for shape in shapes]
    first = [model(*given).logits.clone() for given in inputs]
    rng = np.random.default_rng()
    for _ in range(calls):
        case = int(rng.integers(len(inputs)))
        assert torch.equal(model(*inputs[case]).logits, first[case])


def test_no_allocation_after_warm_up(model: Any, device: torch.device, tiny: bool) -> None:
    """Torch asks the driver for nothing, and keeps no more, over calls of several shapes after each was met once."""
    if tiny:
        pytest.skip("there is no driver")
    inputs = [padded(model, lengths, device) for lengths in ((16,), (128,) * 8, (5, 90, 33), (256,) * 40)]

    def counters() -> dict[str, int]:
        stats = torch.cuda.memory_stats(device)
        return {"num_device_alloc": stats["num_device_alloc"], "reserved_bytes": stats["reserved_bytes.all.current"]}

    for ids, mask in inputs:
        model(ids, mask)
        model(ids.cpu().numpy())
    torch.cuda.synchronize(device)
    before = counters()
    for call in range(50):
        model(*inputs[call % len(inputs)])
        model(inputs[call % len(inputs)][0].cpu().numpy())
    torch.cuda.synchronize(device)
    assert counters() == before


def test_two_models_in_four_threads(make: Callable[[], Any], device: torch.device, tiny: bool) -> None:
    """Two models used by several threads, on two streams and their own, answer as alone, to the bit.

    The models are loaded by two threads at once, while a third uses another.
    """
    if tiny:
        pytest.skip("there are no streams, and the interpreter is not safe to call from many threads")
    both: list[Any] = [make()]
    ids, _ = padded(both[0], (16,), device)
    loading = [threading.Thread(target=lambda: both.append(make())) for _ in range(2)]
    for thread in loading:
        thread.start()
    while any(thread.is_alive() for thread in loading):
        both[0](ids)
    inputs = [padded(both[0], lengths, device) for lengths in ((16,), (90, 5, 33), (128,) * 6, (7,) * 9)]
    loaded = both[1:]
    assert len(loaded) == 2
    alone = [model(*given).logits.clone() for model in loaded for given in inputs]
    torch.cuda.synchronize(device)
    streams = [torch.cuda.Stream(device) for _ in range(2)]  # type: ignore[no-untyped-call]
    wrong: list[int] = []

    def use(thread: int) -> None:
        rng = np.random.default_rng(thread)
        for _ in range(20):
            stream = streams[int(rng.integers(len(streams)))]
            with torch.cuda.stream(stream):
                case = int(rng.integers(len(alone)))
                found = loaded[case // len(inputs)](*inputs[case % len(inputs)]).logits
                stream.synchronize()
                if not torch.equal(found, alone[case]):
                    wrong.append(case)

    workers = [threading.Thread(target=use, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_a_load_without_memory(model: Any, make: Callable[[], Any], device: torch.device, tiny: bool) -> None:
    """It is refused with a clear error, and everything works before, after and again."""
    if tiny:
        pytest.skip("memory does not run out in the interpreter")
    ids, _ = padded(model, (16,), device)
    expected = model(ids).logits.clone()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    hoard = torch.empty(max(1, free - (96 << 20)), dtype=torch.uint8, device=device)
    with pytest.raises(BackendError, match="too little free memory"):
        make()
    assert torch.equal(model(ids).logits, expected)
    del hoard
    torch.cuda.empty_cache()
    assert torch.equal(make()(ids).logits, expected)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer(small: Path, tool: str, tiny: bool) -> None:
    """A tiny model under a tool of NVIDIA's, if that is installed; it may not finish in time."""
    tiny_forward(small)  # compiles, which would take long under a tool
    program = shutil.which("compute-sanitizer")
    if tiny or program is None:
        pytest.skip("compute-sanitizer is not installed" if program is None else "there is no GPU")
    # torch's own failed queries of a device would count as errors, which "--report-api-errors no" prevents.
    queries = ["--report-api-errors", "no"] if tool == "memcheck" else []
    command = [
        program,
        "--tool",
        tool,
        *queries,
        "--error-exitcode",
        "9",
        sys.executable,
        "-m",
        "tests.gpu.test_device",
        str(small),
    ]
    try:
        done = subprocess.run(command, env=worker_environment(), capture_output=True, text=True, timeout=80)
    except subprocess.TimeoutExpired:
        pytest.skip("not finished in 80 s")
    assert done.returncode == 0, last_line(done.stdout + done.stderr)


def tiny_forward(checkpoint: Path) -> None:
    """Both roads of a small model, for a sanitizer to watch."""
    from distilrt.backends.cuda.devices import cuda_device

    device = cuda_device()
    for dtype in ("float32", "bfloat16"):
        with short_ladder(1):
            model: Any = models.DistilBertForSequenceClassification.from_pretrained(
                checkpoint, backend="cuda", dtype=dtype
            )
        longest = model.config.max_position_embeddings
        for lengths in ((4,), (longest, 3, longest // 2), (longest,) * 20)[: 3 if device.type == "cuda" else 1]:
            ids, mask = padded(model, lengths, device)
            for _ in range(2):
                model(ids, mask)
                model(ids.cpu().numpy())
        model.backend.synchronize()


if __name__ == "__main__":
    tiny_forward(Path(sys.argv[1]))
