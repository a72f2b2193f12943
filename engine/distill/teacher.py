"""The frozen teacher: its weights by canonical name, and what it answers for a batch.

A BERT or a DistilBERT computes on this project's engine, packed and without padding. A RoBERTa, which the engine does
not run, computes in transformers, if its tokenizer is one that distilrt has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy.typing as npt
import torch

from distilrt import _C
from distilrt.batch import pack
from distilrt.checkpoint import packed
from distilrt.checkpoint.files import read_object
from distilrt.checkpoint.names import canonical_name
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.weights import Weights, load_weights
from distilrt.distill.corpora import Examples
from distilrt.distill.losses import Outputs
from distilrt.distill.packed_model import PackedModel
from distilrt.errors import CheckpointError
from distilrt.model import models
from distilrt.model.architecture import POSITIONS
from distilrt.model.config import LAYER_NORM_EPS, DistilBertConfig
from distilrt.model.heads import HEADS

ARCHITECTURES = {"masked-lm": "DistilBertForMaskedLM", "text-classification": "DistilBertForSequenceClassification"}
_NAMES = (  # They turn a RoBERTa's names of tensors into a BERT's.
    (r"^roberta\.", "bert."),
    (r"^lm_head\.dense\.", "cls.predictions.transform.dense."),
    (r"^lm_head\.layer_norm\.", "cls.predictions.transform.LayerNorm."),
    (r"^lm_head\.", "cls.predictions."),
    (r"^classifier\.dense\.", "bert.pooler.dense."),
    (r"^classifier\.out_proj\.", "classifier."),
)


class Teacher(NamedTuple):
    """A frozen model that a student learns from."""

    config: DistilBertConfig  # in DistilBERT's names
    weights: Mapping[str, npt.NDArray[Any]]  # float32, by canonical name; the first position is that of a first token
    answer: Callable[[Examples], Outputs]  # It answers a batch, without gradients.
    runs_on: str  # engine, backend and dtype


def load_teacher(folder: str, task: str, device: torch.device) -> Teacher:
    """The teacher in a folder or repository, on the device where the student trains.

    The engine computes in bfloat16 where the device has it natively, else in float32. `task` is one of `ARCHITECTURES`.

    Raises:
        OSError: it is not there.
        CheckpointError: it is no such model, has no head for the task, or is packed.
    """
    source, architecture = Source.of(folder), ARCHITECTURES[task]
    if packed.find(source):
        raise CheckpointError(f"{folder} is packed, without the weights of a teacher; give what it was packed from")
    path = source.file("config.json")
    if path is not None and read_object(path).get("model_type") == "roberta":
        return _roberta(source, architecture, device)
    config = DistilBertConfig.from_pretrained(source)
    try:
        weights = load_weights(source, architecture, config)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} can't be the teacher of a student for {task}: {error}") from None
    gpu = device.type == "cuda"
    dtype = "bfloat16" if gpu or "bfloat16" in _C.dtypes() else "float32"
    threads = None if gpu else torch.get_num_threads()
    model = getattr(models, architecture)(config, weights, backend=device.type, dtype=dtype, num_threads=threads)

    def answer(examples: Examples) -> Outputs:
        hidden = model.backend.forward(pack(model.config, examples.sequences))
        logits = HEADS[architecture].compute(model.backend, hidden[examples.rows])
        # Tensors of a GPU stay there; arrays become tensors without a copy.
        return torch.as_tensor(hidden, device=device), torch.as_tensor(logits, device=device)

    return Teacher(model.config, weights, answer, f"distilrt, {device.type} {dtype}")


def on_torch(config: DistilBertConfig, weights: Mapping[str, npt.NDArray[Any]], model: Any, device: Any) -> Teacher:
    """A teacher that computes in transformers."""
    module = PackedModel(model.eval().requires_grad_(False)).to(device)

    @torch.inference_mode()
    def answer(examples: Examples) -> Outputs:
        hidden, logits = module(*module.inputs(examples, device))
        return hidden, logits

    return Teacher(config, weights, answer, "transformers, float32")


def _roberta(source: Source, architecture: str, device: torch.device) -> Teacher:
    """A RoBERTa as a BERT whose positions are cut to those that tokens have."""
    import transformers

    if source.adapter:
        raise CheckpointError(f"{source}: a RoBERTa's adapter must be merged first, with PEFT's merge_and_unload()")
    reference: Any = getattr(transformers, architecture.replace("DistilBert", "Roberta"))
    folder = source.folder or source.model
    model, found = reference.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    if missing := found["missing_keys"]:
        lacks = f"it lacks {', '.join(sorted(missing)[:4])}; use a checkpoint that was trained for this"
        raise CheckpointError(f"{folder} can't be the teacher of a {architecture}: {lacks}")
    weights = {}
    for name, tensor in model.state_dict().items():
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        weights[canonical_name(name, bert=True)] = tensor.numpy()
    weights[POSITIONS] = weights[POSITIONS][model.config.pad_token_id + 1 :]
    shape = {"max_position_embeddings": len(weights[POSITIONS]), "layer_norm_eps": LAYER_NORM_EPS, "model_type": "bert"}
    try:
        config = DistilBertConfig.from_dict(model.config.to_dict() | shape)
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    return on_torch(config, Weights(weights, str(folder)), model, device)
