"""The CUDA device that `backend="cuda"` would run on, or the reason why there is none.

Torch is imported only where the answer depends on it: a machine without torch, triton or an NVIDIA driver is told apart
without, so that CPU users never pay for the question.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

from distilrt.checkpoint import packing
from distilrt.errors import BackendError
from distilrt.kernels.tiles import CODES_SINCE

FLOATS = ("float32", "float16", "bfloat16")
DTYPES = packing.DTYPES["cuda"]  # what backend "cuda" computes in
LOWEST_CAPABILITY = (8, 0)  # Ampere: bfloat16 and asynchronous copies


def interpreting() -> bool:
    """Whether `TRITON_INTERPRET=1` makes Triton run kernels in Python on the CPU, which tests do."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


def why_not_cuda() -> str | None:
    """Why backend "cuda" can't run here, and what to do; None where it can."""
    for name in ("torch", "triton"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed: pip install 'distilrt[cuda]'"
    if not _has_driver():
        return "this machine has no NVIDIA driver (libcuda.so.1), hence no CUDA device"
    import torch

    if torch.version.cuda is None:
        return f"the installed torch {torch.__version__} is built without CUDA: install a CUDA build of it"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device; look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    try:
        capability = torch.cuda.get_device_capability()
    except RuntimeError as error:  # another process has it for itself, an MPS server is gone, this process is a fork
        return f"the CUDA device can't be used: {str(error).strip().splitlines()[0]}"
    if capability < LOWEST_CAPABILITY:
        found, least = (".".join(map(str, version)) for version in (capability, LOWEST_CAPABILITY))
        return (
            f"{torch.cuda.get_device_name()} has compute capability {found}, and the kernels need {least} (Ampere) or "
            "newer"
        )
    return None


def cuda_device(otherwise: str = "use backend='cpu'") -> Any:
    """Torch's current CUDA device as a `torch.device`; the CPU while Triton interprets.

    Raises:
        BackendError: there is none that the kernels run on; the message says why and what to do, or else `otherwise`.
    """
    if not interpreting() and (reason := why_not_cuda()):
        raise BackendError(f"backend 'cuda' is not available: {reason}; or {otherwise}")
    try:
        import torch
    except ImportError:
        raise BackendError(
            f"backend 'cuda' is not available: torch is not installed: pip install 'distilrt[cuda]'; or {otherwise}"
        ) from None
    return torch.device("cpu") if interpreting() else torch.device("cuda", torch.cuda.current_device())


def chosen_dtype(name: str, weights: Mapping[str, Any]) -> str:
    """The dtype that `name` means for `weights`: "auto" is what the checkpoint has.

    Raises:
        BackendError: another than `DTYPES`, or one for which the device has no tensor cores.
    """
    if name == "auto":
        name = getattr(weights, "dtype", "float32")
        return name if name in FLOATS else "float32"
    if name not in DTYPES:
        raise BackendError(f"backend 'cuda' has dtype {', '.join(DTYPES)} (auto: the checkpoint's own), found {name!r}")
    if not interpreting() and name not in (there := dtypes_here()):
        import torch

        found, least = ".".join(map(str, torch.cuda.get_device_capability())), CODES_SINCE[name] / 10
        raise BackendError(
            f"dtype {name!r} needs a GPU of compute capability {least} or newer, and {torch.cuda.get_device_name()} "
            f"has {found}: use {', '.join(there)}"
        )
    return name


def dtypes_here() -> list[str]:
    """The dtypes that the current device has, where there is one that the kernels run on."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    return [name for name in DTYPES if CODES_SINCE.get(name, 0) <= 10 * major + minor]


def float32_precision() -> str | None:
    """What torch's float32 products were asked to be: "ieee", which is exact, or "tf32"; None: nobody asked.

    By `torch.set_float32_matmul_precision`. A torch before 2.9 does not tell "ieee" from None.
    """
    import torch

    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # where it is there, asking for the older names may raise
        return None if matmul.fp32_precision == "none" else str(matmul.fp32_precision)
    return "tf32" if matmul.allow_tf32 else None


def describe_cuda() -> dict[str, Any]:
    """Name, compute capability, multiprocessors, memory and CUDA version of the device; or why there is none."""
    if reason := why_not_cuda():
        return {"device": None, "reason": reason}
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
    }


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
