"""A model and its tokenizer from whatever a caller has: a folder, a hub id, or objects that are loaded already."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tokenizers.normalizers import Lowercase, Normalizer, Sequence

from distilrt.checkpoint import sentence_files
from distilrt.checkpoint.source import Source
from distilrt.model import models
from distilrt.model.architecture import architecture_of
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import ENCODER, HEADS
from distilrt.model.sentence_vectors import SentenceVectors
from distilrt.text.auto_tokenizer import load_tokenizer
from distilrt.text.tokenizer import DistilBertTokenizer


class Checkpoint(NamedTuple):
    """A checkpoint that is there, of which only the small files are read yet.

    Attributes:
        source: where the transformer's own files are.
        sentence: what the sentence-transformers files say; None: there are none.
    """

    source: Source
    sentence: SentenceVectors | None

    def architecture(self) -> str:
        """What the sentence-transformers files use it as, else what its config names, else the bare encoder.

        Raises:
            OSError, CheckpointError: there is no config, or it is not one.
        """
        config = DistilBertConfig.from_pretrained(self.source)
        if self.sentence is not None:
            return self.sentence.architecture
        return architecture_of(config) or ENCODER.architecture

    def model(self, architecture: str | None = None, **how: Any) -> Any:
        """Its model, as an architecture or as its files say; `how` are arguments of `from_pretrained`."""
        return getattr(models, architecture or self.architecture()).from_pretrained(self.source, **how)

    def tokenizer(self) -> DistilBertTokenizer:
        """Its tokenizer, with the length and the lower case that the sentence-transformers files say.

        Raises:
            OSError, ValueError: there is none, or a file of it is not one.
        """
        length = self.sentence.max_length if self.sentence else None
        options: dict[str, Any] = {} if length is None else {"model_max_length": length}
        tokenizer = load_tokenizer(self.source, **options)
        if self.sentence and self.sentence.lower_case:
            backend = tokenizer.backend_tokenizer
            normalizers: list[Normalizer] = [Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
            backend.normalizer = Sequence(normalizers)
        return tokenizer


def find(source: Source, architecture: str | None = None) -> Checkpoint:
    """Find a checkpoint and read its sentence-transformers files, but neither weights nor vocabulary.

    Args:
        source: the folder or repository as a whole.
        architecture: what it will be loaded as; None: as its files say.

    Raises:
        OSError: no such folder or repository; or one that may make vectors, and the network is down and the cache does
            not know whether it has sentence-transformers files.
        CheckpointError: a sentence-transformers file is malformed, or asks for what is not supported.
    """
    try:
        sentence = sentence_files.read(source)
    except FileNotFoundError:
        config = DistilBertConfig.from_pretrained(source)
        if HEADS[architecture or architecture_of(config) or ENCODER.architecture].makes_vectors:
            raise
        sentence = None
    return Checkpoint(source.within(sentence.folder) if sentence else source, sentence)


def load(
    model: Any,
    tokenizer: DistilBertTokenizer | str | Path | None,
    architecture: str | None,
    *,
    backend: str,
    dtype: str,
    num_threads: int | None,
    **where: Any,
) -> tuple[Any, DistilBertTokenizer, SentenceVectors | None]:
    """A model of `distilrt.model.models`, its tokenizer, and what the checkpoint's sentence-transformers files say.

    Args:
        model: folder or hub id of a checkpoint, or a loaded model of `distilrt`.
        tokenizer: the same for the tokenizer; None: the model's.
        architecture: what to load a checkpoint as; None: as `Checkpoint.architecture`.
        backend, dtype, num_threads: as in the models' `from_pretrained`; not for a loaded model.
        where: the other fields of a `Source`; for both.

    Returns:
        The three; the last is None for a loaded model, and where there are no such files.

    Raises:
        OSError: a checkpoint or file of it is not there.
        TypeError: an argument of another type, or a choice that comes too late for a loaded model.
        CheckpointError, BackendError: see the models' `from_pretrained` and `find`.
    """
    found = None
    if isinstance(model, str | Path):
        found = find(Source.of(model, **where), architecture)
        model = found.model(architecture, backend=backend, dtype=dtype, num_threads=num_threads)
        if found.sentence and found.sentence.architecture == ENCODER.architecture:
            found.sentence.width(model.config.hidden_size)  # which refuses layers of another width
    elif not isinstance(getattr(model, "config", None), DistilBertConfig):
        raise TypeError(
            f"model must be a folder, a hub id or a model of distilrt, found {type(model).__name__}; for transformers' "
            "objects there is distilrt.accelerate"
        )
    elif (backend, dtype, num_threads) != ("auto", "auto", None):
        raise TypeError(
            "backend, dtype and num_threads are chosen when a model is loaded, and this one is; pass them to its "
            "from_pretrained, or give a folder or hub id here"
        )
    if isinstance(tokenizer, str | Path):
        tokenizer = find(Source.of(tokenizer, **where)).tokenizer()
    elif tokenizer is None and found is not None:
        tokenizer = found.tokenizer()
    if not isinstance(tokenizer, DistilBertTokenizer):
        raise TypeError(
            "tokenizer must be a folder, a hub id or a DistilBertTokenizer of distilrt (and with a loaded model it "
            f"must be given), found {type(tokenizer).__name__}"
        )
    return model, tokenizer, found.sentence if found else None
