"""Compiles the kernels for GPUs that need not be here, and reads from the machine code what they cost.

What is compiled, `launches` knows. The assembler and cuobjdump come with Triton.

    python -m tests.kernels.ptx --chips 90 --out docs/kernels.md
"""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import triton
import typer
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from distilrt.kernels import tiles
from tests.kernels.launches import DTYPES, Launch, launches, type_of

# Shared memory and threads that a multiprocessor has for all its programs; each takes 1 KiB more than it asks for.
_SHARED_OF_ALL = {80: 164 << 10, 89: 100 << 10, 90: 228 << 10, 100: 228 << 10}
_THREADS_OF_ALL = {80: 2048, 89: 1536, 90: 2048, 100: 2048}
COLUMNS = (
    "chip",
    "dtype",
    "kernel",
    "warps",
    "registers",
    "spills",
    "shared memory",
    "programs",
    "tensor cores",
    "copies",
)
_COPIES = {
    "TMA": r"\bUTMALDG\b", "TMA out": r"\bUTMASTG\b", "bulk": r"\bUBLKCP\b", "cp.async": r"\bLDGSTS\b",
}  # fmt: skip
_MULTIPLICATION = r"\b(UTC\w*MMA|[HQI]G?MMA)\b"
# What may be read before the wait: vectors of the model, which no kernel writes.
_READ_EARLY = ("_embed_kernel", "_layer_norm_kernel")


Row = dict[str, Any]


def rows(capability: int, dtype: str, only: str = "") -> Iterator[Row]:
    """Compile every variant that a forward on sm_`capability` in `dtype` can launch, one row each as it is done.

    Args:
        capability: one of `CHIPS`.
        dtype: one of `DTYPES`.
        only: leave out the launches whose label does not begin with this text.

    Returns:
        `COLUMNS`, and `faults` in words.
    """
    for launched in launches(capability, dtype):
        if launched.label.startswith(only):
            warps, (cubin, shared) = launched.options.get("num_warps", 4), _compiled(launched, capability)
            code, registers = _disassembled(cubin)
            yield {
                "chip": f"sm_{capability}", "dtype": dtype, "kernel": launched.label, "warps": warps,
                "registers": registers, "spills": len(re.findall(r"\bSTL\b", code)), "shared memory": shared,
                "programs": _programs(registers, shared, capability, 32 * warps),
                "tensor cores": "".join(re.findall(_MULTIPLICATION, code)[:1]),
                "copies": ", ".join(kind for kind, pattern in _COPIES.items() if re.search(pattern, code)),
                "faults": list(_faults(launched, dtype, code, shared, capability)),
            }  # fmt: skip


def _faults(launched: Launch, dtype: str, code: str, shared: int, capability: int) -> Iterator[str]:
    if spills := len(re.findall(r"\bSTL\b", code)):
        yield f"{spills} spills"
    if shared > tiles.SHARED_MEMORY[capability]:
        yield f"shared memory over {tiles.SHARED_MEMORY[capability]}"
    if dtype != "float32" and launched.multiplies and "MMA" not in code:
        yield "no tensor cores"
    ahead, needed = len(re.findall(_COPIES["TMA"], re.split(_MULTIPLICATION, code)[0])), launched.loads_ahead
    if ahead < needed:
        yield f"{ahead} loads ahead of the first product, not {needed}"
    if launched.options.get("launch_pdl"):
        before, wait, _ = code.partition("ACQBULK")  # of `launch.await_previous`
        early = len(re.findall(r"\b(?:LDG|LDGSTS|UTMALDG|UBLKCP|LD)\b", before))
        if not wait or re.search(r"\bSTG\b|\bATOMG\b|\bREDG?\b", before):
            yield "no wait for the kernel before"
        elif early and launched.name not in _READ_EARLY:
            yield f"{early} loads before the wait for the kernel before"


def _compiled(launched: Launch, capability: int) -> tuple[bytes, int]:
    """Machine code of one launch for sm_`capability`, and the shared memory of a program."""
    signature, constants, attributes = {}, {}, {}
    for number, parameter in enumerate(launched.kernel.params):
        value = launched.arguments[parameter.name]
        one = isinstance(value, int) and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or one:
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        tensor = isinstance(value, torch.Tensor)
        signature[parameter.name] = "i32" if isinstance(value, int) else type_of(value)
        if (tensor or (isinstance(value, int) and value % 16 == 0)) and not parameter.do_not_specialize:
            attributes[(number,)] = [["tt.divisibility", 16]]
    source = ASTSource(launched.kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launched.options)
    return compiled.asm["cubin"], compiled.metadata.shared


def table(found: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [f"| {' | '.join(str(row[name]) for name in COLUMNS)} |" for row in found]
    return "\n".join([f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", *lines])


def page(found: list[Row]) -> str:
    """The table as a page of the docs."""
    return f"""# What the GPU kernels compile to

Written by `make ptx` with Triton {triton.__version__}: every kernel, dtype and tile compiled ahead of time. It fails on
a spill, on shared memory over the chip's limit, on a half-precision matrix kernel without tensor cores, and on a kernel
that starts early (sm_90 on) but does not wait before its first store and, vectors of the model aside, its first load.
Registers are those of a thread, shared memory is bytes a program, programs are those that fit on a multiprocessor at
once. Tensor cores: HMMA is a warp's instruction, HGMMA that of four warps on sm_90 (wgmma), UTCHMMA sm_100's; with Q
for H they multiply float8, with I int8 (HMMA there: codes widened to bfloat16, for few rows). Of these two dtypes only
what differs from bfloat16 is shown. Copies past the registers: TMA, bulk or cp.async into shared memory, "TMA out" out
of it; the page fails too where `persistent_linear` has fewer loads ahead of its first product than its stages allow.
float32 is exact multiply-adds; tf32x3 (three products of tf32) and tf32 are other precisions of its products, of which
only these are shown. No GPU was involved and no time was measured.

{table(found)}
"""


def _disassembled(cubin: bytes) -> tuple[str, int]:
    """Its instructions, and the registers of a thread."""

    def cuobjdump(option: str) -> str:
        command = [triton.knobs.nvidia.cuobjdump.path, option, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        (registers,) = re.findall(r"REG:(\d+)", cuobjdump("-res-usage"))
        return cuobjdump("-sass"), int(registers)


def _programs(registers: int, shared: int, capability: int, threads: int) -> int:
    """Programs that fit on a multiprocessor, by the rules of NVIDIA's occupancy calculator."""
    by_registers = 65536 // (-(-registers // 8) * 8 * threads)
    by_memory = _SHARED_OF_ALL[capability] // (shared + 1024)
    return min(by_registers, by_memory, _THREADS_OF_ALL[capability] // threads, 24 if capability == 89 else 32)


def main(
    chips: Annotated[str, typer.Option(help="Comma-separated compute capabilities.")] = "80,89,90,100",
    dtypes: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(DTYPES),
    only: Annotated[str, typer.Option(help="Compile only kernels whose name in the table begins so.")] = "",
    out: Annotated[Path | None, typer.Option(help="Write the table to this Markdown file too.")] = None,
) -> None:
    """Show registers, spills and tensor-core instructions; exit code 1: there is a fault."""
    found: list[Row] = []
    for chip, dtype in itertools.product(map(int, chips.split(",")), dtypes.split(",")):
        for row in rows(chip, dtype, only):
            found.append(row)
            faults = f": {', '.join(row['faults'])}" if row["faults"] else ""
            typer.echo(f"sm_{chip} {dtype} {row['kernel']}{faults}", err=True)
    typer.echo(table(found))
    if out is not None:
        out.write_text(page(found))
    if any(row["faults"] for row in found):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
