"""`attn_implementation="distilrt"` against transformers' sdpa: the same numbers everywhere, or a clear refusal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from distilrt.dropin import attention
from distilrt.errors import InvalidInput

TOLERANCE = 1e-5
SIZES: dict[str, Any] = {"vocab_size": 50, "max_position_embeddings": 40}
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
                         "attn_implementation": "distilrt"}  # fmt: skip


def model_of(kind: str, **config: Any) -> Any:
    return getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**config)).eval()


def pair(**changes: Any) -> tuple[Any, Any]:
    """A model with our attention and the same one with sdpa."""
    shape = {"dim": 64, "n_heads": 2, "n_layers": 2, "hidden_dim": 48, **changes}
    ours, theirs = (model_of("DistilBert", **SIZES, **shape, attn_implementation=name) for name in ("distilrt", "sdpa"))
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def random_mask(shape: tuple[int, int]) -> torch.Tensor:
    mask = torch.rand(shape) < 0.5
    mask[:, torch.randint(shape[1], ())] = True
    return mask.long()


@pytest.mark.parametrize(("n_heads", "shape"), [(2, (3, 9)), (4, (1, 1)), (1, (2, 33))])
@torch.inference_mode()
def test_numbers(n_heads: int, shape: tuple[int, int]) -> None:
    ours, theirs = pair(n_heads=n_heads)
    ids = torch.randint(0, 50, shape)
    for mask in (None, torch.ones(shape), random_mask(shape)):
        expected = theirs(ids, mask).last_hidden_state
        difference = (ours(ids, mask).last_hidden_state - expected).abs().max()
        assert difference <= TOLERANCE * expected.abs().max()


@torch.inference_mode()
def test_scale_and_other_lengths_of_keys() -> None:
    query, key, value = torch.randn(2, 3, 5, 32), torch.randn(2, 3, 8, 32), torch.randn(2, 3, 8, 32)
    mask = random_mask((2, 8))
    found, none = attention.attention_forward(torch.nn.Module(), query, key, value, mask, scaling=0.4)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, mask[:, None, None].bool(), scale=0.4
    )
    assert none is None
    assert found.is_contiguous()
    np.testing.assert_allclose(found.transpose(1, 2), expected, atol=TOLERANCE * float(value.abs().max()))


@torch.inference_mode()
def test_any_strides() -> None:
    """Nothing is copied but what is not contiguous in its last dimension, and numbers are the same."""
    fused = torch.randn(2, 7, 3, 4, 32)
    query, key, value = (fused[:, :, i].transpose(1, 2) for i in range(3))
    mask = random_mask((2, 7))
    expected = attention.attention(query.contiguous(), key.contiguous(), value.contiguous(), mask, 0.3)
    assert torch.equal(attention.attention(query, key, value, mask, 0.3), expected)
    odd = key.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(attention.attention(query, odd, value, mask.float(), 0.3), expected)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    """The root-mean-square error is at most twice that of torch's attention in the same dtype, or float32's."""
    query, key, value = (torch.randn(2, 3, 40, 32).to(dtype) for _ in range(3))
    mask = random_mask((2, 40))
    found = attention.attention(query, key, value, mask, 32**-0.5)
    assert found.dtype == dtype
    sdpa = torch.nn.functional.scaled_dot_product_attention
    plain = sdpa(query, key, value, mask[:, None, None].bool())
    exact = sdpa(query.double(), key.double(), value.double(), mask[:, None, None].bool())
    ours, theirs = ((x - exact).square().mean().sqrt() for x in (found.transpose(1, 2), plain))
    assert ours <= max(2 * theirs, torch.tensor(1e-6))


@torch.inference_mode()
def test_narrow_model() -> None:
    ours, theirs = pair()
    ids = torch.randint(0, 50, (2, 6))
    exact = theirs(ids).last_hidden_state
    found, plain = ours.bfloat16()(ids).last_hidden_state, theirs.bfloat16()(ids).last_hidden_state
    assert found.dtype == torch.bfloat16
    assert (found - exact).abs().max() <= 2 * max((plain - exact).abs().max(), 2**-8 * exact.abs().max())


@torch.inference_mode()
def test_switching_and_compiling() -> None:
    ours, theirs = pair()
    ids, mask = torch.randint(0, 50, (2, 6)), random_mask((2, 6))
    compiled: Any = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids, mask)[0], ours(ids, mask)[0])
    theirs.set_attn_implementation("distilrt")
    torch.testing.assert_close(theirs(ids, mask)[0], ours(ids, mask)[0], rtol=0, atol=0)


def test_another_encoder() -> None:
    model = model_of("Bert", vocab_size=50, **SMALL)
    ids, mask = torch.randint(0, 50, (2, 6)), random_mask((2, 6))
    with torch.no_grad():
        found = model(ids, mask).last_hidden_state
        model.set_attn_implementation("eager")
        torch.testing.assert_close(found, model(ids, mask).last_hidden_state)


IDS = torch.tensor([[1, 2, 3]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m(IDS)[0].sum().backward(), TypeError, "has no gradients; use attn_implementation='sdpa'"),
        (lambda m: m.train()(IDS), TypeError, "does not support dropout in training"),
        (lambda m: m(IDS, torch.ones(1, 1, 3, 3)), TypeError, "masks of pairs of positions"),
        (lambda m: m(IDS, output_attentions=True), TypeError, r"argument 'output_attentions'; .*'eager' to see att"),
        (lambda m: m(IDS, torch.zeros(1, 3)), InvalidInput, "attention_mask row 0 is all zeros"),
    ],
)
def test_refusals_by_a_model(call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(pair()[0])


def test_refusals_of_other_attentions() -> None:
    query = torch.zeros(1, 2, 3, 32)

    def run(q: torch.Tensor = query, k: torch.Tensor = query, **changes: Any) -> Any:
        return attention.attention_forward(torch.nn.Module(), q, k, k, None, **changes)

    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: run(is_causal=True), "causal attention"),
        (lambda: run(sliding_window=4), "'sliding_window'"),
        (lambda: run(k=query[:, :1]), "fewer key heads"),
        (lambda: run(torch.ones(1, 1, 4, 129), torch.ones(1, 1, 4, 129)), "head_dim 129, only 1 to 128"),
        (lambda: run(query.to("meta"), query.to("meta")), "tensors on meta"),
        (lambda: run(scaling=-1.0), "a scaling that is negative"),
        (lambda: run(scaling=float("nan")), "a scaling that is negative or not finite"),
    ]
    for call, message in calls:
        with pytest.raises(TypeError, match=f"does not support .*{message}"):
            call()


def test_refusal_of_a_decoder() -> None:
    decoder = model_of("Llama", vocab_size=9, **SMALL)
    with pytest.raises(TypeError, match="only bidirectional attention"):
        decoder(IDS)


def test_only_this_import_registers() -> None:
    code = (
        "import distilrt, distilrt.dropin.ops, transformers as t\n"
        "names = t.AttentionInterface().valid_keys(), t.AttentionMaskInterface().valid_keys()\n"
        "assert not any('distilrt' in keys for keys in names)\n"
        "import distilrt.dropin.attention\n"
        "names = t.AttentionInterface().valid_keys(), t.AttentionMaskInterface().valid_keys()\n"
        "assert all('distilrt' in keys for keys in names)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_older_transformers() -> None:
    code = "import transformers; transformers.__version__ = '4.57.6'; import distilrt.dropin.attention"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: attn_implementation='distilrt' needs transformers 5, found 4.57.6" in done.stderr
