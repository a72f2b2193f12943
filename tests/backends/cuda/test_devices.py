"""engine/backends/cuda/devices.py: every reason why there is no usable CUDA device, without one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distilrt.backends import base as backends
from distilrt.backends.cuda import devices
from distilrt.checkpoint.weights import random_weights
from distilrt.errors import BackendError
from distilrt.model.config import DistilBertConfig


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this machine look as if it had a GPU; its keywords say what is wrong with it."""

    def make(
        missing: str = "", driver: bool = True, cuda: str | None = "13.0", count: int = 1, capability: Any = (9, 0)
    ) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
        monkeypatch.setattr(devices, "_has_driver", lambda: driver)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA Old")
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    return make


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"missing": "torch"}, r"torch is not installed: pip install 'distilrt\[cuda\]'"),
        ({"missing": "triton"}, r"triton is not installed: pip install 'distilrt\[cuda\]'"),
        ({"driver": False}, r"no NVIDIA driver"),
        ({"cuda": None}, r"built without CUDA"),
        ({"count": 0}, r"torch sees no CUDA device.*CUDA_VISIBLE_DEVICES"),
        ({"capability": (7, 5)}, r"NVIDIA Old has compute capability 7\.5, and the kernels need 8\.0"),
    ],
)
def test_what_is_missing(wrong: dict[str, Any], message: str, gpu: Any) -> None:
    gpu(**wrong)
    config = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=9)
    weights = random_weights(config, "DistilBertModel")
    with pytest.raises(BackendError, match=f"backend 'cuda' is not available: .*{message}.*backend='cpu'"):
        backends.create("cuda", config, weights)
    assert backends.create("auto", config, weights).name == "cpu"
    described = devices.describe_cuda()
    assert described["device"] is None
    assert described["reason"] == devices.why_not_cuda()


@pytest.mark.parametrize("error", [RuntimeError("CUDA-capable device(s) is/are busy or unavailable\nmore"),
                                   torch.AcceleratorError("CUDA error: MPS server is not ready")])  # fmt: skip
def test_a_device_that_is_there_but_can_not_be_used(
    error: RuntimeError, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds it, MPS is down, this is a fork: torch raises when it first asks the device anything."""
    gpu()

    def ask(*_: Any) -> None:
        raise error

    monkeypatch.setattr(torch.cuda, "get_device_capability", ask)
    message = str(error).split("\n")[0]
    assert devices.why_not_cuda() == f"the CUDA device can't be used: {message}"
    config = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=9)
    weights = random_weights(config, "DistilBertModel")
    assert backends.create("auto", config, weights).name == "cpu"


def test_precision_is_torchs_own_switch() -> None:
    matmul: Any = torch.backends.cuda.matmul
    before, switch = torch.get_float32_matmul_precision(), matmul.fp32_precision
    try:
        for name, expected in (("highest", "ieee"), ("high", "tf32"), ("medium", "tf32"), ("highest", "ieee")):
            torch.set_float32_matmul_precision(name)
            assert devices.float32_precision() == expected
        for allowed, expected in ((True, "tf32"), (False, "ieee")):
            matmul.allow_tf32 = allowed
            assert devices.float32_precision() == expected
        matmul.fp32_precision = "none"
        assert devices.float32_precision() is None, "as in a new process"
    finally:
        torch.set_float32_matmul_precision(before)
        matmul.fp32_precision = switch


def test_precision_of_an_older_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed, expected in ((True, "tf32"), (False, None)):
        monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=allowed))
        assert devices.float32_precision() == expected


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_a_device_is_torchs_current_one(capability: tuple[int, int], gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(capability=capability)
    assert devices.why_not_cuda() is None
    assert devices.cuda_device() == torch.device("cuda", 3)
    properties = SimpleNamespace(name="NVIDIA New", major=capability[0], minor=capability[1],
                                 multi_processor_count=132, total_memory=1 << 37)  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties if index == 3 else None)
    assert devices.describe_cuda() == {
        "device": "NVIDIA New", "capability": ".".join(map(str, capability)), "multiprocessors": 132,
        "memory_bytes": 1 << 37, "cuda": "13.0",
    }  # fmt: skip


@pytest.mark.parametrize(("capability", "dtypes"), [((8, 0), "float32, float16, bfloat16, int8"), ((8, 9), None)])
def test_float8_needs_tensor_cores_for_it(capability: tuple[int, int], dtypes: str | None, gpu: Any) -> None:
    gpu(capability=capability)
    if dtypes is None:
        assert devices.chosen_dtype("float8", {}) == "float8"
        return
    config = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=9)
    message = f"dtype 'float8' needs a GPU of compute capability 8.9 or newer, and NVIDIA Old has 8.0: use {dtypes}"
    with pytest.raises(BackendError, match=message):
        backends.create("cuda", config, random_weights(config, "DistilBertModel"), dtype="float8")
    assert devices.dtypes_here() == dtypes.split(", ")


def test_interpreting_takes_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("1", True), ("true", True), ("0", False), ("", False)):
        monkeypatch.setenv("TRITON_INTERPRET", value)
        assert devices.interpreting() is expected
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert devices.cuda_device() == torch.device("cpu")


def test_asking_without_a_driver_does_not_import_torch() -> None:
    if devices._has_driver():
        pytest.skip("this machine has a driver")
    lines = ("import sys", "from distilrt.backends.cuda import devices", "assert devices.why_not_cuda()")
    code = "; ".join([*lines, "assert 'torch' not in sys.modules"])
    subprocess.run([sys.executable, "-c", code], check=True)
