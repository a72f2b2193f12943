"""The tokenizer that a checkpoint's files name: DistilBERT's own, or tokenizer.json as it stands.

The choice is that of `transformers.AutoTokenizer`, which everything that loads a model together with its tokenizer
follows. `DistilBertTokenizer.from_pretrained` makes no choice, as in the reference.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from distilrt.checkpoint.source import Source
from distilrt.errors import CheckpointError
from distilrt.text.tokenizer import DistilBertTokenizer
from distilrt.text.tokenizer_config import OPTIONS, class_name, of_bert, write
from distilrt.text.vocabulary import SPECIAL_NAMES

# Classes that are BERT's tokenizer in transformers, without "Fast" at the end; a BERT checkpoint may name none.
_BERT = (
    *("", "BertTokenizer", "DistilBertTokenizer", "ConvBertTokenizer", "DPRContextEncoderTokenizer"),
    *("DPRQuestionEncoderTokenizer", "ElectraTokenizer", "LayoutLMTokenizer", "LxmertTokenizer"),
    *("MobileBertTokenizer", "RetriBertTokenizer", "SqueezeBertTokenizer"),
)
_WITH_TYPES = [name for name in _BERT if name != "DistilBertTokenizer"]
_AS_IT_STANDS = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend")


class TokenizersBackend(DistilBertTokenizer):
    """A tokenizer that treats texts as its tokenizer.json says: `transformers.PreTrainedTokenizerFast`.

    A special token that the files do not name is None.
    """

    _as_it_stands = True

    def __init__(self, base: Tokenizer, **options: Any) -> None:
        """Take a Rust tokenizer that nobody else uses; `options` are keywords of `DistilBertTokenizer`."""
        super().__init__(base, **{**dict.fromkeys(SPECIAL_NAMES), **options})

    def save_pretrained(self, folder: str | PathLike[str]) -> tuple[str, ...]:
        """Write `tokenizer.json` and `tokenizer_config.json`, which transformers reads too, and return their paths."""
        options = {key: getattr(self, key) for key in OPTIONS}
        named = {key: value for key, value in options.items() if value is not None}
        return write(folder, "PreTrainedTokenizerFast", named, self.backend_tokenizer)


class AutoTokenizer:
    """transformers' class of this name, whose `from_pretrained` makes a tokenizer of the class that the files name."""

    @staticmethod
    def from_pretrained(
        name_or_folder: str | Path | Source,
        *,
        revision: str | None = None,
        subfolder: str = "",
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> DistilBertTokenizer:
        """The tokenizer of a DistilBERT's or BERT's folder or hub id.

        Arguments are those of `DistilBertTokenizer.from_pretrained`, errors those of `load_tokenizer`.
        """
        source = Source.of(name_or_folder, revision, subfolder, token, cache_dir, local_files_only)
        return load_tokenizer(source, **options)


def load_tokenizer(model: str | Path | Source, **options: Any) -> DistilBertTokenizer:
    """The tokenizer that `transformers.AutoTokenizer` would build for a DistilBERT or BERT checkpoint.

    Args:
        model: a folder, a hub id or a `Source`.
        options: keywords of the constructor of `DistilBertTokenizer`, which overrule the files.

    Raises:
        OSError: no such folder or repository, or it has no vocabulary.
        CheckpointError: a file is not what its name says, or names a class that is neither of the two.
    """
    source = Source.of(model)
    name = class_name(source)
    if name not in (*_BERT, *_AS_IT_STANDS):
        raise CheckpointError(
            f"{source}: tokenizer_class is {name!r}, which distilrt does not have; it has "
            f"{', '.join(filter(None, _BERT))} and, for a tokenizer.json that says how to treat texts, "
            "PreTrainedTokenizerFast; if yours does, name that class in tokenizer_config.json"
        )
    tokenizer = (DistilBertTokenizer if name in _BERT else TokenizersBackend).from_pretrained(source, **options)
    if name in _WITH_TYPES and "model_input_names" not in options and of_bert(source):
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer
