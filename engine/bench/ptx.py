"""Compiles the kernels for GPUs that need not be here, and reads from the machine code what they cost.

Launchers are called with tensors that have a shape but no data, and what they would launch is compiled instead, so
arguments, tiles and epilogues are those of a real forward. The assembler and cuobjdump come with Triton.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from distilrt.kernels import attention, embedding, launch, layer_norm, linear, narrow_linear, packing, pooling, tiles

CHIPS = {chip.capability: chip for chip in (tiles.A100, tiles.L40S, tiles.H200, tiles.B200)}
DTYPES = ("float32", "float16", "bfloat16")
_MODULES = (attention, embedding, layer_norm, linear, narrow_linear, packing, pooling)
_POINTERS = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16",
    torch.int32: "i32", torch.int64: "i64", torch.bool: "i1",
}  # fmt: skip


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
            elif isinstance(value, torch.Tensor):
                parts.append(_POINTERS[value.dtype])
            elif not parameter.do_not_specialize:
                parts.append("1" if value == 1 else str(value % 16 == 0))
        return " ".join([self.name, *parts, *(f"{key}={value}" for key, value in self.options.items())])

    @property
    def label(self) -> str:
        """Kernel, shape, tile and epilogue, for a table."""
        given = {name: value for name, value in self.arguments.items() if value is not None and value is not False}
        shape = ("N", "K") if "N" in given else ("HEAD_DIM", "WIDTH", "SEGMENTS")
        shown = [f"{name.lower()} {given[name]}" for name in shape if name in given]
        tile = [str(value) for name, value in given.items() if re.fullmatch("BLOCK_[MNK]", name)]
        shown += ["×".join(tile)] if tile else []
        if given.get("SEGMENT", given.get("K")) != given.get("K"):
            shown.append(f"{given['SEGMENT']} of k")
        shown += [given["ACTIVATION"]] if given.get("ACTIVATION") else []
        words = {"residual_ptr": "residual", "normed_ptr": "norm", "ONE_BLOCK": "one block",
                 "KEEP_FIRST": "keep first", "KEEP_ALL": "keep all"}  # fmt: skip
        shown += [word for name, word in words.items() if name in given]
        return " ".join([self.name.strip("_").removesuffix("_kernel"), ", ".join(shown)]).strip()

    @property
    def multiplies(self) -> bool:
        """Whether this is a matrix product in half precision, which tensor cores must do."""
        return "dot" in self.kernel.src or "_scores" in self.kernel.src


@dataclass(frozen=True, slots=True)
class Cost:
    """What the machine code of one kernel takes."""

    registers: int
    stack: int  # bytes of local memory a thread; spilled registers live there
    spills: int  # instructions that store a register to local memory
    shared: int  # bytes a program
    tensor_cores: str  # the instruction, or ""
    waits: bool  # for the kernel before, ahead of every store (`launch.await_previous`)


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel compiled for one chip."""

    capability: int
    dtype: str
    label: str
    warps: int
    cost: Cost
    faults: tuple[str, ...]


def rows(capability: int, dtype: str, only: str = "") -> Iterator[Row]:
    """Compile every variant that a forward on sm_`capability` in `dtype` can launch, one row each as it is done.

    Args:
        capability: one of `CHIPS`.
        dtype: one of `DTYPES`.
        only: leave out the launches whose label does not have this text.

    Raises:
        ValueError: another chip or dtype, or Triton's interpreter is on.
    """
    if capability not in CHIPS or dtype not in DTYPES:
        raise ValueError(f"the chip must be one of {', '.join(map(str, CHIPS))} and the dtype one of "
                         f"{', '.join(DTYPES)}, found {capability} and {dtype}")  # fmt: skip
    if triton.knobs.runtime.interpret:
        raise ValueError("the kernels are in Triton's interpreter: unset TRITON_INTERPRET to compile them")
    for launch_ in launches(capability, dtype):
        if only in launch_.label:
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
            yield Row(capability, dtype, launch_.label, launch_.options.get("num_warps", 4), cost, tuple(faults))


def launches(capability: int, dtype: str) -> list[Launch]:
    """Every distinct launch of a DistilBERT-base over the ladder of batch sizes, every tile and every head width."""
    chip, kind = CHIPS[capability], getattr(torch, dtype)
    with recorded(chip) as found:
        for tokens in (16, 32, 64, 128, 512, 2048, 16384):
            _forward(tokens, kind, chip)
        for tile in tiles.linear_candidates(dtype, chip):
            with measured({(capability, dtype, 4096, n, k): tile for n, k in ((768, 3072), (3072, 768))}):
                _linear(4096, 768, 3072, kind, residual=True)
                _linear(4096, 3072, 768, kind, activation="gelu")
        for activation in ("relu", "gelu_new", "silu"):
            _linear(4096, 3072, 768, kind, activation=activation)
        for head_dim in (16, 32, 128):
            for max_seqlen in (16, 128, 512):
                _attention(4096, max_seqlen, 768 // head_dim, head_dim, kind)
    return list({launch_.variant: launch_ for launch_ in found}.values())


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
        signature[parameter.name] = f"*{_POINTERS[value.dtype]}" if tensor else "i32"
        if (tensor or value % 16 == 0) and not parameter.do_not_specialize:
            attributes[(number,)] = [["tt.divisibility", 16]]
    source = ASTSource(launched.kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launched.options)
    return _measure(compiled.asm["cubin"], compiled.asm["ptx"], compiled.metadata.shared)


def table(found: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| chip | dtype | kernel | warps | registers | spills | shared memory | tensor cores |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        cost = row.cost
        lines.append(
            f"| sm_{row.capability} | {row.dtype} | {row.label} | {row.warps} | {cost.registers} | {cost.spills} | "
            f"{cost.shared} | {cost.tensor_cores} |"
        )
    return "\n".join(lines)


def page(found: list[Row]) -> str:
    """The table as a page of the docs."""
    return f"""# What the GPU kernels compile to

Written by `make ptx` with Triton {triton.__version__}: every kernel, dtype and tile compiled ahead of time. It fails on
a spill, on shared memory over the chip's limit, on a half-precision matrix kernel without tensor cores, and on a kernel
that starts early (sm_90 on) but does not wait before its first store. Registers are those of a thread, shared memory is
bytes a program. float32 products are exact multiply-adds on purpose. No GPU was involved and no time was measured.

{table(found)}
"""


@contextmanager
def recorded(chip: tiles.Chip) -> Iterator[list[Launch]]:
    """Within, launchers append to the list what they would launch on `chip`, and launch nothing."""
    found: list[Launch] = []
    kernels: list[tuple[ModuleType, str, Any]] = [
        (module, name, value) for module in _MODULES for name, value in vars(module).items()
        if isinstance(value, triton.JITFunction) and name.endswith("_kernel")
    ]  # fmt: skip
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


@contextmanager
def measured(entries: dict[tuple[int, str, int, int, int], tiles.LinearTile]) -> Iterator[None]:
    """Within, `tiles.MEASURED` has these entries alone."""
    before = dict(tiles.MEASURED)
    try:
        tiles.MEASURED.clear()
        tiles.MEASURED.update(entries)
        yield
    finally:
        tiles.MEASURED.clear()
        tiles.MEASURED.update(before)


class _Recorder:
    """Stands in for a jitted kernel and keeps what it is launched with."""

    def __init__(self, name: str, kernel: Any, found: list[Launch]) -> None:
        self._name, self._kernel, self._found = name, kernel, found

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        names = [parameter.name for parameter in self._kernel.params]

        def record(*args: Any, **kwargs: Any) -> None:
            arguments = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
            options = {key: value for key, value in kwargs.items() if key not in names}
            self._found.append(Launch(self._kernel, self._name, arguments, options))

        return record


def _forward(tokens: int, dtype: torch.dtype, chip: tiles.Chip) -> None:
    """One layer and the ends of a DistilBERT-base."""
    width, inner, seqs = 768, 3072, max(1, tokens // 128)
    name = launch.DTYPE_NAMES[dtype]
    vector, rows_ = _empty(width), _empty(tokens, width, dtype=dtype)
    ids, cu_seqlens, lengths = _ints(tokens), _ints(seqs + 1), _ints(seqs)
    norm: dict[str, Any] = {"eps": 1e-12, **_common()}
    words = _empty(30522, width, dtype=dtype)
    embedding.embed(rows_, ids, ids, words, _empty(512, width, dtype=dtype), vector, vector, **norm)
    embedding.embed(rows_, rows_, ids, words, _empty(512, width, dtype=dtype), vector, vector, **norm)
    for n, k, activation in ((3 * width, width, ""), (width, width, ""), (inner, width, "gelu"), (width, inner, "")):
        _linear(tokens, n, k, dtype, activation)
        segments = tiles.split_k(tokens, n, k, name, chip)
        if segments > 1 and n == width:
            partials = _empty(segments, tokens, n)
            linear.linear_split(partials, _empty(tokens, k, dtype=dtype), _empty(n, k, dtype=dtype), **_common())
            layer_norm.residual_layer_norm(rows_, partials, rows_, vector, vector, vector, **norm)
    if tiles.is_narrow(tokens, name):
        _linear(tokens, width, inner, dtype, residual=True)
        for n, activation in ((3 * width, ""), (inner, "gelu")):
            out, weight = _empty(tokens, n, dtype=dtype), _empty(n, width, dtype=dtype)
            narrow_linear.norm_linear(out, rows_, _empty(tokens, width), vector, vector, weight, _empty(n),
                                      activation=activation, **norm)  # fmt: skip
    _attention(tokens, min(tokens, 512), 12, 64, dtype)
    layer_norm.residual_layer_norm(rows_, rows_, rows_, vector, vector, vector, **norm)
    layer_norm.layer_norm(rows_, rows_, vector, vector, **norm)
    pooling.gather(_empty(seqs, width, dtype=dtype), rows_, lengths, pdl=_pdl())
    pooling.first_rows(_empty(seqs, width, dtype=dtype), rows_, cu_seqlens, pdl=_pdl())
    pooling.mean(_empty(seqs, width), rows_, cu_seqlens, lengths, pdl=_pdl())
    grid = (seqs, tokens // seqs)
    padded = torch.empty(grid, dtype=torch.int64, device="meta")
    for keep, mask in (("keys", None), ("keys", padded), ("first", padded), ("all", padded)):
        packing.pack(ids, ids, ids, cu_seqlens, lengths, lengths, _ints(1), padded_shape=grid, padded_ids=padded,
                     attention_mask=mask, keep=keep, vocab_size=30522, max_positions=512, pdl=_pdl())  # fmt: skip
    packing.unpack(_empty(*grid, width, dtype=dtype), rows_, ids, attention_mask=padded, num_tokens=_ints(1))


def _linear(tokens: int, n: int, k: int, dtype: torch.dtype, activation: str = "", residual: bool = False) -> None:
    out, x, weight = (_empty(*shape, dtype=dtype) for shape in ((tokens, n), (tokens, k), (n, k)))
    linear.linear(out, x, weight, _empty(n), out if residual else None, activation=activation, **_common())


def _attention(tokens: int, max_seqlen: int, heads: int, head_dim: int, dtype: torch.dtype) -> None:
    width, seqs = heads * head_dim, max(1, tokens // max_seqlen)
    out, qkv = _empty(tokens, width, dtype=dtype), _empty(tokens, 3 * width, dtype=dtype)
    attention.attention(out, qkv, _ints(seqs + 1), _ints(seqs), heads, max_seqlen=max_seqlen, pdl=_pdl())


def _common() -> dict[str, Any]:
    return {"num_tokens": _ints(1), "pdl": _pdl()}


def _pdl() -> bool:
    return launch.stand_in.capability >= 90


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _ints(size: int) -> torch.Tensor:
    return _empty(size, dtype=torch.int32)


def _measure(cubin: bytes, text: str, shared: int) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        usage = _cuobjdump("-res-usage", path)
        code = _cuobjdump("-sass", path)
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))  # type: ignore[index]
    found = re.search(r"\b(UTC\w*MMA|HGMMA|HMMA)\b", code)
    spills = len(re.findall(r"\bSTL\b", code))
    waits = 0 <= text.find("griddepcontrol.wait") < text.find("st.global")
    return Cost(registers, stack, spills, shared, found[1] if found else "", waits)


def _cuobjdump(option: str, path: Path) -> str:
    tool = triton.knobs.nvidia.cuobjdump.path
    return subprocess.run([tool, option, str(path)], check=True, capture_output=True, text=True).stdout
