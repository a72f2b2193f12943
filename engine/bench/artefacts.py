"""The checkpoint that every engine runs, and the ONNX, OpenVINO and CTranslate2 files that some make of it first.

Files are kept in the checkpoint's folder under the versions that wrote them, and written in a process of their own:
torch, which most converters need, must not count as part of an engine that runs without it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from distilrt.checkpoint import packing
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.weights import load_weights, random_weights, save_checkpoint
from distilrt.model.architecture import POSITIONS, expected_shapes
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import ENCODER
from distilrt.text.auto_tokenizer import load_tokenizer

ARCHITECTURE = "DistilBertForSequenceClassification"
CALIBRATION_SEQUENCES = 64


def cache_folder() -> Path:
    """Where checkpoints, converted models and compiled loops are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distilrt" / "bench"


def make_checkpoint(folder: Path, config: DistilBertConfig | None = None, seed: int = 0) -> Path:
    """Write DistilBERT-base (or `config`) with random weights and a 2-label head, unless it is there."""
    if not (folder / "config.json").exists():
        config = config or DistilBertConfig()
        save_checkpoint(folder, config, random_weights(config, ARCHITECTURE, seed=seed), ARCHITECTURE)
    return folder


def classifier_of(model: str) -> Path:
    """Write the encoder of a checkpoint, which may be a BERT's, as a DistilBERT's classifier, unless it is there.

    The folder, to which converters may add, has a name of its own for each state of the checkpoint. The head is of
    random orthogonal matrices, so that the logits, as many as hidden units, tell what a dtype does to the hidden states
    of the first token. Weights that were never trained say nothing of that.

    Raises:
        OSError: `model` has no checkpoint.
        CheckpointError: it cannot be read.
    """
    source = Source.of(model)
    config = DistilBertConfig.from_pretrained(source)
    file = source.file("model.safetensors") or source.file("config.json")
    assert file is not None
    state = f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}"
    folder = cache_folder() / "models" / hashlib.blake2b(state.encode(), digest_size=8).hexdigest()
    if not (folder / "config.json").exists():
        found = load_weights(source, ENCODER.architecture, config)
        random, size = np.random.default_rng(0), config.hidden_size
        config = config.replace(
            num_labels=size, id2label=None, label2id=None, type_vocab_size=0, add_pooling_layer=False, extra={}
        )
        weights = {name: packing.tensor(found, name) for name in expected_shapes(config, ENCODER.architecture)}
        weights[POSITIONS] = weights[POSITIONS][: config.max_position_embeddings]  # A BERT has more, of other types.
        for name in ("pre_classifier", "classifier"):
            weights[f"{name}.weight"] = np.linalg.qr(random.standard_normal((size, size)))[0].astype(np.float32)
            weights[f"{name}.bias"] = np.zeros(size, np.float32)
        load_tokenizer(model).save_pretrained(folder)
        # The checkpoint comes last, since its config.json says that all is there.
        save_checkpoint(folder, config, weights, ARCHITECTURE)
    return folder


def artefact(checkpoint: Path, kind: str) -> Path:
    """The folder with `checkpoint` converted to `kind`, a key of `KINDS`; converts it if needed.

    Raises:
        RuntimeError: the conversion failed.
    """
    versions = [f"{name}-{version(name)}" for name in KINDS[kind][1]]
    target = checkpoint / "exports" / "_".join([kind, *versions])
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as unfinished:
            made = Path(unfinished) / "made"
            made.mkdir()
            done = subprocess.run(
                # Not __name__: one conversion starts another from where that is __main__.
                [sys.executable, "-m", "distilrt.bench.artefacts", kind, str(checkpoint), str(made)],
                env=worker_environment(),
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"conversion to {kind} failed: {last_line(done.stderr)}")
            made.rename(target)
    return target


def worker_environment(num_threads: int | None = None) -> dict[str, str]:
    """The environment of a process that runs or converts for one engine."""
    # A folder called `kernels` in the working directory would pass for the package that transformers looks for.
    changes = {"PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    if num_threads is not None:
        changes |= {"OMP_NUM_THREADS": str(num_threads), "OPENBLAS_NUM_THREADS": "1"}
    return os.environ | changes


def memory_mb(field: str = "VmHWM", process: int | str = "self") -> float | None:
    """The most memory that a process had, or with `VmRSS` has now; None where the system does not tell it."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return None
    # Not getrusage, whose peak a process inherits from the one that started it.
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return round(int(fields[field].split()[0]) / 1024, 1)


def last_line(text: str) -> str:
    """What a failed process said last."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"


def torch_model(checkpoint: Path, dtype: str = "float32", attention: str = "sdpa") -> Any:
    """transformers' classifier, returning tuples."""
    import torch
    import transformers

    made: Any = getattr(transformers, ARCHITECTURE).from_pretrained(
        checkpoint, dtype=getattr(torch, dtype), attn_implementation=attention, return_dict=False
    )
    return made.eval()


def _example() -> tuple[Any, Any]:
    """Ids and mask to trace with: two sequences, one of them padded."""
    import torch

    mask = torch.ones(2, 16, dtype=torch.int64)
    mask[1, 10:] = 0
    return torch.arange(1, 33).reshape(2, 16) * mask, mask


def _onnx(checkpoint: Path, target: Path) -> None:
    """Traced from the plain attention, the only form that ONNX Runtime's optimizer fuses into one node."""
    import torch

    optimizer: Any = import_module("onnxruntime.transformers.optimizer")
    axes = {0: "batch", 1: "seq"}
    plain = target / "plain.onnx"
    torch.onnx.export(
        torch_model(checkpoint, attention="eager"),
        _example(),
        str(plain),
        dynamo=False,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "batch"}},
        opset_version=18,
    )
    config = DistilBertConfig.from_pretrained(checkpoint)
    fused = optimizer.optimize_model(
        str(plain), model_type="bert", num_heads=config.num_heads, hidden_size=config.hidden_size, opt_level=0
    )
    fused.save_model_to_file(str(target / "model.onnx"))
    plain.unlink()


def _onnx_int8(checkpoint: Path, target: Path) -> None:
    onnx: Any = import_module("onnx")
    quantization: Any = import_module("onnxruntime.quantization")
    quantization.quantize_dynamic(
        str(artefact(checkpoint, "onnx") / "model.onnx"),
        str(target / "model.onnx"),
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        # Shape inference does not know the fused nodes' types.
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def _openvino(checkpoint: Path, target: Path) -> None:
    openvino: Any = import_module("openvino")
    ids, mask = _example()
    any_shape = ([-1, -1], openvino.Type.i64)
    converted = openvino.convert_model(
        torch_model(checkpoint),
        example_input={"input_ids": ids, "attention_mask": mask},
        input=[("input_ids", *any_shape), ("attention_mask", *any_shape)],
    )
    openvino.save_model(converted, target / "model.xml", compress_to_fp16=False)


def _openvino_int8(checkpoint: Path, target: Path) -> None:
    """Static quantization, calibrated on sequences of mixed lengths, other ones than any bench runs."""
    from distilrt.bench import samples

    openvino: Any = import_module("openvino")
    nncf: Any = import_module("nncf")
    given = samples.make_ids("mixed", checkpoint, seed=1, mix=CALIBRATION_SEQUENCES).inputs
    inputs = [[ids[None], ids[None] ** 0] for ids in given]
    quantized = nncf.quantize(
        openvino.Core().read_model(artefact(checkpoint, "openvino") / "model.xml"),
        nncf.Dataset(inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(inputs),
    )
    openvino.save_model(quantized, target / "model.xml", compress_to_fp16=False)


def _ctranslate2(checkpoint: Path, target: Path, quantization: str | None = None) -> None:
    """The encoder, by the converter's own parts: its front door asks for a tokenizer, only to copy it."""
    converters: Any = import_module("ctranslate2.converters.transformers")
    loader = converters.DistilBertLoader()
    model = torch_model(checkpoint).distilbert
    spec = loader.get_model_spec(model)
    loader.set_vocabulary(spec, [str(token) for token in range(model.config.vocab_size)])
    spec.config.unk_token = "0"
    spec.config.layer_norm_epsilon = 1e-12
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(target))


# What a kind is made by, and whose versions decide whether a kept one still serves.
_TORCH = ("torch", "transformers")
KINDS: dict[str, tuple[Callable[[Path, Path], None], tuple[str, ...]]] = {
    "onnx": (_onnx, (*_TORCH, "onnx", "onnxruntime")),
    "onnx-int8-channels": (_onnx_int8, (*_TORCH, "onnx", "onnxruntime")),
    "openvino": (_openvino, (*_TORCH, "openvino")),
    "openvino-int8": (_openvino_int8, (*_TORCH, "openvino", "nncf")),
    "ctranslate2": (_ctranslate2, (*_TORCH, "ctranslate2")),
    "ctranslate2-int8": (partial(_ctranslate2, quantization="int8"), (*_TORCH, "ctranslate2")),
}

if __name__ == "__main__":
    KINDS[sys.argv[1]][0](Path(sys.argv[2]), Path(sys.argv[3]))
