"""Which tile a kernel runs with: pure functions of shape, dtype and chip. No tuning at run time, no GPU needed.

A tile found by measurement (`test_tiles` of benches) belongs into `MEASURED`; elsewhere products take the
candidate with the lowest estimate, and of many rows one that deals work out evenly; other ops take a rule. The estimate
counts, for the multiprocessor with the most blocks, cycles of multiplying, of moving operands through shared memory, of
fetching them from L2 and of the epilogue. It ranks tiles, no more.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import lru_cache

# float32 is exact multiply-adds; "tf32x3" and "tf32" are float32 on tensor cores (`launch.PRECISIONS`).
ITEM_SIZE = {"float32": 4, "tf32x3": 4, "tf32": 4, "float16": 2, "bfloat16": 2, "float8": 1, "int8": 1}
CODES = {"float8": "float8_e4m3fn", "int8": "int8"}  # what torch calls the dtypes of 8 bits
CODES_SINCE = {"float8": 89, "int8": 80}  # the capability from which on tensor cores multiply them
# Bytes of shared memory that one program may have.
SHARED_MEMORY = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
# Half-precision multiply-adds with float32 sums that one multiprocessor does in a cycle; of 8 bits twice as many.
MULTIPLY_RATE = {80: 1024, 86: 256, 89: 512, 90: 2048, 100: 4096, 120: 512}
# Exact float32 multiply-adds that it does in a cycle.
FLOAT32_RATE = {80: 64, 86: 128, 89: 128, 90: 128, 100: 128, 120: 128}
SHARED_RATE = 128  # bytes a cycle
L2_RATE = 48  # bytes a cycle and multiprocessor when all of them read
START = 1500  # cycles from the start of a program to its first product, and from its last to its end
NARROW_ROWS = 32  # up to here products of 16 or 8 bits are `narrow_linear`
EVEN_ROWS = 256  # from here on products are dealt out evenly where they can be
UNEVEN = 1.1  # times the mean work, at most, for the busiest multiprocessor
GROUP_M = 8  # row blocks that programs which run together share
ROW_REGISTERS = 104  # of a thread of a row-wise op, at most: untold, the assembler may spill to fit more programs


@dataclass(frozen=True, slots=True)
class Chip:
    """A GPU as far as tiles depend on it."""

    capability: int  # 90 for sm_90
    num_sms: int

    @property
    def known(self) -> int:
        """The newest capability of this module's tables that this chip has."""
        return max((known for known in SHARED_MEMORY if known <= self.capability), default=80)


A100, L40S, H200, B200 = Chip(80, 108), Chip(89, 142), Chip(90, 132), Chip(100, 148)


@dataclass(frozen=True, slots=True)
class LinearTile:
    """Output block of `linear`, the step along the depth, and how it is compiled.

    Its form is "", a program for each block, or one of `persistent_linear`, where each multiprocessor has one program:
    "persistent", which takes whole blocks in turns, or "stream", which may share a block with the next program.
    """

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    form: str = ""

    def shared_memory(self, dtype: str, segments: int = 1) -> int:
        """Bytes that the steps in flight take, at most, and a finished block on its way out."""
        steps = (self.block_m + self.block_n) * self.block_k * ITEM_SIZE[dtype] * self.num_stages
        out = self.block_m * self.block_n * (4 if segments > 1 else max(ITEM_SIZE[dtype], 2))
        return steps + (out + 1024 if self.form else 0)  # and its barriers

    def units(self, tokens: int, n: int, segments: int = 1) -> int:
        """Blocks, in so many segments of the depth each."""
        return _up(tokens, self.block_m) * _up(n, self.block_n) * segments

    def busiest(self, tokens: int, n: int, k: int, chip: Chip, segments: int = 1) -> float:
        """Units of the multiprocessor that has the most to do."""
        units = self.units(tokens, n, segments)
        if self.form != "stream":
            return _up(units, chip.num_sms)
        steps = _up(k, segments * self.block_k)
        return _up(units * steps, min(units, chip.num_sms)) / steps

    def is_even(self, tokens: int, n: int, k: int, chip: Chip, segments: int = 1) -> bool:
        """Whether no multiprocessor has much more to do than the mean of all of them."""
        return self.busiest(tokens, n, k, chip, segments) <= UNEVEN * self.units(tokens, n, segments) / chip.num_sms

    def resident(self, dtype: str, chip: Chip) -> int:
        """Programs that a multiprocessor holds at once: as many as shared memory and registers for the sums allow."""
        if self.form:
            return 1
        threads = 32 * self.num_warps
        # Of a thread for operands and addresses.
        others = {"float32": 128, "tf32x3": 80, "tf32": 80}.get(dtype, 48)
        registers = self.block_m * self.block_n + others * threads
        if dtype == "tf32x3":  # sums of a step by themselves, and both parts of what several warps multiply
            registers += self.block_m * self.block_n + 4 * (self.block_m + self.block_n) * self.block_k
        by_memory = SHARED_MEMORY[chip.known] // self.shared_memory(dtype)
        by_registers = 65536 // registers
        return max(1, min(by_memory, by_registers, 1536 // threads))

    def max_registers(self, dtype: str, chip: Chip) -> int:
        """Registers of a thread with which so many programs fit; untold, the assembler may spill to fit more.

        On sm_100 sums are in a memory of their own and come through registers only at the end, all at once.
        """
        if chip.known == 100:
            return 255
        return min(255, 65536 // (32 * self.num_warps * self.resident(dtype, chip)) // 8 * 8)


@dataclass(frozen=True, slots=True)
class NarrowTile:
    """Output block of one program of `narrow_linear`; a step along the depth is `slices * block_k`, a slice a warp."""

    block_m: int
    block_n: int
    block_k: int
    slices: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class EncoderTile:
    """Columns of a block of `whole_encoder`: `wide` of the QKV product and the first FFN layer, `narrow` of the others.

    As in `NarrowTile`, a warp has a slice of `block_k` of each step. A multiprocessor has one program, for two would
    have too few registers.
    """

    wide: int
    narrow: int
    block_k: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class OneByOne:
    """In place of an `EncoderTile`: each of its phases is a kernel."""


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """Queries of one program of `attention`, keys of one step, how it is compiled, and how many programs at most.

    Scores are summed over `depth` dims of a head at a time. Up to `one_block` keys are taken in one step, whatever
    `block_n`. `max_registers` of a thread: untold, the assembler may spill to fit more programs.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    programs: int
    depth: int = 128
    max_registers: int | None = None
    one_block: int = 0


@dataclass(frozen=True, slots=True)
class RowTile:
    """Programs and warps of the row-wise ops; programs take rows in turns."""

    programs: int
    num_warps: int


@dataclass(frozen=True, slots=True)
class Split:
    """Parts of the depth of `linear`, and their tile."""

    segments: int
    tile: LinearTile


# 128 x 256 moves the fewest bytes for each product; two programs of 128 x 128 fit on a multiprocessor and hide each
# other's epilogue; the narrow ones are for few rows. Shared memory and registers allow less before sm_90.
_HOPPER = (
    LinearTile(128, 256, 64, 8, 3), LinearTile(128, 128, 64, 8, 3), LinearTile(128, 64, 64, 4, 4),
    LinearTile(64, 128, 64, 4, 4), LinearTile(64, 64, 64, 4, 5), LinearTile(64, 32, 128, 4, 4),
)  # fmt: skip
_BLACKWELL = (LinearTile(128, 128, 64, 8, 4), *_HOPPER[2:])
_AMPERE = (
    LinearTile(128, 256, 32, 8, 3), LinearTile(128, 128, 64, 8, 3), LinearTile(128, 64, 64, 4, 3),
    LinearTile(64, 128, 64, 4, 3), LinearTile(64, 64, 64, 4, 4), LinearTile(64, 32, 64, 4, 4),
    LinearTile(32, 64, 64, 4, 4),
)  # fmt: skip
_ADA = (
    LinearTile(128, 128, 32, 8, 4), LinearTile(128, 64, 64, 4, 3), LinearTile(64, 128, 64, 4, 3),
    LinearTile(64, 64, 64, 4, 4), LinearTile(64, 32, 64, 4, 4), LinearTile(32, 64, 64, 4, 4),
)  # fmt: skip
# Three products of tf32 have sums of their own and parts of the factors in registers, so single warps take short steps.
_TF32X3 = (
    LinearTile(128, 64, 16, 8, 4), LinearTile(64, 64, 16, 4, 5), LinearTile(64, 32, 32, 4, 4),
    LinearTile(32, 32, 32, 4, 4), LinearTile(16, 32, 32, 4, 4),
)  # fmt: skip
_TF32X3_OF_GROUPS = (
    LinearTile(128, 128, 32, 8, 3), LinearTile(64, 128, 32, 4, 4), LinearTile(64, 64, 32, 4, 5), *_TF32X3[2:],
)  # fmt: skip
# Exact float32 products are plain multiply-adds, whose operands must fit in registers.
_FLOAT32 = (LinearTile(64, 64, 32, 8, 2), LinearTile(32, 32, 32, 4, 2), LinearTile(16, 32, 32, 4, 2))
_CANDIDATES = {80: _AMPERE, 86: _ADA, 89: _ADA, 90: _HOPPER, 100: _BLACKWELL, 120: _ADA}
# For 16 bits, or 8 with steps twice as long; one program has the shared memory of a multiprocessor.
_PERSISTENT = (
    LinearTile(128, 256, 64, 8, 3), LinearTile(128, 128, 64, 8, 4), LinearTile(128, 64, 64, 4, 5),
    LinearTile(64, 128, 64, 4, 5), LinearTile(64, 64, 64, 4, 6), LinearTile(64, 32, 64, 4, 6),
)  # fmt: skip
_PERSISTENT_ON = {90: _PERSISTENT, 100: _PERSISTENT[1:]}

Tile = LinearTile | NarrowTile | EncoderTile | OneByOne | AttentionTile | RowTile | Split
Key = tuple[str | int | bool, ...]

# What was fastest on a device: by op, capability and what else the op depends on, then by tokens (attention: by the
# longest sequence); an entry holds down to half as many.
#   ("linear" or "split", capability, dtype, n, k)     ("narrow", capability, n, k, norm)
#   ("attention", capability, dtype, head_dim)         ("rows", capability, width)
#   ("encoder", capability, dtype, width, inner): without an entry its kernels run one by one
MEASURED: dict[Key, dict[int, Tile]] = {}


def linear_candidates(dtype: str, chip: Chip) -> tuple[LinearTile, ...]:
    """The tiles that `linear_tile` chooses from."""
    if dtype == "float32":
        return _FLOAT32
    if dtype == "tf32x3":
        return _TF32X3_OF_GROUPS if chip.known in (90, 100) else _TF32X3
    found = _CANDIDATES[chip.known]
    if dtype == "tf32":  # operands of twice the bytes: shorter steps, and not the largest block, which would spill
        small = (tile for tile in found if tile.block_m * tile.block_n <= 128 * 128)
        return tuple(replace(tile, block_k=tile.block_k // 2) for tile in small)
    if ITEM_SIZE[dtype] == 1:
        return tuple(replace(tile, block_k=2 * tile.block_k) for tile in linear_candidates("bfloat16", chip))
    persistent = _PERSISTENT_ON.get(chip.known, ())
    return (*found, *(replace(tile, form=form) for form in ("persistent", "stream") for tile in persistent))


def float32_precision(chip: Chip) -> str:
    """How float32 products are computed where nobody asks: "tf32x3" where tensor cores do three products of tf32 in
    less time than plain multiply-adds do one, else "ieee"."""
    return "tf32x3" if MULTIPLY_RATE[chip.known] / 2 / 3 > FLOAT32_RATE[chip.known] else "ieee"


def linear_tile(
    tokens: int, n: int, k: int, dtype: str, chip: Chip, segments: int = 1, persistent: bool = True
) -> LinearTile:
    """The tile of `linear` for `[tokens, k] @ [n, k]ᵀ` with the depth in `segments` parts.

    Not `persistent`: of the form that has a program for each block.
    """
    # Tensor descriptors want rows of multiples of 16 bytes.
    persistent = persistent and n % 8 == 0 == k * ITEM_SIZE[dtype] % 16
    shape = (chip.capability, dtype, n, k)
    if segments == 1:
        found = _measured(("linear", *shape), tokens)
    else:
        split = _measured(("split", *shape), tokens)
        found = split.tile if isinstance(split, Split) and split.segments == segments else None
    if isinstance(found, LinearTile) and (persistent or not found.form):
        return found
    return _estimated(tokens, n, k, dtype, chip, segments, persistent and tokens >= EVEN_ROWS)


def _measured(key: Key, size: int) -> Tile | None:
    entries = MEASURED.get(key)
    if not entries:
        return None
    return next((entries[most] for most in sorted(entries) if most // 2 < size <= most), None)


@lru_cache(4096)  # heads ask in every call
def _estimated(tokens: int, n: int, k: int, dtype: str, chip: Chip, segments: int, persistent: bool) -> LinearTile:
    """The lowest estimate, among the even tiles of a persistent form if there are any."""
    found = [tile for tile in linear_candidates(dtype, chip) if persistent or not tile.form]
    found = [tile for tile in found if _fits(tile, dtype, chip, segments)]
    even = [tile for tile in found if tile.form and tile.is_even(tokens, n, k, chip, segments)]
    return min(even or found, key=lambda tile: linear_cycles(tile, tokens, n, k, dtype, chip, segments))


def linear_cycles(tile: LinearTile, tokens: int, n: int, k: int, dtype: str, chip: Chip, segments: int = 1) -> float:
    """Cycles of the multiprocessor that has the most blocks, by the estimate that this module starts with."""
    m, width, item = tile.block_m, tile.block_n, ITEM_SIZE[dtype]
    depth = k / segments
    if dtype == "float32":
        multiply = depth * m * width / 100  # multiply-adds, with the loads between them
        shared = depth * (m + width) * item * 4 / SHARED_RATE
    else:
        # From sm_90 on a group of 4 warps multiplies 64 rows at once; single warps reach about 60 % there.
        grouped = chip.capability >= 90 and m >= 64
        single = chip.capability >= 90 and not grouped
        rate = MULTIPLY_RATE[chip.known] * 2 / item
        products = 3 if dtype == "tf32x3" else 1  # of parts that groups of warps read from shared memory again
        multiply = products * depth * m * width / (rate * (0.6 if single else 1.0))
        readers = products * (m // 64) * (64 + width) if grouped else 2 * (m + width)
        shared = depth * (readers + m + width) * item / SHARED_RATE
    fetch = depth * (m + width) * item / L2_RATE
    epilogue = m * width * 20 / 128
    resident = tile.resident(dtype, chip)
    busiest = tile.busiest(tokens, n, k, chip, segments)
    most = math.ceil(busiest)
    main = max(multiply, shared, fetch)
    if tile.form:
        relay = 2 * m * width * 4 / L2_RATE + START if busiest < most else 0  # sums written and read, loads begun anew
        return busiest * main + most * epilogue + relay + START
    # Programs that share a multiprocessor hide each other's start and epilogue, one that is alone hides nothing.
    hidden = min(resident, most)
    return most * (main + epilogue / hidden) + _up(most, resident) * START


def relayed(tokens: int, n: int, k: int, dtype: str, chip: Chip, segments: int = 1) -> int:
    """Float32 numbers that programs of `linear` may leave for the next one."""
    tile = linear_tile(tokens, n, k, dtype, chip, segments)
    return chip.num_sms * tile.block_m * tile.block_n if tile.form == "stream" else 0


def split_k(tokens: int, n: int, k: int, dtype: str, chip: Chip) -> int:
    """In how many parts of its depth a product of `linear` should be, for a layer norm to add up."""
    if is_narrow(tokens, dtype):
        return 1
    if isinstance(split := _measured(("split", chip.capability, dtype, n, k), tokens), Split):
        return split.segments
    counts = [count for count in (1, 2, 4) if count == 1 or k // count >= 256]
    found = {count: linear_tile(tokens, n, k, dtype, chip, count) for count in counts}
    even = {count: tile for count, tile in found.items() if tile.form and tile.is_even(tokens, n, k, chip, count)}
    best, fewest = 1, 0.0
    for count, tile in (even or found).items():
        cycles = linear_cycles(tile, tokens, n, k, dtype, chip, count)
        cycles += count * tokens * n * 8 / (chip.num_sms * L2_RATE)  # the partial sums, written and read
        if not fewest or cycles < 0.9 * fewest:
            best, fewest = count, cycles
    return best


def is_narrow(tokens: int, dtype: str) -> bool:
    """Whether `narrow_linear` is for so many rows."""
    return tokens <= NARROW_ROWS and ITEM_SIZE[dtype] <= 2


def narrow_tile(tokens: int, n: int, k: int, chip: Chip, norm: bool = False) -> NarrowTile:
    """The tile of `narrow_linear`: the narrowest block with which all programs run at once.

    With `norm` the rows in flight are float32, and fewer steps of them fit into shared memory.
    """
    if isinstance(found := _measured(("narrow", chip.capability, n, k, norm), tokens), NarrowTile):
        return found
    block_m, resident = (16, 2) if tokens <= 16 else (32, 1)
    block_n = next((width for width in (8, 16, 32) if _up(n, width) <= resident * chip.num_sms), 64)
    stages = 4 if block_m == 16 and block_n < 64 else 3
    return NarrowTile(block_m, block_n, 32, 8, 8, stages - norm)


def encoder_tile(tokens: int, width: int, inner: int, dtype: str, chip: Chip) -> EncoderTile | None:
    """The tile of `whole_encoder` where that was faster than its kernels one by one; None: it was not, or no one knows.

    It needs a barrier where they need a launch, and which of the two takes longer, only a device can say.
    """
    found = _measured(("encoder", chip.capability, dtype, width, inner), tokens)
    return found if isinstance(found, EncoderTile) and is_narrow(tokens, dtype) else None


def encoder_tiles(tokens: int) -> tuple[EncoderTile, ...]:
    """What a search tries beside `OneByOne`, the likeliest first. More rows leave no registers for wider blocks."""
    shapes = ((16, 8, 3), (32, 8, 3), (32, 16, 3)) if tokens <= 16 else ((16, 8, 2), (16, 8, 3), (16, 16, 2))
    return tuple(EncoderTile(wide, narrow, 32, 8, stages) for wide, narrow, stages in shapes)


def attention_tile(max_seqlen: int, head_dim: int, dtype: str, chip: Chip) -> AttentionTile:
    """The tile of `attention`: one block of keys where that holds the longest sequence, up to 128. Beyond, there are
    programs for every item of a full bucket: the device deals them out as others end."""
    if isinstance(found := _measured(("attention", chip.capability, dtype, head_dim), max_seqlen), AttentionTile):
        return found
    if dtype in ("float32", "tf32x3"):
        block = 32 if head_dim <= 64 and max_seqlen > 16 else 16
        return AttentionTile(block, block, 4, 2, 4 * chip.num_sms, depth=32)
    if dtype == "tf32":
        return AttentionTile(64, 32, 4 if head_dim <= 64 else 8, 2, 4 * chip.num_sms, depth=64)
    longest = max(16, 1 << (max_seqlen - 1).bit_length())
    if longest <= 128:
        block_m = min(longest, 64)
        return AttentionTile(block_m, longest, 4 if block_m == 64 else 2, 2, 4 * chip.num_sms)
    if head_dim > 64:  # two such blocks would not fit into registers
        return AttentionTile(128, 64, 8, 3 if chip.known >= 90 else 2, 2 * chip.num_sms)
    return AttentionTile(64, 64, 4, 3, 16 * chip.num_sms, max_registers=168 if chip.known < 90 else None, one_block=64)


def row_attention_tile(max_seqlen: int, head_dim: int, dtype: str, chip: Chip) -> AttentionTile:
    """The tile of `row_attention`, of one query a program: blocks of keys as wide as registers hold, for the time is
    that of reading them."""
    most = 64 if ITEM_SIZE[dtype] == 4 and head_dim > 64 else 128
    block_n = min(most, max(16, 1 << (max_seqlen - 1).bit_length()))
    return AttentionTile(1, block_n, 8 if block_n == most else 4, 2, 8 * chip.num_sms, max_registers=128)


def row_tile(tokens: int, width: int, chip: Chip) -> RowTile:
    """Few warps a row where rows are many, four where the time of one row counts."""
    if isinstance(found := _measured(("rows", chip.capability, width), tokens), RowTile):
        return replace(found, programs=min(tokens, found.programs))
    if tokens <= 4 * chip.num_sms:
        return RowTile(max(tokens, 1), 4 if width > 256 else 1)
    return RowTile(min(tokens, 16 * chip.num_sms), 1 if width <= 512 else 2 if width <= 1024 else 4)


def linear_tiles(tokens: int, n: int, k: int, dtype: str, chip: Chip) -> tuple[LinearTile, ...]:
    """What a search tries: the usual tile, and candidates for so many rows, also with one stage less and one more."""
    found = [tile for tile in linear_candidates(dtype, chip) if tile.block_m <= 2 * max(tokens, NARROW_ROWS)]
    found = [replace(tile, num_stages=tile.num_stages + more) for tile in found for more in (0, -1, 1)]
    return (linear_tile(tokens, n, k, dtype, chip), *(tile for tile in found if _fits(tile, dtype, chip)))


def splits(tokens: int, n: int, k: int, dtype: str, chip: Chip) -> tuple[Split, ...]:
    """What a search tries: the usual number of parts, one, and two or four with the tiles of a search."""
    counts = (split_k(tokens, n, k, dtype, chip), 1)
    usual = (Split(parts, linear_tile(tokens, n, k, dtype, chip, parts)) for parts in counts)
    found = [tile for tile in linear_tiles(tokens, n, k, dtype, chip)[1:] if _fits(tile, dtype, chip, 2)]
    return (*usual, *(Split(parts, tile) for parts in (2, 4) if k // parts >= 32 for tile in found))


def narrow_tiles(tokens: int, n: int, k: int, chip: Chip, norm: bool) -> tuple[NarrowTile, ...]:
    """What a search tries, the usual tile first."""
    usual = narrow_tile(tokens, n, k, chip, norm)
    shapes = itertools.product((8, 16, 32, 64), (2, 3, 4, 5), (4, 8))
    return (
        usual,
        *(NarrowTile(usual.block_m, width, 32, warps, warps, stages) for width, stages, warps in shapes),
    )


def attention_tiles(max_seqlen: int, head_dim: int, dtype: str, chip: Chip) -> tuple[AttentionTile, ...]:
    """What a search tries, the usual tile first."""
    found = [attention_tile(max_seqlen, head_dim, dtype, chip)]
    if dtype not in ("float32", "tf32x3"):
        shapes = itertools.product((32, 64, 128), (32, 64, 128), (4, 8), (2, 3))
        found += [
            replace(found[0], block_m=block_m, block_n=block_n, num_warps=warps, num_stages=stages)
            for block_m, block_n, warps, stages in shapes
            if block_m >= 16 * warps or (block_m == 32 and warps == 4)
        ]
    return (*found, *(replace(tile, programs=2 * tile.programs) for tile in found))


def row_tiles(tokens: int, width: int, chip: Chip) -> tuple[RowTile, ...]:
    """What a search tries, the usual tile first."""
    shapes = itertools.product((1, 4, 8, 16, 32), (1, 2, 4, 8))
    return (row_tile(tokens, width, chip), *(RowTile(most * chip.num_sms, warps) for most, warps in shapes))


def _up(x: int, y: int) -> int:
    return -(-x // y)


def _fits(tile: LinearTile, dtype: str, chip: Chip, segments: int = 1) -> bool:
    return tile.num_stages > 1 and tile.shared_memory(dtype, segments) <= SHARED_MEMORY[chip.known]
