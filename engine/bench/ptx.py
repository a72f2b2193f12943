"""Compiles the kernels for GPUs that need not be here, and reads from the machine code what they cost.

What is compiled, `distilrt.bench.launches` knows. The assembler and cuobjdump come with Triton.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from distilrt.bench.launches import CHIPS, DTYPES, POINTERS, Launch, launches
from distilrt.errors import InvalidParameter
from distilrt.kernels import tiles

# Shared memory and threads that a multiprocessor has for all its programs; each takes 1 KiB more than it asks for.
_SHARED_OF_ALL = {80: 164 << 10, 89: 100 << 10, 90: 228 << 10, 100: 228 << 10}
_THREADS_OF_ALL = {80: 2048, 89: 1536, 90: 2048, 100: 2048}
SECONDS = 0.5  # of a row, roughly; what Triton's cache has takes less
# What may be read before the wait: vectors of the model, which no kernel writes.
_READ_EARLY = ("_embed_kernel", "_layer_norm_kernel")


@dataclass(frozen=True, slots=True)
class Cost:
    """What the machine code of one kernel takes."""

    registers: int
    stack: int  # bytes of local memory a thread; spilled registers live there
    spills: int  # instructions that store a register to local memory
    shared: int  # bytes a program
    tensor_cores: str  # the instruction, or ""
    copies: str  # instructions that move operands past the registers: "TMA", "bulk", "cp.async"
    waits: bool  # for the kernel before (`launch.await_previous`), ahead of every store
    early: int  # loads ahead of that
    programs: int  # that a multiprocessor holds at once, by registers, shared memory and threads


@dataclass(frozen=True, slots=True)
class KernelRow:
    """One kernel compiled for one chip."""

    capability: int
    dtype: str
    label: str
    warps: int
    cost: Cost
    faults: tuple[str, ...]


def rows(capability: int, dtype: str, only: str = "") -> Iterator[KernelRow]:
    """Compile every variant that a forward on sm_`capability` in `dtype` can launch, one row each as it is done.

    Args:
        capability: one of `CHIPS`.
        dtype: one of `DTYPES`.
        only: leave out the launches whose label does not have this text.

    Raises:
        InvalidParameter: another chip or dtype, or Triton's interpreter is on.
    """
    for launch_ in _launches(capability, dtype, only):
        cost = compile_for(launch_, capability)
        faults = []
        if cost.spills:
            faults.append(f"{cost.spills} spills")
        if cost.shared > tiles.SHARED_MEMORY[capability]:
            faults.append(f"shared memory over {tiles.SHARED_MEMORY[capability]}")
        if dtype != "float32" and launch_.multiplies and not cost.tensor_cores:
            faults.append("no tensor cores")
        if launch_.options.get("launch_pdl") and not cost.waits:
            faults.append("no wait for the kernel before")
        if launch_.options.get("launch_pdl") and cost.early and launch_.name not in _READ_EARLY:
            faults.append(f"{cost.early} loads before the wait for the kernel before")
        yield KernelRow(capability, dtype, launch_.label, launch_.options.get("num_warps", 4), cost, tuple(faults))


def count(capability: int, dtype: str, only: str = "") -> int:
    """How many rows there will be; raises what `rows` does."""
    return len(_launches(capability, dtype, only))


def compile_for(launched: Launch, capability: int) -> Cost:
    """Compile one launch for sm_`capability` and measure its machine code."""
    signature, constants, attributes = {}, {}, {}
    for number, parameter in enumerate(launched.kernel.params):
        value = launched.arguments[parameter.name]
        one = isinstance(value, int) and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or one:
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        tensor = isinstance(value, torch.Tensor)
        signature[parameter.name] = f"*{POINTERS[value.dtype]}" if tensor else "i32"
        if (tensor or value % 16 == 0) and not parameter.do_not_specialize:
            attributes[(number,)] = [["tt.divisibility", 16]]
    source = ASTSource(launched.kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launched.options)
    warps = launched.options.get("num_warps", 4)
    return _measure(compiled.asm["cubin"], compiled.metadata.shared, capability, warps)


def table(found: list[KernelRow]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| chip | dtype | kernel | warps | registers | spills | shared memory | programs | tensor cores | copies |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        cost = row.cost
        lines.append(
            f"| sm_{row.capability} | {row.dtype} | {row.label} | {row.warps} | {cost.registers} | {cost.spills} | "
            f"{cost.shared} | {cost.programs} | {cost.tensor_cores} | {cost.copies} |"
        )
    return "\n".join(lines)


def page(found: list[KernelRow]) -> str:
    """The table as a page of the docs."""
    return f"""# What the GPU kernels compile to

Written by `make ptx` with Triton {triton.__version__}: every kernel, dtype and tile compiled ahead of time. It fails on
a spill, on shared memory over the chip's limit, on a half-precision matrix kernel without tensor cores, and on a kernel
that starts early (sm_90 on) but does not wait before its first store and, vectors of the model aside, its first load.
Registers are those of a thread, shared memory is bytes a program, programs are those that fit on a multiprocessor at
once. Tensor cores: HMMA is a warp's instruction, HGMMA that of four warps on sm_90 (wgmma), UTCHMMA sm_100's. Copies
into shared memory past the registers: TMA, bulk or cp.async. float32 products are exact multiply-adds on purpose, tf32
is what they are when torch's own may be. No GPU was involved and no time was measured.

{table(found)}
"""


def _launches(capability: int, dtype: str, only: str) -> list[Launch]:
    if capability not in CHIPS or dtype not in DTYPES:
        raise InvalidParameter(
            f"the chip must be one of {', '.join(map(str, CHIPS))} and the dtype one of {', '.join(DTYPES)}, found "
            f"{capability} and {dtype}"
        )
    if triton.knobs.runtime.interpret:
        raise InvalidParameter("the kernels are in Triton's interpreter: unset TRITON_INTERPRET to compile them")
    return [launch_ for launch_ in launches(capability, dtype) if only in launch_.label]


def _measure(cubin: bytes, shared: int, capability: int, warps: int) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        usage = _cuobjdump("-res-usage", path)
        code = _cuobjdump("-sass", path)
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))  # type: ignore[index]
    found = re.search(r"\b(UTC\w*MMA|HGMMA|HMMA)\b", code)
    kinds = {"TMA": r"\bUTMALDG\b", "bulk": r"\bUBLKCP\b", "cp.async": r"\bLDGSTS\b"}
    spills = len(re.findall(r"\bSTL\b", code))
    before, wait, _ = code.partition("ACQBULK")
    return Cost(
        registers, stack, spills, shared, found[1] if found else "",
        copies=", ".join(kind for kind, pattern in kinds.items() if re.search(pattern, code)),
        waits=bool(wait) and not re.search(r"\bSTG\b|\bATOMG\b|\bREDG?\b", before),
        early=len(re.findall(r"\b(?:LDG|LDGSTS|UTMALDG|UBLKCP|LD)\b", before)) if wait else 0,
        programs=_programs(registers, shared, capability, 32 * warps),
    )  # fmt: skip


def _programs(registers: int, shared: int, capability: int, threads: int) -> int:
    """Programs that fit on a multiprocessor, by the rules of NVIDIA's occupancy calculator."""
    by_registers = 65536 // (-(-registers // 8) * 8 * threads)
    by_memory = _SHARED_OF_ALL[capability] // (shared + 1024)
    return min(by_registers, by_memory, _THREADS_OF_ALL[capability] // threads, 24 if capability == 89 else 32)


def _cuobjdump(option: str, path: Path) -> str:
    tool = triton.knobs.nvidia.cuobjdump.path
    return subprocess.run([tool, option, str(path)], check=True, capture_output=True, text=True).stdout
