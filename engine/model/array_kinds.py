"""NumPy arrays and torch tensors: which of them a value is, and how one becomes the other.

This module does not import torch. Where a value is a tensor, its caller has imported it.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from distilrt.errors import InvalidInput


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def kind_of(array: Any) -> str:
    """NumPy's letter for the kind of numbers in an array or tensor: "b", "i" or "u", "f", "c" and so on."""
    dtype = array.dtype
    if isinstance(dtype, np.dtype):
        return dtype.kind
    if dtype.is_floating_point:
        return "f"
    if dtype.is_complex:
        return "c"
    return "b" if str(dtype) == "torch.bool" else "i"


def as_array(value: Any, name: str) -> Any:
    """Lists of numbers or a tensor as an array; an array and None as they are.

    Raises:
        InvalidInput: rows of different lengths; the message starts with `name`.
    """
    if value is None or type(value) is np.ndarray:
        return value
    try:
        return np.asarray(as_numpy(value))
    except ValueError as error:
        raise InvalidInput(f"{name} is not a rectangular array: {error}. Pad the sequences to one length") from error


def as_numpy(value: Any) -> Any:
    """A torch tensor as an array, without a copy where it is on the CPU; anything else as it is."""
    if not is_tensor(value):
        return value
    value = value.detach().cpu()
    return value.float().numpy() if str(value.dtype) == "torch.bfloat16" else value.numpy()


def as_tensor(value: Any, device: Any) -> Any:
    """An array, or a tuple of arrays, as torch tensors on `device`, without a copy where that is the CPU."""
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(as_tensor(item, device) for item in value)
    return sys.modules["torch"].from_numpy(np.asarray(value)).to(device)
