"""PyTorch's `.bin`: mapped, damaged ones refused, and no code run from it."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distilrt.errors import CheckpointError
from tests.checkpoint.reference_folders import (
    opened_file,
)


def test_bin_is_mapped_and_transposed_tensors_come_out_right(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    parameter = torch.nn.Parameter(base + 1)
    torch.save({"flat": base, "turned": base.T, "parameter": parameter}, tmp_path / "pytorch_model.bin")
    weights = opened_file(tmp_path)
    assert np.shares_memory(weights["flat"], weights["flat"])
    assert not weights["flat"].flags.writeable
    assert weights["turned"].tolist() == base.T.tolist()
    assert weights["turned"].flags.c_contiguous
    assert weights["parameter"].tolist() == parameter.tolist()


class RunsCode:
    """Pickles as a call that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    path, trace = tmp_path / "pytorch_model.bin", tmp_path / "was-run"
    state = {"a": torch.zeros(2), "b": RunsCode(trace)}
    if form == "plain":
        path.write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"refused.*would run code stored in it.*Use model.safetensors") as caught:
        opened_file(tmp_path)
    assert "weights_only" not in str(caught.value)  # torch's own advice is to switch the protection off
    assert not trace.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_bin(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for length in (0, 10, 200, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is not a whole PyTorch file"):
            opened_file(tmp_path)


@pytest.mark.parametrize("state", [[torch.zeros(1)], {"state_dict": {"a": torch.zeros(1)}}, {"a": 3}])
def test_bin_that_is_no_state_dict(tmp_path: Path, state: Any) -> None:
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="must hold a flat dict of tensors"):
        opened_file(tmp_path)


def test_bin_without_a_fit_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ImportError, match=r"needs torch 2.6 or newer, found 2.5.1"):
        opened_file(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"needs torch: pip install .* convert the checkpoint to safetensors"):
        opened_file(tmp_path)
