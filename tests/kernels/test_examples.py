"""The examples of GPU ops that benches and the tuner time: the launches are right, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from distilrt.kernels.op import Arrays, all_ops
from distilrt.model.config import DistilBertConfig
from tests.gpu.checks import checked

CONFIG = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=64, vocab_size=50, max_position_embeddings=16)


@pytest.mark.parametrize(("dtype", "absent"), [("bfloat16", {"linear_and_norm", "quantize"}),
                                                ("float32", {"norm_linear", "whole_encoder", "quantize"}),
                                                ("float8", {"linear_and_norm", "quantize"})])  # fmt: skip
def test_every_op_of_a_model_is_right(dtype: str, absent: set[str]) -> None:
    """Few rows run `norm_linear` or `whole_encoder` in half precision, and `linear` in parts in float32."""
    arrays = Arrays(torch.device("cpu"), dtype)
    for op in all_ops(dtype):
        made = [op.example(arrays, **arguments) for arguments in op.in_model(CONFIG, 5, dtype)]
        assert bool(made) == (op.name not in absent)
        for example in made:
            assert all(check["ok"] for check in checked(example, runs=1).values()), example.label
            assert example.nbytes >= next(iter(example.outputs.values())).tensor.nbytes


def test_bytes_and_operations() -> None:
    arrays = Arrays(torch.device("cpu"), "float32")
    made = [op.example(arrays, **given) for op in all_ops() for given in op.in_model(CONFIG, 40, "float32")]
    (linear,) = (each for each in made if each.label == "linear 40x32x64 gelu")
    (attention,) = (each for each in made if each.label == "attention 40 head_dim 16 up to 40")
    assert linear.flops == 2 * 40 * 64 * 32
    assert linear.nbytes == 4 * (40 * 32 + 40 * 64 + 64 * 32)
    assert attention.flops == 4 * 40 * 40 * 32
