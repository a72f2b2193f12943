from __future__ import annotations

import pytest
import torch

from distilrt.kernels import launch, tiles


def test_chip_of_a_tensor_that_is_on_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.chip_of(torch.empty(1)) == tiles.H200
    monkeypatch.setattr(launch, "stand_in", tiles.A100)
    assert launch.chip_of(torch.empty(1)) == tiles.A100


def test_options() -> None:
    assert launch.launch_options(False) == {"PDL": False, "enable_fp_fusion": True}
    assert launch.launch_options(True) == {"PDL": True, "enable_fp_fusion": True, "launch_pdl": True}
    assert launch.launch_options(True, early=False) == {"PDL": True, "enable_fp_fusion": True}


def test_names_of_products() -> None:
    assert launch.product_name(torch.float32, "tf32") == "tf32"
    assert launch.product_name(torch.float32, "tf32x3") == "tf32x3"
    assert launch.product_name(torch.float32, "ieee") == "float32"
    assert launch.product_name(torch.bfloat16, "tf32x3") == "bfloat16"
    with pytest.raises(ValueError, match="precision must be one of 'ieee', 'tf32x3', 'tf32', found 'high'"):
        launch.product_name(torch.float32, "high")


def test_check() -> None:
    launch.check("x", torch.empty(3, 4), [None, 4], launch.FLOATS)
    for tensor in (torch.empty(3), torch.empty(3, 5), torch.empty(3, 4).int(), torch.empty(4, 3).T):
        with pytest.raises(ValueError, match=r"x must be contiguous float32 or .* of shape \[any, 4\], found"):
            launch.check("x", tensor, [None, 4], launch.FLOATS)
    launch.check_count(None)
    with pytest.raises(ValueError, match=r"num_tokens must be contiguous int32 of shape \[1\]"):
        launch.check_count(torch.zeros(2, dtype=torch.int32))
