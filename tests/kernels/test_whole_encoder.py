from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from distilrt.kernels import tiles
from distilrt.kernels.activation import ACTIVATIONS
from distilrt.kernels.op import Arrays, Example
from distilrt.kernels.whole_encoder import OPS, Scratch, table, whole_encoder
from tests.gpu.checks import checked
from tests.kernels.programs import run_at_once

# Rows beyond the real ones are not defined, and the interpreter computes with whatever they hold.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


class Shared(Arrays):
    """Arrays of which what a kernel writes can be shared by processes."""

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return shared(super().empty(*shape, dtype=dtype))

    def ints(self, *values: int) -> torch.Tensor:
        return shared(super().ints(*values))


def shared(tensor: torch.Tensor) -> torch.Tensor:
    tensor.share_memory_()  # type: ignore[no-untyped-call]
    return tensor


def example(dtype: str, *lengths: int, **changes: Any) -> Example:
    sizes = {"width": 36, "inner": 50, "num_heads": 2, "layers": 2}
    return OPS[0].example(Shared(torch.device("cpu"), dtype), lengths=lengths, **sizes | changes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("lengths", [(1,), (5, 1, 2), (16,), (17,), (3, 20, 1, 8)], ids=str)
def test_batches(lengths: tuple[int, ...], few: bool, dtype: str) -> None:
    """The right rows beside torch in float64, twice the same bits, and no row too far."""
    for name, check in checked(example(dtype, *lengths, few=few), runs=2).items():
        assert check["ok"], (name, check)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_shapes(activation: str) -> None:
    """Depths of several steps, whole and not, and one layer."""
    width, inner, heads = (256, 512, 4) if activation == "gelu" else (80, 300, 5)
    made = example("bfloat16", 4, width=width, inner=inner, num_heads=heads, layers=1, activation=activation)
    assert checked(made, runs=1)["out"]["ok"]


@pytest.mark.parametrize("few", [False, True])
def test_programs_at_once(few: bool) -> None:
    """However many programs share the work, in launch after launch, the bits are those of one."""
    made = example("float16", 5, 1, 2, few=few)
    out = made.outputs["out"].tensor
    made.launch()
    expected = out.clone()
    assert checked(made, runs=1)["out"]["ok"]
    for programs in (2, 3):
        for _ in range(2):
            out.fill_(torch.nan)
            run_at_once(programs, made.launch, [])
            assert torch.equal(out.nan_to_num(), expected.nan_to_num())


def test_a_missing_barrier_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that do not wait read what is not there yet."""
    made = example("float16", 5, 1, 2)
    monkeypatch.setattr("distilrt.kernels.whole_encoder.await_all", lambda *_: None)
    run_at_once(3, made.launch, [])
    out = made.outputs["out"]
    assert not torch.allclose(out.tensor[:8].double(), torch.from_numpy(out.exact()), atol=0.1)


def test_bad_arguments() -> None:
    def launch(**changes: Any) -> None:
        hidden, qkv, context, ffn = (torch.empty(16, width).half() for width in (32, 96, 32, 64))
        scratch = Scratch(hidden, qkv, context, torch.empty(16, 32), ffn, torch.zeros(1, dtype=torch.int32))
        good: dict[str, Any] = {
            "out": torch.empty(16, 32).half(), "scratch": scratch, "layers": torch.zeros(2, 12, dtype=torch.int64),
            "tokens": torch.zeros(16, dtype=torch.int32), "position_ids": torch.zeros(16, dtype=torch.int32),
            "words": torch.empty(9, 32), "positions": torch.empty(9, 32), "num_heads": 2, "activation": "gelu",
            "blocks": torch.zeros(2, 4, dtype=torch.int32), "tile": tiles.encoder_tiles(16)[0], "eps": 1e-12,
        }  # fmt: skip
        good["scratch"] = replace(scratch, **changes.pop("scratch", {}))
        whole_encoder(**good | changes)

    wrong: list[tuple[dict[str, Any], str]] = [
        ({"scratch": {"hidden": torch.empty(15, 32).half()}}, "room for 16 or 32 rows, found 15"),
        ({"scratch": {"sums": torch.empty(16, 32).half()}}, "scratch.sums must be contiguous float32"),
        ({"scratch": {"ffn": torch.empty(16, 64)}}, "scratch.ffn must be contiguous float16"),
        ({"layers": torch.zeros(2, 11, dtype=torch.int64)}, r"layers must be .* \[any, 12\]"),
        ({"out": torch.empty(4, 32).half()}, r"out must be .* \[16, 32\]"),
        ({"out": torch.empty(4, 32).half(), "wanted": torch.zeros(4, dtype=torch.int32)}, r"wanted must be .* \[5\]"),
        ({"tokens": torch.empty(16, 31)}, r"tokens must be .* \[16, 32\]"),
        ({"activation": "sigmoid"}, "activation must be one of"),
        ({"num_heads": 3}, "must be a whole number"),
    ]
    for changes, message in wrong:
        with pytest.raises(ValueError, match=message):
            launch(**changes)
    pair = (torch.zeros(8), torch.zeros(9)[1:])
    with pytest.raises(ValueError, match="multiple of 16 bytes"):
        table(pair, [])
