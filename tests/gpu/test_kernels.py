"""Every kernel in every dtype against float64, and that a wrong one is found."""

from __future__ import annotations

import os
from itertools import islice
from typing import Any

import pytest
import torch

from distilrt.kernels import gather, tiles
from distilrt.kernels.launch import chip_of
from distilrt.kernels.op import Arrays, all_ops
from distilrt.kernels.tiles import CODES_SINCE
from tests.gpu.checks import SIZES, TINY, checked

pytestmark = [pytest.mark.gpu, pytest.mark.whole]
_INTERPRETED = 3  # examples of an op in the interpreter, which takes seconds for one; tests/kernels has odd shapes too
SEED = int.from_bytes(os.urandom(4), "little")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(op.name, dtype) for dtype in tiles.ITEM_SIZE for op in all_ops(dtype)],
)
def test_kernel(device: torch.device, tiny: bool, name: str, dtype: str) -> None:
    if not tiny and dtype in tiles.CODES and chip_of(torch.empty(0, device=device)).capability < CODES_SINCE[dtype]:
        pytest.skip(f"the device has no tensor cores for {dtype}")
    wrong = []
    (op,) = (op for op in all_ops() if op.name == name)
    examples = islice(op.odd(TINY, dtype), _INTERPRETED) if tiny else op.odd(SIZES, dtype)
    for number, arguments in enumerate(examples):
        example = op.example(Arrays(device, dtype, seed=SEED + number), **arguments)
        wrong += [(example.label, output, check) for output, check in checked(example).items() if not check["ok"]]
    assert not wrong, f"seed {SEED}"


def test_a_wrong_kernel_is_found(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off by a little, another answer each time, a row too far: each is seen."""

    def check() -> Any:
        (op,) = (op for op in all_ops() if op.name == "gather")
        example = op.example(Arrays(device, "float32", seed=0), **next(iter(op.odd(TINY, "float32"))))
        return next(iter(checked(example).values()))

    right, calls = gather.gather, []
    assert check()["ok"]

    def off(out: Any, *arguments: Any, **options: Any) -> None:
        right(out, *arguments, **options)
        out += 1e-3

    def moving(out: Any, *arguments: Any, **options: Any) -> None:
        right(out, *arguments, **options)
        calls.append(1)
        out[0, 0] *= 1 + 1e-6 * len(calls)

    def too_far(out: Any, *arguments: Any, **options: Any) -> None:
        right(out, *arguments, **options)
        out[-1] = 0

    for wrong, good in ((off, {"steady", "untouched"}), (moving, {"untouched"}), (too_far, {"steady"})):
        monkeypatch.setattr(gather, "gather", wrong)
        found = check()
        assert not found["ok"]
        assert {name for name in ("steady", "untouched") if found[name]} == good
        assert (found["error"] > found["bound"]) == (wrong is not too_far)
