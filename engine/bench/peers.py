"""The engines behind one small interface: a checkpoint's folder in, logits for padded ids out.

An engine runs as its own documentation advises for low latency on a CPU, with the thread count that it is given and
shapes left dynamic, so that one loaded model serves every workload. Nothing here measures; libraries load only when
their engine does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from distilrt.bench.artefacts import artefact, torch_model

Ids = npt.NDArray[np.int64]  # [batch_size, seq_len]
Logits = npt.NDArray[np.float32]  # [batch_size, num_labels]


class Peer(Protocol):
    """One engine computing in one dtype. `version` is known after `load`."""

    name: str
    dtype: str
    version: str

    def load(self, checkpoint: Path, num_threads: int) -> None:
        """Get ready for `run`. Raises whatever the engine raises where it is missing or lacks the dtype."""
        ...

    def run(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        """Logits of a padded batch."""
        ...

    def close(self) -> None:
        """Let the model go."""
        ...


@dataclass
class _Engine:
    dtype: str
    version: str = ""
    _model: Any = None

    def close(self) -> None:
        self._model = None


class Distilrt(_Engine):
    """This package's CPU backend as its models use it: of the last layer, only the rows that the head reads."""

    name = "distilrt"
    first_rows_only = True

    def load(self, checkpoint: Path, num_threads: int) -> None:
        import distilrt

        self._model = distilrt.DistilBertForSequenceClassification.from_pretrained(
            checkpoint, backend="cpu", dtype=self.dtype, num_threads=num_threads
        )
        self.version = f"{distilrt.__version__} {self._model.backend.describe().get('isa', '')}".strip()

    def run(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        from distilrt.batch import PaddedInputs, pack_padded

        batch, layout = pack_padded(self._model.config, PaddedInputs(input_ids, attention_mask))
        return self._logits(batch, layout.first_rows)

    def run_packed(self, sequences: Sequence[npt.NDArray[np.int64]]) -> Logits:
        """The same without the way over a padded array."""
        from distilrt.batch import pack

        batch = pack(self._model.config, sequences)
        return self._logits(batch, batch.cu_seqlens[:-1])

    def _logits(self, batch: Any, first_rows: Any) -> Logits:
        backend = self._model.backend
        if self.first_rows_only:
            return backend.answer(batch, first_rows)  # type: ignore[no-any-return]
        rows = backend.forward(batch)[first_rows]
        logits: Logits = backend.to_numpy(backend.head.compute(backend, rows))
        return logits


class DistilrtAllRows(Distilrt):
    """The same computing every row of every layer, as all peers do: the like-for-like comparison of kernels."""

    name = "distilrt-all-rows"
    first_rows_only = False


class Transformers(_Engine):
    """The reference, with its fused attention."""

    name = "transformers"

    def load(self, checkpoint: Path, num_threads: int) -> None:
        import torch

        torch.set_num_threads(num_threads)
        self._model = torch_model(checkpoint, self.dtype)
        self.version = f"{version('transformers')} torch {torch.__version__}"

    def run(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        import torch

        with torch.inference_mode():
            output = self._model(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))[0]
            logits: Logits = output.float().numpy()
        return logits


class TorchCompile(Transformers):
    """The reference compiled once for all shapes, with weights prepacked ("freezing")."""

    name = "torch.compile"

    def load(self, checkpoint: Path, num_threads: int) -> None:
        import torch

        inductor: Any = import_module("torch._inductor.config")
        inductor.freezing = True
        super().load(checkpoint, num_threads)
        self._model = torch.compile(self._model, dynamic=True)


class OnnxRuntime(_Engine):
    """float32, or int8 with activations quantized as they come; attention fused into one node."""

    name = "onnxruntime"

    def load(self, checkpoint: Path, num_threads: int) -> None:
        ort: Any = import_module("onnxruntime")
        kind = {"float32": "onnx", "int8": "onnx-int8"}[self.dtype]
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Its threads spin during a run, as is its default, and not during the turns of others.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._model = ort.InferenceSession(
            artefact(checkpoint, kind) / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.version = ort.__version__

    def run(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        logits: Logits = self._model.run(["logits"], {"input_ids": input_ids, "attention_mask": attention_mask})[0]
        return logits


class OpenVino(_Engine):
    """float32, bfloat16, or int8 quantized by NNCF with the rest in bfloat16 where the CPU has it."""

    name = "openvino"

    def load(self, checkpoint: Path, num_threads: int) -> None:
        openvino: Any = import_module("openvino")
        core = openvino.Core()
        narrow = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if self.dtype == "bfloat16" and not narrow:
            raise RuntimeError("this CPU has no bfloat16 instructions, and OpenVINO would emulate them")
        settings = {
            # Left alone, float32 models run in bfloat16 on CPUs that have it.
            "INFERENCE_PRECISION_HINT": "bf16" if narrow and self.dtype != "float32" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": num_threads,
            "NUM_STREAMS": 1,
        }
        kind = "openvino-int8" if self.dtype == "int8" else "openvino"
        compiled = core.compile_model(artefact(checkpoint, kind) / "model.xml", "CPU", settings)
        self._model = compiled.create_infer_request()
        self.version = version("openvino") + (f" nncf {version('nncf')}" if self.dtype == "int8" else "")

    def run(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        logits: Logits = self._model.infer([input_ids, attention_mask], share_inputs=True)[0]
        return logits


class CTranslate2(_Engine):
    """int8 weights and activations; it removes padding itself. It has no heads: that of two labels runs in NumPy."""

    name = "ctranslate2"

    def load(self, checkpoint: Path, num_threads: int) -> None:
        self._ct2: Any = import_module("ctranslate2")
        from safetensors.numpy import load_file

        self._model = self._ct2.Encoder(
            str(artefact(checkpoint, "ctranslate2")),
            compute_type=self.dtype,
            inter_threads=1,
            intra_threads=num_threads,
        )
        self._head = {k: v for k, v in load_file(checkpoint / "model.safetensors").items() if "classifier" in k}
        self.version = self._ct2.__version__

    def run(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        view = self._ct2.StorageView.from_array
        # Named, because views share their memory.
        ids, lengths = input_ids.astype(np.int32), attention_mask.sum(axis=1, dtype=np.int32)
        output = self._model.forward_batch(view(ids), view(lengths))
        first = np.asarray(output.last_hidden_state)[:, 0]
        head = self._head
        inner = np.maximum(first @ head["pre_classifier.weight"].T + head["pre_classifier.bias"], 0)
        logits: Logits = inner @ head["classifier.weight"].T + head["classifier.bias"]
        return logits


ENGINES: dict[str, tuple[type[Any], tuple[str, ...]]] = {
    "distilrt": (Distilrt, ("float32", "bfloat16", "int8")),
    "distilrt-all-rows": (DistilrtAllRows, ("float32", "bfloat16", "int8")),
    "transformers": (Transformers, ("float32", "bfloat16")),
    "torch.compile": (TorchCompile, ("float32", "bfloat16")),
    "onnxruntime": (OnnxRuntime, ("float32", "int8")),
    "openvino": (OpenVino, ("float32", "bfloat16", "int8")),
    "ctranslate2": (CTranslate2, ("int8",)),
}
OURS = ("distilrt", "distilrt-all-rows")
DTYPES = ("float32", "bfloat16", "int8")


def create(name: str, dtype: str) -> Peer:
    """The engine called `name`, not yet loaded.

    Raises:
        ValueError: an unknown name, or a dtype that it is not asked to run in.
    """
    if name not in ENGINES:
        raise ValueError(f"an engine is one of {', '.join(ENGINES)}, found {name!r}")
    make, dtypes = ENGINES[name]
    if dtype not in dtypes:
        raise ValueError(f"{name} is compared in {', '.join(dtypes)}, found {dtype!r}")
    peer: Peer = make(dtype)
    return peer
