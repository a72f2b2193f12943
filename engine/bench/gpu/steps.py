"""What each step of the GPU hour does, in a process of its own:
`python -m distilrt.bench.gpu.steps STEP ROOT WORK OUT PART PARTS`, started by `distilrt.bench.gpu.hour`.

Steps that several processes share give every one its part of a list that all make alike.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distilrt.backends.cuda.devices import cuda_device, describe_cuda
from distilrt.backends.cuda.encoder import DeviceEncoder
from distilrt.bench import tiles as tuning
from distilrt.bench.artefacts import ARCHITECTURE, make_checkpoint
from distilrt.bench.findings import facts
from distilrt.bench.gpu import ops, peers, probe, runs
from distilrt.bench.gpu.hour import Folders
from distilrt.bench.gpu.timing import Clock, ceilings
from distilrt.bench.launches import Launch, distinct, measured, recorded
from distilrt.checkpoint.weights import random_weights
from distilrt.kernels import tiles
from distilrt.kernels.launch import chip_of
from distilrt.kernels.op import Arrays, all_ops
from distilrt.model import models
from distilrt.model.config import DistilBertConfig

TINY = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=64, vocab_size=50, max_position_embeddings=16)
DTYPES = ("bfloat16", "float16", "float32")
TUNED_TOKENS, CANDIDATES = (16, 128, 5632), 8
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hour:
    """What a step is given."""

    folders: Folders
    word: str  # The part of the step's name after the hyphen says on what it works.
    part: int
    parts: int

    @property
    def device(self) -> torch.device:
        """The GPU; the CPU where Triton interprets."""
        found: torch.device = cuda_device()
        return found

    @property
    def tiny(self) -> bool:
        """Whether there is no GPU."""
        return self.device.type != "cuda"

    @property
    def config(self) -> DistilBertConfig:
        """The config of the model that is timed."""
        return TINY if self.tiny else DistilBertConfig()

    def checkpoint(self) -> Path:
        """Its random weights."""
        return make_checkpoint(self.folders.work / "checkpoint", self.config)

    def clock(self, seconds: float = 0.2) -> Clock:
        """For so long a thing."""
        return Clock(self.device, seconds)

    def share(self, work: Iterable[Any]) -> list[Any]:
        """This process's part."""
        return list(work)[self.part :: self.parts]


def measure_device(hour: Hour) -> Iterator[Row]:
    """Facts of machine and device, and what the device can do at most."""
    yield {**facts(os.cpu_count() or 1), **describe_cuda()}
    yield from probe.measure(hour.device, tiny=hour.tiny)


def compile_model(hour: Hour) -> Iterator[Row]:
    """Bring the kernels of a model's load into Triton's cache, in every dtype."""
    yield _compiled(hour, lambda chip: model_launches(hour.config, DTYPES, chip))


def compile_candidates(hour: Hour) -> Iterator[Row]:
    """The same of the tiles that the tuner will try."""

    def found(chip: tiles.Chip) -> Iterator[Launch]:
        for op, arguments, choice in _choices(hour):
            for tile in choice.candidates:
                with recorded(chip) as launched, measured({choice.key: {choice.size: tile}}):
                    op.example(Arrays(torch.device("meta"), "bfloat16"), **arguments).launch()
                yield from launched

    yield _compiled(hour, found)


def model_launches(config: DistilBertConfig, dtypes: Iterable[str], chip: tiles.Chip) -> Iterator[Launch]:
    """What a model launches that loads on `chip`: the encoder of every bucket in every form. Nothing is computed."""
    weights = random_weights(config, ARCHITECTURE)
    for dtype in dtypes:
        with recorded(chip) as launched:
            encoder = DeviceEncoder(config, weights, dtype, torch.device("meta"))
            encoder.pdl = chip.capability >= 90
            for bucket in encoder.buckets:
                embeds = torch.empty(bucket.tokens, config.hidden_size, device="meta")
                encoder.launch(bucket)
                encoder.launch(bucket, few=True)
                encoder.launch(bucket, embeds=embeds, visit=lambda *_: None)
        yield from launched


def _compiled(hour: Hour, launches: Callable[[tiles.Chip], Iterator[Launch]]) -> Row:
    """Compile this process's part of the distinct launches."""
    if hour.tiny:
        return {"what": "kernels", "left_out": "Triton's interpreter compiles nothing"}
    mine, failed = hour.share(distinct(launches(chip_of(torch.empty(0, device=hour.device))))), 0
    for launched in mine:
        try:
            launched.kernel.warmup(grid=(1,), **launched.arguments, **launched.options)
        except Exception as error:  # whatever a compiler raises, the others still count
            print(launched.label, error, flush=True)
            failed += 1
    return {"what": "kernels", "count": len(mine), "failed": failed}


def check_kernels(hour: Hour) -> Iterator[Row]:
    """Every kernel in every dtype beside float64, as tests/gpu does."""
    from tests.gpu.checks import SIZES, TINY, checked

    names = ("bfloat16",) if hour.tiny else ("bfloat16", "float32", "float16", "tf32")
    sizes = TINY if hour.tiny else SIZES
    work = [(op, name, arguments) for name in names for op in all_ops() for arguments in op.odd(sizes, name)]
    for op, name, arguments in hour.share(work):
        example = op.example(Arrays(hour.device, name), **arguments)
        for output, check in checked(example).items():
            yield {"what": example.label, "output": output, "dtype": name, **check}


def test_device(hour: Hour) -> Iterator[Row]:
    """Heads, races, threads, memory: tests/gpu, where pytest is installed."""
    if importlib.util.find_spec("pytest") is None:
        yield {"what": "tests/gpu", "left_out": "pytest is not installed"}
        return
    # The tests of the whole repository have a conftest of their own, which needs more than is there.
    tests = hour.folders.work / "tests"
    files = [str(tests / "gpu" / f"test_{name}.py") for name in (("device",) if hour.tiny else ("device", "heads"))]
    options = ["-q", "-x", "-c", os.devnull, "--import-mode=importlib", "-p", "no:cacheprovider"]
    options += [f"--confcutdir={tests / 'gpu'}", f"--rootdir={tests.parent}"]
    done = subprocess.run([sys.executable, "-m", "pytest", *options, *files], check=False)
    yield {"what": "tests/gpu", "ok": done.returncode == 0}


def time_ours(hour: Hour) -> Iterator[Row]:
    """distilrt in one dtype."""
    clock, dtype = hour.clock(), hour.word or "bfloat16"
    model = _model(hour, dtype)
    yield {"what": "relative error of logits", "dtype": dtype,
           "value": runs.relative_error(hour.checkpoint(), model, hour.device)}  # fmt: skip
    loads = runs.workloads(hour.config, tiny=hour.tiny)
    yield from runs.time_all(model, clock, ceilings(clock, tiny=hour.tiny), loads)
    yield from runs.without_dependent_launch(model, clock, loads[:3])


def time_sdpa(hour: Hour) -> Iterator[Row]:
    """transformers in one dtype."""
    model = peers.load(hour.checkpoint(), hour.word, hour.device)
    loads = runs.workloads(hour.config, tiny=hour.tiny)
    yield from peers.time_sdpa(model, hour.config, hour.word, hour.clock(), loads)


def time_kernels(hour: Hour) -> Iterator[Row]:
    """Each kernel by itself in the largest bucket."""
    for example in ops.examples(hour.config, 8 if hour.tiny else 5632, torch.bfloat16, hour.device, tiny=hour.tiny):
        yield {"what": example.label, "dtype": "bfloat16", **ops.time_example(example, hour.clock())}


def time_compiled(hour: Hour) -> Iterator[Row]:
    """transformers under torch.compile at one shape."""
    model = peers.load(hour.checkpoint(), "bfloat16", hour.device)
    loads = [load for load in runs.workloads(hour.config, tiny=hour.tiny) if load.name == hour.word]
    yield from peers.time_compiled(model, hour.config, "bfloat16", hour.clock(), loads)


def tune(hour: Hour) -> Iterator[Row]:
    """The fastest of few tiles of each product and of attention."""

    def say(words: str, seconds: float) -> None:
        print(words, flush=True)

    for op, arguments, choice in _choices(hour):
        found = tuning.best(choice, tuning.maker(op, arguments, "bfloat16", tiny=hour.tiny), hour.clock(0.05), say)
        yield {"key": found.key, "size": found.size, "tile": tuning.shown(found.tile), "us": found.us,
               "usual_us": found.usual_us}  # fmt: skip


def time_tuned(hour: Hour) -> Iterator[Row]:
    """distilrt again, with the tiles that were found."""
    entries: dict[tiles.Key, dict[int, tiles.Tile]] = {}
    for row in hour.folders.rows("tune"):
        entries.setdefault(tuple(row["key"]), {})[row["size"]] = eval(row["tile"], vars(tiles))
    with measured(entries):
        yield from time_ours(hour)


def describe_cpu(hour: Hour) -> Iterator[Row]:
    """Facts of the processor; where it has AMX and a compiler is there, the native extension's tests and times."""
    program = shutil.which("lscpu")
    if program is not None:
        print(subprocess.run([program], capture_output=True, text=True, check=False).stdout, flush=True)
    about = facts(os.cpu_count() or 1)
    yield {"what": platform.machine(), "cpu": about["cpu"], "isa": about["isa"], "cores": os.cpu_count()}
    needs = {"AMX": "amx" in about["isa"], "g++": shutil.which("g++"), **{
        name: importlib.util.find_spec(name) for name in ("setuptools", "pybind11", "pytest", "typer", "rich")
    }}  # fmt: skip
    if missing := [name for name, found in needs.items() if not found]:
        yield {"what": "native extension", "left_out": f"this machine has no {', '.join(missing)}"}
        return
    build, root = hour.folders.work / "build", hour.folders.root
    # The build writes beside its sources, so it gets a copy of them.
    shutil.copytree(root, build, ignore=shutil.ignore_patterns(".*", "build", "shared"))
    subprocess.run([sys.executable, "setup.py", "-q", "build", "--build-base", "made"], cwd=build, check=True)
    (library,) = (build / "made").glob("lib*")
    environment = os.environ | {"PYTHONPATH": str(library)}
    bench = ["-m", "distilrt", "bench", "compare", "--peers", "distilrt", "--workloads", "1x16,8x128",
             "--duration", "1", "--cache", str(build), "--json", str(hour.folders.out / "cpu.json")]  # fmt: skip
    tests = ["-P", "-m", "pytest", "-q", "-x", str(build / "tests" / "csrc"), "-p", "no:cacheprovider"]
    for what, command in (("bench compare", bench), ("tests/csrc", tests)):
        done = subprocess.run([sys.executable, *command], env=environment, cwd=hour.folders.work, check=False)
        yield {"what": what, "ok": done.returncode == 0}


def _model(hour: Hour, dtype: str) -> Any:
    make: Any = models.DistilBertForSequenceClassification.from_pretrained
    return make(hour.checkpoint(), backend="cuda", dtype=dtype)


def _choices(hour: Hour) -> Iterator[tuning.Candidates]:
    counts, most = ((5,), 2) if hour.tiny else (TUNED_TOKENS, CANDIDATES)
    found = tuning.choices(hour.config, counts, "bfloat16", hour.device, most)
    return (each for each in found if each[2].key[0] != "rows")


STEPS: dict[str, Callable[[Hour], Iterator[Row]]] = {
    "probe": measure_device, "compile": compile_model, "checks": check_kernels, "tests": test_device,
    "ours": time_ours, "sdpa": time_sdpa, "kernels": time_kernels, "compiled": time_compiled,
    "candidates": compile_candidates, "tune": tune, "tuned": time_tuned, "cpu": describe_cpu,
}  # fmt: skip


if __name__ == "__main__":
    step, *places, first, count = sys.argv[1:]
    name, _, word = step.partition("-")
    given = Hour(Folders(*map(Path, places)), word, int(first), int(count))
    for row in STEPS[name](given):
        given.folders.keep(step, row)
        print(row, flush=True)
