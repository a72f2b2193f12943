"""What a forward launches, without a GPU: launchers are called with tensors that have a shape but no data.

What they would launch is recorded instead, so arguments, tiles and epilogues are those of a real forward.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from triton.runtime.jit import KernelInterface
from triton.tools.tensor_descriptor import TensorDescriptor

import distilrt.kernels
from distilrt.bench.tiles import measured
from distilrt.kernels import launch, tiles
from distilrt.kernels.launch import PRECISIONS
from distilrt.kernels.op import Arrays, all_ops
from distilrt.model.config import DistilBertConfig

CHIPS = {chip.capability: chip for chip in (tiles.A100, tiles.L40S, tiles.H200, tiles.B200)}
DTYPES = ("float32", "tf32x3", "tf32", "float16", "bfloat16", *tiles.CODES)
POINTERS = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16",
    torch.int32: "i32", torch.int64: "i64", torch.bool: "i1", torch.float8_e4m3fn: "fp8e4nv", torch.int8: "i8",
}  # fmt: skip


def type_of(value: torch.Tensor | TensorDescriptor) -> str:
    """What Triton calls the type of an argument."""
    if isinstance(value, torch.Tensor):
        return f"*{POINTERS[value.dtype]}"
    return f"tensordesc<{POINTERS[value.base.dtype]}{value.block_shape}>"


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch that a launcher asked for."""

    kernel: Any
    name: str
    arguments: dict[str, Any]
    options: dict[str, Any]

    @property
    def variant(self) -> str:
        """What tells this launch from others of its kernel: constants, absent arguments and options."""
        parts = []
        for parameter in self.kernel.params:
            value = self.arguments[parameter.name]
            if parameter.is_constexpr or value is None:
                parts.append(f"{parameter.name}={value}")
            elif isinstance(value, (torch.Tensor, TensorDescriptor)):
                parts.append(type_of(value))
            elif not parameter.do_not_specialize:
                parts.append("1" if value == 1 else str(value % 16 == 0))
        return " ".join([self.name, *parts, *(f"{key}={value}" for key, value in self.options.items())])

    @property
    def label(self) -> str:
        """Kernel, shape, tile and epilogue, for a table."""
        given = {name: value for name, value in self.arguments.items() if value is not None and value is not False}
        shape = ("N", "K") if "N" in given else ("HEAD_DIM", "WIDTH", "SEGMENTS", "ROWS", "WIDE", "NARROW")
        shown = [f"{name.lower()} {given[name]}" for name in shape if name in given]
        tile = [str(value) for name, value in given.items() if re.fullmatch("BLOCK_[MNK]", name)]
        shown += ["×".join(tile)] if tile else []
        depth = given.get("SEGMENT", given.get("STEPS", 0) * given.get("BLOCK_K", 0))
        if depth and depth != given["K"]:
            shown.append(f"{depth} of k")
        shown += [given["ACTIVATION"]] if given.get("ACTIVATION") else []
        words = {"residual_ptr": "residual", "normed_ptr": "norm", "MANY_BLOCKS": "many blocks",
                 "KEEP_FIRST": "keep first", "begun_ptr": "stream", "wanted_ptr": "few rows"}  # fmt: skip
        shown += [word for name, word in words.items() if name in given]
        return " ".join([self.name.strip("_").removesuffix("_kernel"), ", ".join(shown)]).strip()

    @property
    def multiplies(self) -> bool:
        """Whether this is a matrix product in half precision, which tensor cores must do."""
        return any(word in self.kernel.src for word in ("dot", "_multiply", "attend"))

    @property
    def loads_ahead(self) -> int:
        """Loads by tensor descriptors that are on their way before the first product: of all stages but one."""
        stages: int = self.arguments.get("NUM_STAGES", 1)
        return 2 * (stages - 1)


def launches(capability: int, dtype: str) -> list[Launch]:
    """Every distinct launch of a DistilBERT-base over the ladder of batch sizes, every tile and every head width.

    Of tf32, in one product or three, only what differs from float32.
    """
    if capability < tiles.CODES_SINCE.get(dtype, 0):
        return []
    chip, config = CHIPS[capability], DistilBertConfig()
    arrays = Arrays(torch.device("meta"), dtype, pdl=capability >= 90)
    # Tiles of a persistent form differ from bucket to bucket.
    persistent = any(tile.form for tile in tiles.linear_candidates(dtype, chip))
    buckets = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 5632) if persistent else (512, 2048, 5632)
    with recorded(chip) as found:
        for tokens in (16, 32, 64, 128, *buckets):
            for op in all_ops(dtype):
                for arguments in op.in_model(config, tokens, dtype):
                    op.example(arrays, **arguments).launch()
        for op in all_ops(dtype):
            for arguments, entries in op.variants(config, dtype, chip):
                with measured(entries):
                    op.example(arrays, **arguments).launch()
    if dtype in PRECISIONS:
        found = [each for each in found if each.arguments.get("PRECISION") == dtype]
    return distinct(found)


def distinct(found: Iterable[Launch]) -> list[Launch]:
    """One launch of each that compiles to something else."""
    return list({launch_.variant: launch_ for launch_ in found}.values())


@contextmanager
def recorded(chip: tiles.Chip) -> Iterator[list[Launch]]:
    """Within, launchers append to the list what they would launch on `chip`, and launch nothing."""
    found: list[Launch] = []
    names = [module.name for module in pkgutil.iter_modules(distilrt.kernels.__path__, "distilrt.kernels.")]
    modules = [importlib.import_module(name) for name in names]
    kernels: list[tuple[ModuleType, str, Any]] = [
        (module, name, value)
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, KernelInterface) and name.endswith("_kernel")
    ]
    before = launch.stand_in
    try:
        launch.stand_in = chip
        for module, name, kernel in kernels:
            setattr(module, name, _Recorder(name, kernel, found))
        yield found
    finally:
        launch.stand_in = before
        for module, name, kernel in kernels:
            setattr(module, name, kernel)


class _Recorder:
    """Stands in for a jitted kernel and keeps what it is launched with."""

    def __init__(self, name: str, kernel: Any, found: list[Launch]) -> None:
        self._name, self._kernel, self._found = name, kernel, found

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        names = self._kernel.arg_names

        def record(*args: Any, **kwargs: Any) -> None:
            arguments = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
            options = {key: value for key, value in kwargs.items() if key not in names}
            self._found.append(Launch(self._kernel, self._name, arguments, options))

        return record
