"""The engines as peers, and the table of their names, forms and dtypes.

A *form* is one way to run an engine that a careful user of it would choose; where
several could be the best, each is a form, and a claim is against the best form of the best peer. Libraries load only
when their engine does, and nothing here measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from distilrt.bench.artefacts import artefact, torch_model
from distilrt.bench.peer import BATCH, Ids, Lanes, Logits, Peer, longest_first, padded, reordered

PACKED_TOKENS = 4096  # One of our batches has at most so many.
DTYPES = ("float32", "bfloat16", "int8")


class Distilrt(Peer):
    """This package's CPU backend as its models use it: of the last layer, only the rows that the head reads."""

    backend = "cpu"
    first_rows_only = True

    def load(self, checkpoint: Path, num_threads: int) -> None:
        import distilrt

        self._model = distilrt.DistilBertForSequenceClassification.from_pretrained(
            checkpoint, backend=self.backend, dtype=self.dtype, num_threads=num_threads
        )
        self.version = f"{distilrt.__version__} {self._model.backend.describe().get('isa', '')}".strip()

    def batch(self, sequences: Sequence[Ids]) -> Logits:
        from distilrt.batch import pack

        batch, backend = pack(self._model.config, sequences), self._model.backend
        if self.first_rows_only:
            answer: Any = backend
            return answer.answer(batch, batch.cu_seqlens[:-1])  # type: ignore[no-any-return]
        rows = backend.forward(batch)[batch.cu_seqlens[:-1]]
        logits: Logits = backend.to_numpy(backend.head.compute(backend, rows))
        return logits

    def many(self, sequences: Sequence[Ids]) -> Logits:
        """Packed batches, in order."""
        found, batch = list[Logits](), list[Ids]()
        for sequence in sequences:
            if batch and sum(map(len, batch)) + len(sequence) > PACKED_TOKENS:
                found.append(self.batch(batch))
                batch = []
            batch.append(sequence)
        return np.concatenate([*found, self.batch(batch)])


class DistilrtAllRows(Distilrt):
    """The same computing every row of every layer, as all peers do: the like-for-like comparison of kernels."""

    first_rows_only = False


class DistilrtReference(Distilrt):
    """The model in NumPy, whose answers are right."""

    backend = "reference"


class Transformers(Peer):
    """The reference as people have it, with its fused attention."""

    def load(self, checkpoint: Path, num_threads: int) -> None:
        import torch

        torch.set_num_threads(num_threads)
        self._model = self._made(checkpoint)
        self.version = f"{version('transformers')} torch {torch.__version__}"

    def _made(self, checkpoint: Path) -> Any:
        return torch_model(checkpoint, self.dtype)

    def batch(self, sequences: Sequence[Ids]) -> Logits:
        import torch

        ids, mask = padded(sequences)
        with torch.inference_mode():
            logits: Logits = self._model(torch.from_numpy(ids), torch.from_numpy(mask))[0].float().numpy()
        return logits


class TorchDynamic(Transformers):
    """The reference compiled once for all shapes, with weights prepacked ("freezing")."""

    options: ClassVar[dict[str, Any]] = {"freezing": True}
    dynamic = True

    def _made(self, checkpoint: Path) -> Any:
        import torch

        inductor: Any = import_module("torch._inductor.config")
        for name, value in self.options.items():
            setattr(inductor, name, value)
        return torch.compile(super()._made(checkpoint), dynamic=self.dynamic)


class TorchFixed(TorchDynamic):
    """Compiled for each shape: products chosen by measurement ("max-autotune")."""

    options: ClassVar[dict[str, Any]] = {"freezing": True, "max_autotune": True}
    dynamic = False


class TorchAutocast(TorchFixed):
    """Float32 weights whose products autocast computes in bfloat16."""

    def _made(self, checkpoint: Path) -> Any:
        narrow, self.dtype = self.dtype, "float32"
        try:
            return super()._made(checkpoint)
        finally:
            self.dtype = narrow

    def batch(self, sequences: Sequence[Ids]) -> Logits:
        import torch

        with torch.autocast("cpu", getattr(torch, self.dtype)):
            return super().batch(sequences)


class OnnxRuntime(Peer):
    """float32, or int8 with activations quantized as they come and weights by channel; attention is one fused node."""

    exports: ClassVar = {"float32": "onnx", "int8": "onnx-int8-channels"}

    def load(self, checkpoint: Path, num_threads: int) -> None:
        self._answer = self._session(checkpoint, num_threads)

    def _session(self, checkpoint: Path, num_threads: int) -> Callable[[Sequence[Ids]], Logits]:
        ort: Any = import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Its threads spin during a run, as is its default, and not during the turns of others.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = ort.InferenceSession(
            artefact(checkpoint, self.exports[self.dtype]) / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.version = ort.__version__

        def answer(sequences: Sequence[Ids]) -> Logits:
            logits: Logits = session.run(["logits"], dict(zip(("input_ids", "attention_mask"), padded(sequences),
                                                              strict=True)))[0]  # fmt: skip
            return logits

        return answer

    def batch(self, sequences: Sequence[Ids]) -> Logits:
        return self._answer(sequences)


class OnnxStreams(OnnxRuntime):
    """A session of one thread for each core, with single texts without padding."""

    def load(self, checkpoint: Path, num_threads: int) -> None:
        self._lanes = Lanes([self._session(checkpoint, 1) for _ in range(num_threads)])

    def batch(self, sequences: Sequence[Ids]) -> Logits:
        return self._lanes.run(sequences)

    many = batch


class OpenVino(Peer):
    """float32, bfloat16, or int8 quantized by NNCF with the rest in bfloat16 where the CPU has it; shapes dynamic."""

    exports: ClassVar = {"float32": "openvino", "bfloat16": "openvino", "int8": "openvino-int8"}
    hint: ClassVar[dict[str, Any]] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}

    def load(self, checkpoint: Path, num_threads: int) -> None:
        openvino: Any = import_module("openvino")
        self._core = openvino.Core()
        narrow = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if self.dtype == "bfloat16" and not narrow:
            raise RuntimeError("this CPU has no bfloat16 instructions, and OpenVINO would emulate them")
        self._settings = {
            # Left alone, float32 models run in bfloat16 on CPUs that have it.
            "INFERENCE_PRECISION_HINT": "bf16" if narrow and self.dtype != "float32" else "f32",
            "INFERENCE_NUM_THREADS": num_threads,
            **self.hint,
        }
        self._model = self._core.read_model(artefact(checkpoint, self.exports[self.dtype]) / "model.xml")
        self.version = version("openvino") + (f" nncf {version('nncf')}" if self.dtype == "int8" else "")
        self._ready(num_threads)

    def _ready(self, num_threads: int) -> None:
        self._request = self._compiled().create_infer_request()

    def _compiled(self, shape: tuple[int, ...] = ()) -> Any:
        """The model for batches of this shape; without one, of any."""
        model = self._model
        if shape:
            model = model.clone()
            model.reshape({name: list(shape) for name in ("input_ids", "attention_mask")})
        return self._core.compile_model(model, "CPU", self._settings)

    def batch(self, sequences: Sequence[Ids]) -> Logits:
        logits: Logits = self._request.infer(list(padded(sequences)), share_inputs=True)[0]
        return logits


class OpenVinoStatic(OpenVino):
    """The model reshaped and compiled for each shape that comes."""

    def _ready(self, num_threads: int) -> None:
        self._requests: dict[tuple[int, ...], Any] = {}

    def batch(self, sequences: Sequence[Ids]) -> Logits:
        ids, mask = padded(sequences)
        if ids.shape not in self._requests:
            self._requests[ids.shape] = self._compiled(ids.shape).create_infer_request()
        logits: Logits = self._requests[ids.shape].infer([ids, mask], share_inputs=True)[0]
        return logits


class OpenVinoStreams(OpenVino):
    """Streams of one thread, as many as cores, fed by an asynchronous queue with single texts without padding."""

    together = 1  # sequences of a request
    hint: ClassVar[dict[str, Any]] = {"PERFORMANCE_HINT": "THROUGHPUT"}

    def _ready(self, num_threads: int) -> None:
        self._settings["NUM_STREAMS"] = num_threads
        self._queues: dict[int, Any] = {}
        self._found: dict[int, Logits] = {}

    def _queue(self, bucket: int) -> Any:
        if bucket not in self._queues:
            openvino: Any = import_module("openvino")
            compiled = self._compiled((self.together, bucket) if bucket else ())
            self._queues[bucket] = openvino.AsyncInferQueue(compiled)
            self._queues[bucket].set_callback(self._keep)
        return self._queues[bucket]

    def _keep(self, request: Any, place: int) -> None:
        self._found[place] = request.get_output_tensor().data.copy()

    def _bucket(self, length: int) -> int:
        """Tokens to which a text of this length is padded in a model of its own; 0: none, in one model for all."""
        return 0

    def batch(self, sequences: Sequence[Ids]) -> Logits:
        self._found.clear()
        order = longest_first(sequences)
        for place in range(0, len(order), self.together):
            part = [sequences[i] for i in order[place : place + self.together]]
            bucket = self._bucket(len(part[0]))
            self._queue(bucket).start_async(list(padded(part, bucket)), place)
        for queue in self._queues.values():
            queue.wait_all()
        return reordered([self._found[place] for place in sorted(self._found)], order)

    many = batch


class OpenVinoPadded(OpenVinoStreams):
    """The same streams with padded batches of similar length."""

    together = BATCH


class OpenVinoBuckets(OpenVinoStreams):
    """The same streams with a static model for each bucket of lengths, to which single texts are padded."""

    def _bucket(self, length: int) -> int:
        """The next of 8, 16, 24 and so on to 64, and then of four from each power of 2 to the next."""
        step = max(8, (1 << (length - 1).bit_length()) // 8)
        return -(-length // step) * step


class CTranslate2(Peer):
    """float32, or int8 weights and activations. It has no heads: that of two labels runs in NumPy."""

    exports: ClassVar = {"float32": "ctranslate2", "int8": "ctranslate2-int8"}

    def load(self, checkpoint: Path, num_threads: int) -> None:
        self._encoder(checkpoint, inter_threads=1, intra_threads=num_threads)

    def _encoder(self, checkpoint: Path, **threads: int) -> None:
        from safetensors.numpy import load_file

        self._ct2: Any = import_module("ctranslate2")
        folder = str(artefact(checkpoint, self.exports[self.dtype]))
        self._model = self._ct2.Encoder(folder, compute_type=self.dtype, **threads)
        self._head = {k: v for k, v in load_file(checkpoint / "model.safetensors").items() if "classifier" in k}
        self.version = self._ct2.__version__

    def batch(self, sequences: Sequence[Ids]) -> Logits:
        view, head = self._ct2.StorageView.from_array, self._head
        # Named, because views share their memory.
        ids, lengths = padded(sequences)[0].astype(np.int32), np.array([len(each) for each in sequences], np.int32)
        first = np.asarray(self._model.forward_batch(view(ids), view(lengths)).last_hidden_state)[:, 0]
        inner = np.maximum(first @ head["pre_classifier.weight"].T + head["pre_classifier.bias"], 0)
        logits: Logits = inner @ head["classifier.weight"].T + head["classifier.bias"]
        return logits


class CTranslate2Streams(CTranslate2):
    """A worker of one thread for each core, with single texts without padding."""

    def load(self, checkpoint: Path, num_threads: int) -> None:
        self._encoder(checkpoint, inter_threads=num_threads, intra_threads=1)
        self._lanes = Lanes([super().batch] * num_threads)

    def batch(self, sequences: Sequence[Ids]) -> Logits:
        return self._lanes.run(sequences)

    many = batch


@dataclass(frozen=True, slots=True)
class Form:
    """One way to run an engine.

    Attributes:
        make: the peer of a dtype.
        dtypes: that it is measured in.
        latency, throughput: what a user would choose it for.
        fixed: it is compiled for each shape that comes, so it is measured only where all have one.
    """

    make: type[Peer]
    dtypes: tuple[str, ...]
    latency: bool = False
    throughput: bool = False
    fixed: bool = False


OURS = "distilrt"
_FLOATS, _NARROW = ("float32", "bfloat16"), ("float32", "int8")
ENGINES: dict[str, dict[str, Form]] = {
    OURS: {
        "first-rows": Form(Distilrt, DTYPES, latency=True, throughput=True),
        "all-rows": Form(DistilrtAllRows, DTYPES, latency=True, throughput=True),
        "reference": Form(DistilrtReference, ("float32",)),
    },
    "transformers": {"sdpa": Form(Transformers, _FLOATS, latency=True, throughput=True)},
    "torch.compile": {
        "dynamic": Form(TorchDynamic, _FLOATS, throughput=True),
        "fixed": Form(TorchFixed, _FLOATS, latency=True, fixed=True),
        "autocast": Form(TorchAutocast, ("bfloat16",), latency=True, fixed=True),
    },
    "onnxruntime": {
        "session": Form(OnnxRuntime, _NARROW, latency=True),
        "streams": Form(OnnxStreams, _NARROW, throughput=True),
    },
    "openvino": {
        "dynamic": Form(OpenVino, DTYPES, latency=True),
        "static": Form(OpenVinoStatic, DTYPES, latency=True, fixed=True),
        "streams": Form(OpenVinoStreams, DTYPES, throughput=True),
        "padded": Form(OpenVinoPadded, DTYPES, throughput=True),
        "buckets": Form(OpenVinoBuckets, DTYPES, throughput=True),
    },
    "ctranslate2": {
        "encoder": Form(CTranslate2, _NARROW, latency=True),
        "streams": Form(CTranslate2Streams, _NARROW, throughput=True),
    },
}  # fmt: skip


def create(name: str, form: str, dtype: str) -> Peer:
    """A peer of the table, not yet loaded."""
    return ENGINES[name][form].make(dtype)
