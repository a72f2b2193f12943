from __future__ import annotations

import math

import pytest

from distilrt.kernels import tiles
from distilrt.kernels.tiles import A100, B200, H200, L40S, AttentionTile, Chip, LinearTile, NarrowTile, RowTile

CHIPS = [A100, L40S, H200, B200, Chip(86, 28), Chip(120, 170)]
TOKENS = [1, 16, 17, 32, 33, 64, 128, 200, 512, 1024, 2048, 4096, 5632, 16384, 100_000]
WIDTHS = [(768, 768), (2304, 768), (3072, 768), (768, 3072), (30522, 768), (2, 768), (48, 48), (4096, 1024)]


@pytest.mark.parametrize("chip", CHIPS, ids=str)
@pytest.mark.parametrize("dtype", tiles.ITEM_SIZE)
def test_linear_tiles_fit(chip: Chip, dtype: str) -> None:
    for tile in tiles.linear_candidates(dtype, chip):
        assert tile.shared_memory(dtype) <= tiles.SHARED_MEMORY[chip.known]
        assert tile.block_m * tile.block_n // (32 * tile.num_warps) <= 128, "sums of a thread, of 255 registers"
        for size in (tile.block_m, tile.block_n, tile.block_k):
            assert size & (size - 1) == 0
    for tokens in TOKENS:
        for n, k in WIDTHS:
            assert tiles.linear_tile(tokens, n, k, dtype, chip) in tiles.linear_candidates(dtype, chip)
    usual, *others = tiles.linear_tiles(4096, 768, 3072, dtype, chip)
    assert usual == tiles.linear_tile(4096, 768, 3072, dtype, chip)
    assert {usual, *others} >= set(tiles.linear_candidates(dtype, chip))


@pytest.mark.parametrize("chip", CHIPS[:4], ids=str)
def test_the_chip_is_busy(chip: Chip) -> None:
    """Half of the multiprocessors at least have a block, if any candidate has so many; many rows use large blocks."""
    for tokens in TOKENS:
        for n, k in WIDTHS[:4]:
            candidates = tiles.linear_candidates("float16", chip)
            most = max(_blocks(tile, tokens, n) for tile in candidates)
            tile = tiles.linear_tile(tokens, n, k, "float16", chip)
            assert _blocks(tile, tokens, n) >= min(most, chip.num_sms) / 3
    large = tiles.linear_tile(100_000, 3072, 768, "float16", chip)
    assert large.block_m * large.block_n >= 128 * 128


def test_hopper_has_the_large_tile_where_waves_are_full() -> None:
    for tokens in (5632, 16896):
        for n, k in WIDTHS[:4]:
            tile = tiles.linear_tile(tokens, n, k, "bfloat16", H200)
            assert (tile.block_m, tile.block_n) == (128, 256)


@pytest.mark.parametrize("tokens", [256, 384, 512, 768, 1024, 1536, 2048, 2816, 3072, 4096, 5632])
def test_hopper_is_dealt_out_evenly(tokens: int) -> None:
    """Steps of the multiprocessor with the most, over the mean of all 132; whole waves at 2,816 and 5,632 tokens."""
    for n, k in WIDTHS[:4]:
        segments = tiles.split_k(tokens, n, k, "bfloat16", H200) if n == 768 else 1
        tile = tiles.linear_tile(tokens, n, k, "bfloat16", H200, segments)
        waves = tile.units(tokens, n, segments) / H200.num_sms
        busiest = tile.busiest(tokens, n, k, H200, segments)
        assert busiest <= 1.07 * waves
        if tokens in (2816, 5632):
            assert tile.form == "persistent"
            assert busiest == waves == int(waves)
        steps = k / (segments * tile.block_k)
        assert tile.form == "persistent" or busiest * steps == math.ceil(waves * steps)


@pytest.mark.parametrize("chip", CHIPS, ids=str)
def test_one_program_a_multiprocessor_from_sm_90_on(chip: Chip) -> None:
    for tokens in TOKENS:
        for n, k in WIDTHS:
            for dtype in tiles.ITEM_SIZE:
                form = tiles.linear_tile(tokens, n, k, dtype, chip).form
                assert not form or (chip.known in (90, 100) and tiles.ITEM_SIZE[dtype] <= 2 and tokens >= 256)
                assert not form or (n % 8 == 0 and k % 8 == 0)
                assert not tiles.linear_tile(tokens, n, k, dtype, chip, persistent=False).form


def test_a_relay_is_as_large_as_its_tile_asks() -> None:
    tile = tiles.linear_tile(1024, 2304, 768, "bfloat16", H200)
    assert tile.form == "stream"
    assert tiles.relayed(1024, 2304, 768, "bfloat16", H200) == 132 * tile.block_m * tile.block_n
    for tokens, chip in ((5632, H200), (1024, A100), (128, H200)):
        assert tiles.relayed(tokens, 2304, 768, "bfloat16", chip) == 0


def test_a_measured_tile_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = LinearTile(64, 32, 64, 4, 3), LinearTile(128, 32, 64, 4, 3)
    monkeypatch.setitem(tiles.MEASURED, ("linear", 90, "float16", 768, 768), {256: small, 1024: large})
    assert tiles.linear_tile(129, 768, 768, "float16", H200) == small
    assert tiles.linear_tile(256, 768, 768, "float16", H200) == small
    assert tiles.linear_tile(513, 768, 768, "float16", H200) == large
    others = [(count, 768, 768, "float16", H200) for count in (128, 512, 1025)]
    others += [(200, 768, 3072, "float16", H200), (200, 768, 768, "bfloat16", H200), (200, 768, 768, "float16", A100)]
    for arguments in others:
        assert tiles.linear_tile(*arguments) not in (small, large)


def test_measured_tiles_of_the_other_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    split, narrow = tiles.Split(4, LinearTile(64, 32, 64, 4, 3)), NarrowTile(16, 64, 32, 4, 4, 2)
    attention, rows = AttentionTile(64, 32, 4, 2, 99), RowTile(77, 2)
    entries: dict[tiles.Key, dict[int, tiles.Tile]] = {
        ("split", 90, "float16", 768, 768): {2048: split}, ("narrow", 90, 2304, 768, True): {16: narrow},
        ("attention", 90, "float16", 64): {512: attention}, ("rows", 90, 768): {1024: rows},
    }  # fmt: skip
    monkeypatch.setattr(tiles, "MEASURED", entries)
    assert tiles.split_k(1025, 768, 768, "float16", H200) == 4
    assert tiles.linear_tile(2048, 768, 768, "float16", H200, 4) == split.tile
    assert tiles.linear_tile(2048, 768, 768, "float16", H200, 2) != split.tile
    assert tiles.linear_tile(2048, 768, 768, "float16", H200) != split.tile
    assert tiles.split_k(1024, 768, 768, "float16", H200) == tiles.split_k(1024, 768, 768, "float16", Chip(91, 132))
    assert tiles.narrow_tile(9, 2304, 768, H200, True) == narrow
    assert narrow not in (tiles.narrow_tile(9, 2304, 768, H200), tiles.narrow_tile(32, 2304, 768, H200, True))
    assert tiles.attention_tile(257, 64, "float16", H200) == attention
    assert attention not in (
        tiles.attention_tile(256, 64, "float16", H200),
        tiles.attention_tile(512, 32, "float16", H200),
    )
    assert tiles.row_tile(1000, 768, H200) == rows
    entries["rows", 90, 768][64] = rows
    assert tiles.row_tile(50, 768, H200) == RowTile(50, 2), "no more programs than rows"


@pytest.mark.parametrize("chip", CHIPS[:4], ids=str)
def test_depth_is_split_only_where_the_output_is_small(chip: Chip) -> None:
    for dtype in tiles.ITEM_SIZE:
        for tokens in TOKENS:
            for n, k in WIDTHS:
                segments = tiles.split_k(tokens, n, k, dtype, chip)
                assert segments in (1, 2, 4)
                assert segments == 1 or k // segments >= 256
                assert segments == 1 or not tiles.is_narrow(tokens, dtype)
        assert tiles.split_k(16384, 768, 3072, dtype, chip) == 1
    assert tiles.split_k(64, 768, 3072, "float16", chip) > 1


@pytest.mark.parametrize("chip", CHIPS, ids=str)
def test_narrow_tiles_run_at_once(chip: Chip) -> None:
    for tokens in (1, 16, 17, 32):
        for n, k in WIDTHS[:4]:
            for norm in (False, True):
                tile = tiles.narrow_tile(tokens, n, k, chip, norm)
                assert tokens <= tile.block_m
                assert math.ceil(n / tile.block_n) <= 2 * chip.num_sms or tile.block_n == 64
                assert tile.slices == tile.num_warps
    assert tiles.is_narrow(32, "float16")
    assert not tiles.is_narrow(33, "float16")
    assert not tiles.is_narrow(1, "float32")
    assert not tiles.is_narrow(1, "tf32x3")


@pytest.mark.parametrize("chip", CHIPS, ids=str)
@pytest.mark.parametrize("dtype", tiles.ITEM_SIZE)
def test_attention_tiles(chip: Chip, dtype: str) -> None:
    for max_seqlen in (1, 2, 16, 17, 64, 65, 128, 129, 512):
        for head_dim in (16, 64, 100, 128):
            tile = tiles.attention_tile(max_seqlen, head_dim, dtype, chip)
            assert 16 <= tile.block_m <= 128
            assert tile.block_n >= 16
            assert tile.programs >= chip.num_sms
            if tiles.ITEM_SIZE[dtype] == 2 and max_seqlen <= 128:
                assert tile.block_n >= max_seqlen, "one block of keys"


@pytest.mark.parametrize("chip", CHIPS, ids=str)
def test_row_tiles(chip: Chip) -> None:
    for tokens in TOKENS:
        for width in (16, 768, 1024, 4096):
            tile = tiles.row_tile(tokens, width, chip)
            assert min(tokens, chip.num_sms) <= tile.programs <= tokens
            assert tile.num_warps in (1, 2, 4)


def test_unknown_chips_take_the_next_older_entry() -> None:
    assert [Chip(capability, 1).known for capability in (75, 80, 87, 89, 90, 103, 121)] == [
        80,
        80,
        86,
        89,
        90,
        100,
        120,
    ]


def _blocks(tile: LinearTile, tokens: int, n: int) -> int:
    return math.ceil(tokens / tile.block_m) * math.ceil(n / tile.block_n)


def test_one_query_reads_as_many_keys_at_once_as_registers_hold() -> None:
    for dtype in tiles.ITEM_SIZE:
        for head_dim in (16, 64, 128):
            found = [tiles.row_attention_tile(length, head_dim, dtype, H200) for length in (1, 17, 64, 100, 5632)]
            most = 64 if head_dim == 128 and tiles.ITEM_SIZE[dtype] == 4 else 128
            assert [tile.block_n for tile in found] == [16, 32, 64, most, most]
            # K and V of a block, a number a register
            assert all(2 * tile.block_n * head_dim <= 128 * 32 * tile.num_warps for tile in found)
            assert all(tile.programs == 8 * H200.num_sms for tile in found)
