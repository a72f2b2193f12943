"""The embedding step of csrc/forward.cpp: tables of float32 and of bfloat16, which is widened exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from distilrt import _C
from distilrt.checkpoint.tensor_files import as_float32, to_bfloat16
from distilrt.model import functional
from distilrt.model.config import LAYER_NORM_EPS


def embedded(tables: Any, norm: Any, ids: Any, places: Any, given: Any = None) -> npt.NDArray[Any]:
    """The embedding output of an encoder of one layer, whose other weights are zeros."""
    words, positions = tables
    width = words.shape[1]
    encoder = _C.Encoder(
        hidden_size=width, num_heads=1, num_layers=1, intermediate_size=3, activation="gelu", eps=LAYER_NORM_EPS,
        word_embeddings=words, position_embeddings=positions, num_threads=2,
    )  # fmt: skip
    for name, n, k in (
        ("qkv", 3 * width, width),
        ("out_proj", width, width),
        ("ffn_in", 3, width),
        ("ffn_out", width, 3),
    ):
        encoder.add_linear(f"layer.0.{name}", [np.zeros((n, k), np.float32)], [np.zeros(n, np.float32)])
    for name in ("embeddings", "layer.0.attn_layer_norm", "layer.0.ffn_layer_norm"):
        encoder.add_layer_norm(name, *norm)
    encoder.finish()
    encoder.poison_workspace()
    lengths = np.array([len(places)], np.int32)
    ends = np.array([0, len(places)], np.int32)
    states: npt.NDArray[Any] = encoder.forward(None if given is not None else ids, given, places, ends, lengths, True)
    first: npt.NDArray[Any] = states[0]
    return first


@pytest.mark.parametrize("width", [5, 7, 16, 63, 64, 65, 768])
def test_both_kinds_of_tables(width: int, rng: Any) -> None:
    """Any mixture, ids of the first and last row, and embeddings of words in place of ids."""
    ids, places = np.array([0, 8, 8, 3], np.int32), np.array([4, 0, 1, 2], np.int32)
    narrow: Any = [to_bfloat16(rng.standard_normal((rows, width), np.float32)) for rows in (9, 5)]
    wide: Any = [as_float32(table, "bfloat16") for table in narrow]
    norm = rng.standard_normal((2, width), np.float32)
    exact = functional.layer_norm(wide[0][ids].astype(float) + wide[1][places], *norm.astype(float))
    found = embedded(wide, norm, ids, places)
    assert np.abs(found - exact).max() <= 1e-5 * (np.abs(exact).max() + 1)
    tables: Any
    for tables in (narrow, (narrow[0], wide[1]), (wide[0], narrow[1])):
        np.testing.assert_array_equal(embedded(tables, norm, ids, places), found)
        np.testing.assert_array_equal(embedded(tables, norm, ids, places, wide[0][ids]), found)


@pytest.mark.parametrize("table", [np.zeros((3, 4), np.float64), np.zeros((3, 4), np.int16), np.zeros((3, 8))[:, ::2]])
def test_other_tables_are_refused(table: Any) -> None:
    tables: Any
    good, norm = np.zeros((3, 4), np.float32), np.ones((2, 4), np.float32)
    ids = np.zeros(1, np.int32)
    for tables in ((table, good), (good, table)):
        with pytest.raises(TypeError, match="incompatible constructor arguments"):
            embedded(tables, norm, ids, ids)
    for bad in (np.zeros((3, 5), np.uint16), np.zeros(4, np.uint16)):
        with pytest.raises(ValueError, match=r"embedding tables must be \[rows, hidden_size\]"):
            embedded((good, bad), norm, ids, ids)
    with pytest.raises(ValueError, match="input_ids holds 3; this model has ids 0 to 2"):
        embedded((np.zeros((3, 4), np.uint16), good), norm, np.array([3], np.int32), ids)
