"""Products of one program a multiprocessor: whole blocks in turns, and blocks that two programs share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from distilrt.kernels import launch, tiles
from distilrt.kernels.linear import linear
from distilrt.kernels.persistent_linear import Relay
from distilrt.kernels.tiles import Chip, LinearTile
from distilrt.model import functional
from tests.kernels.conftest import Array, Close, double, empty, ints

Normal = Callable[..., torch.Tensor]
Use = Callable[..., None]
HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
EACH_FORM = pytest.mark.parametrize("form", ["persistent", "stream"])


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Has products of these sizes run in a form, in blocks of 32x16 and steps of 16, on so many multiprocessors."""

    def use(form: str, tokens: int, n: int, k: int, dtype: torch.dtype, sms: int = 5, segments: int = 1) -> None:
        tile = LinearTile(32, 16, 16, 4, 2, form)
        key = ("linear" if segments == 1 else "split", 90, launch.DTYPE_NAMES[dtype], n, k)
        monkeypatch.setattr(launch, "stand_in", Chip(90, sms))
        monkeypatch.setitem(tiles.MEASURED, key, {tokens: tile if segments == 1 else tiles.Split(segments, tile)})
        assert tiles.linear_tile(tokens, n, k, launch.DTYPE_NAMES[dtype], launch.stand_in, segments) == tile

    return use


def relay(programs: int = 5) -> Relay:
    """What sums hold before must not matter."""
    return Relay(torch.zeros(programs, dtype=torch.int32), empty(programs * 32 * 16))


def exact_and_plain(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor, activation: str
) -> tuple[Array, torch.Tensor]:
    """The result in float64, and torch's in the dtype of x."""
    exact = functional.linear(double(x), double(weight), double(bias))
    plain = torch.nn.functional.linear(x, weight, bias)
    if activation:
        exact, plain = functional.activation(activation, exact), torch.nn.functional.gelu(plain)
    return exact + double(residual), plain + residual


@EACH_FORM
@HALVES
@pytest.mark.parametrize("activation", ["", "gelu"])
@pytest.mark.parametrize("rows", [(1, 63), (63, 0), (65, 70), (64, 32), (300, 0)], ids=str)
def test_numbers(
    form: str, dtype: torch.dtype, activation: str, rows: tuple[int, int], normal: Normal, assert_close: Close, use: Use
) -> None:
    """Ragged ends on all sides; rows that are not real hold NaN before and after."""
    (tokens, spare), n, k = rows, 40, 104
    use(form, tokens + spare, n, k, dtype)
    x, weight = normal(tokens + spare, k, dtype=dtype), normal(n, k, dtype=dtype) * k**-0.5
    bias, residual = normal(n, dtype=dtype), normal(tokens + spare, n, dtype=dtype)
    x[tokens:] = float("nan")
    out, steps = empty(tokens + spare, n, dtype=dtype), relay()
    linear(out, x, weight, bias, residual, activation=activation, num_tokens=ints(tokens), relay=steps)
    assert_close(out[:tokens], *exact_and_plain(x[:tokens], weight, bias, residual[:tokens], activation))
    assert out[tokens:].isnan().all()
    assert not steps.begun.any()


@HALVES
@pytest.mark.parametrize("sms", [1, 2, 3, 4, 7, 11, 13])
def test_shared_blocks_change_no_bit(dtype: torch.dtype, sms: int, normal: Normal, use: Use) -> None:
    """However many programs cut the chains of sums wherever: all is as if each block had a program of its own."""
    tokens, n, k = 97, 48, 80
    x, weight, bias = normal(tokens, k, dtype=dtype), normal(n, k, dtype=dtype), normal(n)
    whole, cut, steps = empty(tokens, n, dtype=dtype), empty(tokens, n, dtype=dtype), relay(sms)
    use("persistent", tokens, n, k, dtype, sms=12)
    linear(whole, x, weight, bias, activation="gelu", relay=steps)
    use("stream", tokens, n, k, dtype, sms=sms)
    linear(cut, x, weight, bias, activation="gelu", relay=steps)
    assert torch.equal(whole, cut)
    assert steps.sums.isnan().all() == (12 % min(sms, 12) == 0), "blocks are shared where they make no whole waves"
    linear(cut, x, weight, bias, activation="gelu", relay=steps)
    assert torch.equal(whole, cut)


@EACH_FORM
def test_a_row_has_the_same_bits_in_any_block(form: str, normal: Normal, use: Use) -> None:
    tokens, n, k, dtype = 130, 48, 96, torch.bfloat16
    use(form, tokens, n, k, dtype)
    x, weight = normal(tokens, k, dtype=dtype), normal(n, k, dtype=dtype)
    x[7::32] = x[7].clone()
    out = empty(tokens, n, dtype=dtype)
    linear(out, x, weight, relay=relay())
    assert torch.equal(out[7::32], out[7:8].expand_as(out[7::32]))


@EACH_FORM
@pytest.mark.parametrize("segments", [2, 3])
def test_parts_of_the_depth(form: str, segments: int, normal: Normal, use: Use) -> None:
    """Depths that parts do not divide; each part holds the sums of its own piece of the depth."""
    tokens, n, k, dtype = 70, 24, 104, torch.bfloat16
    use(form, 90, n, k, dtype, segments=segments)
    x, weight, partials = normal(90, k, dtype=dtype), normal(n, k, dtype=dtype), empty(segments, 90, n)
    linear(partials, x, weight, num_tokens=ints(tokens), relay=relay())
    step = -(-k // (segments * 16)) * 16
    for part, found in enumerate(partials):
        piece = slice(part * step, (part + 1) * step)
        exact = double(x[:tokens, piece]) @ double(weight[:, piece]).T
        assert np.abs(double(found[:tokens]) - exact).max() < 1e-4
    assert partials[:, tokens:].isnan().all()


@EACH_FORM
def test_no_real_rows(form: str, normal: Normal, use: Use) -> None:
    use(form, 40, 24, 32, torch.bfloat16)
    out = empty(40, 24, dtype=torch.bfloat16)
    linear(out, normal(40, 32, dtype=out.dtype), normal(24, 32, dtype=out.dtype), num_tokens=ints(0), relay=relay())
    assert out.isnan().all()


def test_bad_arguments(normal: Normal, use: Use) -> None:
    use("stream", 40, 24, 32, torch.bfloat16)
    x, weight, out = (normal(*shape, dtype=torch.bfloat16) for shape in ((40, 32), (24, 32), (40, 24)))
    with pytest.raises(ValueError, match=r"relay must hold 4 programs and 2048 sums, found 3 and 1536; make"):
        linear(out, x, weight, relay=relay(3))
    with pytest.raises(ValueError, match=r"relay.begun must be contiguous int32"):
        linear(out, x, weight, relay=Relay(empty(5), empty(5 * 32 * 16)))


@EACH_FORM
def test_what_does_not_suit_has_a_program_for_each_block(form: str, normal: Normal, use: Use) -> None:
    """No relay, a float32 result, and tensors that do not begin at a multiple of 16 bytes, as descriptors must."""
    use(form, 40, 24, 32, torch.bfloat16)
    x, weight = normal(40, 32, dtype=torch.bfloat16), normal(24, 32, dtype=torch.bfloat16)
    askew = torch.empty(40 * 32 + 1, dtype=torch.bfloat16)[1:].view(40, 32).copy_(x)
    for given, relay_, dtype in ((x, None, x.dtype), (x, relay(), torch.float32), (askew, relay(), x.dtype)):
        out = empty(40, 24, dtype=dtype)
        linear(out, given, weight, relay=relay_)
        assert np.abs(double(out) - double(x) @ double(weight).T).max() < 0.2
