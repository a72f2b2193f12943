"""PyTorch's `.bin` files of tensors, read without running code from them. torch is imported only when one is read."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distilrt.checkpoint.tensor_files import TensorFile, refuse_impostor
from distilrt.errors import CheckpointError

if TYPE_CHECKING:
    import torch


class PickleFile(TensorFile):
    """A PyTorch `.bin`; memory-mapped unless in the format of before torch 1.6."""

    def __init__(self, path: Path) -> None:
        refuse_impostor(path)
        self._path = path
        with path.open("rb") as file:
            self._mapped = file.read(4) == b"PK\3\4"  # how torch tells its formats apart
        state = _read_pickle(path, self._mapped)
        self._state: Mapping[str, torch.Tensor] | None = state
        self.specs = {
            name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in state.items()
        }

    def raw(self, name: str) -> npt.NDArray[Any]:
        """A read-only view of the tensor."""
        state = self._state  # another thread may release it meanwhile
        if state is None:
            state = self._state = _read_pickle(self._path, self._mapped)
        return stored_numbers(state[name])

    def release(self) -> None:
        """Close the map once the last view of it is gone; the next access opens it again."""
        if self._mapped:
            self._state = None


def stored_numbers(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A read-only view of a tensor on the CPU as stored; of bfloat16 and float8 the bits as uint16 and uint8."""
    import torch

    if tensor.dtype == torch.bfloat16:
        return stored_numbers(tensor.view(torch.int16)).view(np.uint16)
    if tensor.dtype == torch.float8_e4m3fn:
        return stored_numbers(tensor.view(torch.uint8))
    array: npt.NDArray[Any] = tensor.detach().numpy()
    array.flags.writeable = False
    return array


def _read_pickle(path: Path, mapped: bool) -> Mapping[str, torch.Tensor]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs torch: pip install 'distilrt[torch]', or convert the checkpoint to safetensors, "
            "which needs nothing more"
        ) from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        raise ImportError(
            f"reading {path} needs torch 2.6 or newer, found {torch.__version__}: older ones can be made to run code "
            "from such a file; update torch, or convert to safetensors"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        detail = str(error).partition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or "unknown content"
        raise CheckpointError(
            f"{path} was refused: it is not a plain pickle of tensors, and reading any other would run code stored in "
            f"it ({detail}). Use model.safetensors, from a source you trust"
        ) from error
    except Exception as error:  # a damaged file fails anywhere in torch's reader
        raise CheckpointError(
            f"{path} is not a whole PyTorch file: {type(error).__name__} {error}. It is truncated or damaged; fetch it "
            "again"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise CheckpointError(
            f"{path} must hold a flat dict of tensors, found other things in it; save the model's state_dict() alone"
        )
    for name, tensor in state.items():
        if tensor.is_nested or tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_neg():
            raise CheckpointError(
                f"tensor {name} of {path} is sparse, nested, without numbers or a view of another kind; save plain "
                "tensors"
            )
    return state
