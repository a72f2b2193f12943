"""`distilrt.SentenceEncoder`: a folder of sentence-transformers, called as its `SentenceTransformer`, without torch.

What it adds to feature-extraction (`distilrt.tasks.embeddings`) is that class's names of options and forms of answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt import tasks
from distilrt.backends.base import Backend
from distilrt.errors import CheckpointError, InvalidInput, InvalidParameter
from distilrt.model.array_kinds import as_numpy, is_tensor
from distilrt.model.heads import ENCODER
from distilrt.model.placement import Placed, backend_on
from distilrt.model.sentence_vectors import PAIRWISE, SIMILARITY, SentenceVectors
from distilrt.runtime.loading import load
from distilrt.tasks.embeddings import FeatureExtraction
from distilrt.tasks.task_inputs import Text, as_text
from distilrt.tasks.task_parameters import is_count

Array = npt.NDArray[Any]
_Texts = str | Iterable[str] | None

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
OUTPUTS = ("sentence_embedding", "token_embeddings")
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class SentenceEncoder(Placed):
    """A sentence encoder with the methods of sentence-transformers' `SentenceTransformer`; safe to call from threads.

    A folder is followed with all of its modules, or refused; one without sentence-transformers files has the mean of
    its tokens' vectors. Answers are NumPy arrays, and torch's tensors where these are asked for or given.

    Args:
        model_name_or_path: the folder or hub id; `BASE@ADAPTER` too.
        backend, dtype, num_threads: how to compute, as in the models' `from_pretrained`.
        device: the backend in torch's words, "cpu" or "cuda"; None: as `backend` says.
        prompts, default_prompt_name, similarity_fn_name, truncate_dim: in place of what the folder says; prompts are
            added to the folder's.
        revision, token, cache_folder, local_files_only: where to look for it.

    Attributes:
        model, tokenizer: what was loaded.
        prompts: texts to put before others, by name.
        default_prompt_name: the one that `encode` takes where its caller names none; None: no text.
        truncate_dim: how many numbers of each vector are kept, the first; None: all.

    Raises:
        OSError: a checkpoint or file of it is not there.
        CheckpointError: a file is malformed, or asks for what is not supported; or the folder makes no dense vectors.
        BackendError: the backend or dtype is not available here.
        InvalidParameter: another value of an option.
    """

    def __init__(
        self,
        model_name_or_path: str | Path,
        *,
        backend: str = "auto",
        dtype: str = "auto",
        num_threads: int | None = None,
        device: str | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_folder: str | Path | None = None,
        local_files_only: bool = False,
    ) -> None:
        if not isinstance(name := model_name_or_path, str | Path):
            raise TypeError(f"model_name_or_path must be a folder or a hub id, found {type(name).__name__}")
        if device is not None and backend == "auto":
            backend = backend_on(device)
        self.model, self.tokenizer, files = load(
            name, None, ENCODER.architecture, backend=backend, dtype=dtype, num_threads=num_threads,
            revision=revision, token=token, cache_dir=cache_folder, local_files_only=local_files_only,
        )  # fmt: skip
        files = files or SentenceVectors()
        if files.architecture != ENCODER.architecture:
            raise CheckpointError(
                f"{name} makes no dense vectors: its sentence-transformers files use the model as "
                f"{files.architecture}; give it to distilrt.pipeline"
            )
        self.to(device)
        self._task = _Embedding(self.tokenizer, self.model.config, files)
        named = {name: text for name, text in files.prompts.items() if name}
        # sentence-transformers knows these two in every model.
        self.prompts: dict[str, str] = {"query": "", "document": "", **named, **(prompts or {})}
        self.default_prompt_name = default_prompt_name or files.default_prompt_name
        self._prompt(None, None)
        self.truncate_dim = files.truncate_dim if truncate_dim is None else truncate_dim
        self._dimensions(None)
        self.similarity_fn_name = similarity_fn_name or files.similarity

    def encode(
        self,
        inputs: _Texts = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: None = None,
        chunk_size: int | None = None,
        *,
        sentences: _Texts = None,
    ) -> Any:
        """Vectors of texts, which are cut at `max_seq_length` tokens.

        Args:
            inputs: one text, or a list or other iterable of texts; `sentences`: the same by its older name.
            prompt_name: the key in `prompts` of what to put before each text.
            prompt: the text itself to put there, which wins over a name.
            batch_size: the most texts that are computed together. Answers don't depend on it.
            show_progress_bar: None: on a terminal, of what takes more than a second.
            output_value: "sentence_embedding", or "token_embeddings" for the transformer's vectors of all tokens.
            precision: "float32", as computed; "int8" and "uint8", 256 steps between the smallest and the largest of
                these vectors' numbers in each dimension; "binary" and "ubinary", a bit that says whether a number is
                above 0, eight in a byte.
            convert_to_numpy: False: torch's tensors, in a list.
            convert_to_tensor: torch's tensors, those of sentences in one.
            device: None, or the one of the model.
            normalize_embeddings: whether to scale the vectors of sentences to length 1.
            truncate_dim: in place of the attribute.
            pool, chunk_size: only None, since there are no pools of processes.

        Returns:
            `[sentences, dimensions]`, or of one text `[dimensions]`. Of tokens a list of `[tokens, hidden_size]`.

        Raises:
            InvalidInput: something that is no text, or one that has no tokens.
            InvalidParameter, ValueError: another value of an option.
        """
        for name, value, allowed in (("output_value", output_value, OUTPUTS), ("precision", precision, PRECISIONS)):
            if value not in allowed:
                raise InvalidParameter(f"{name} must be one of {', '.join(allowed)}, found {value!r}")
        if pool is not None or chunk_size is not None or isinstance(device, list | tuple):
            raise InvalidParameter(
                "encode computes in this process, on all cores that it may use, and takes no pool, chunk_size or list "
                "of devices; for many processes or machines there is distilrt.scale.ray_data.Predictor"
            )
        self.to(device)
        inputs = sentences if inputs is None else inputs
        whole, single = output_value == OUTPUTS[0], isinstance(inputs, str)
        params: dict[str, Any] = {"prompt": self._prompt(prompt, prompt_name), "truncation": True, "pooling": None}
        if whole:
            params |= {"pooling": tasks.SENTENCE, "dimensions": self._dimensions(truncate_dim)}
            params["normalize"] = bool(normalize_embeddings)
        texts = [inputs] if single else _texts(inputs)
        found = self._run(texts, params, batch_size, show_progress_bar)
        if whole:
            vectors = _quantized(np.stack(found), precision) if found else np.empty(0, np.float32)
            answers: Any = vectors if convert_to_numpy or convert_to_tensor else list(vectors)
        else:
            ends = np.cumsum([len(rows) for rows in found])[:-1]
            answers = np.split(_quantized(np.concatenate(found), precision), ends) if found else []
        if convert_to_tensor or not convert_to_numpy:
            as_tensor = partial(_tensor, device=str(self.device))
            answers = list(map(as_tensor, answers)) if isinstance(answers, list) else as_tensor(answers)
        return answers[0] if single else answers

    def encode_query(
        self, inputs: _Texts = None, prompt_name: str | None = None, prompt: str | None = None, **options: Any
    ) -> Any:
        """`encode` behind the prompt "query", unless another is given."""
        if prompt is None and prompt_name is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(inputs, prompt_name, prompt, **options)

    def encode_document(
        self, inputs: _Texts = None, prompt_name: str | None = None, prompt: str | None = None, **options: Any
    ) -> Any:
        """`encode` behind the first prompt that there is of "document", "passage" and "corpus", unless one is given."""
        if prompt is None and prompt_name is None:
            prompt_name = next((name for name in _DOCUMENT_PROMPTS if name in self.prompts), None)
        return self.encode(inputs, prompt_name, prompt, **options)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """How similar each of `[m, dimensions]` is to each of `[n, dimensions]`, by `similarity_fn_name`: `[m, n]`.

        A tensor where one of the two is or holds tensors. Raises an InvalidInput for what are no vectors of one width.
        """
        return self._compared(SIMILARITY, embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """How similar vectors `[n, dimensions]` are to others at the same places: `[n]`. As `similarity` else."""
        return self._compared(PAIRWISE, embeddings1, embeddings2)

    @property
    def backend(self) -> Backend:  # type: ignore[override]  # the model's, which a pickle holds once
        """The backend, which computes."""
        return self.model.backend  # type: ignore[no-any-return]

    @property
    def similarity_fn_name(self) -> str:
        """The function of `similarity`: "cosine", "dot", or "euclidean" or "manhattan" distances below 0."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: str) -> None:
        name = str(getattr(name, "value", name))  # sentence-transformers has an enumeration, too
        if name not in SIMILARITY:
            raise InvalidParameter(f"similarity_fn_name must be one of {', '.join(SIMILARITY)}, found {name!r}")
        self._similarity = name

    @property
    def max_seq_length(self) -> int:
        """How many tokens of a text are read; those behind are cut off."""
        return self._task.limit

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        most = self.model.config.max_position_embeddings
        if not is_count(length, 2) or length > most:
            raise InvalidParameter(
                f"max_seq_length must be an integer of 2 to {most}, the positions of this model, found {length!r}"
            )
        self.tokenizer.model_max_length = length

    def get_embedding_dimension(self) -> int:
        """How many numbers a sentence's vector has."""
        return self._dimensions(None)

    get_sentence_embedding_dimension = get_embedding_dimension

    def _dimensions(self, wanted: int | None) -> int:
        """How many numbers are kept: never more than there are."""
        wanted = self.truncate_dim if wanted is None else wanted
        whole = self._task.encoder.width(self.model.config.hidden_size)
        if wanted is not None and not is_count(wanted):
            raise InvalidParameter(f"truncate_dim must be None or an integer of at least 1, found {wanted!r}")
        return whole if wanted is None else min(whole, wanted)

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        """The text to put before each sentence."""
        if prompt is not None:
            return prompt
        name = self.default_prompt_name if name is None else name
        if name is not None and name not in self.prompts:
            raise InvalidParameter(f"there is no prompt {name!r}; there are {', '.join(self.prompts)}")
        return (self.prompts[name] if name is not None else None) or ""

    def _run(self, texts: Sequence[Any], params: dict[str, Any], batch_size: int, show: bool | None) -> list[Array]:
        """The task's arrays for texts, in their order."""
        answers = tasks.run(self.model, self._task, texts, params, batch_size=batch_size)
        if show or (show is None and len(texts) > 1):
            from tqdm import tqdm  # Its import takes a tenth of the time to a first answer.

            options: dict[str, Any] = {"disable": None, "delay": 1} if show is None else {}
            answers = tqdm(answers, total=len(texts), unit=" texts", **options)
        return list(answers)

    def _compared(self, functions: Mapping[str, Any], *embeddings: Any) -> Any:
        every = functions is SIMILARITY
        a, b = [np.atleast_2d(array) if every else array for array in map(_vectors, embeddings)]
        if a.shape[-1:] != b.shape[-1:] or not (every or len({1, *a.shape[:-1], *b.shape[:-1]}) <= 2):
            raise InvalidInput(
                f"embeddings must be vectors of one width{'' if every else ', as many in both'}, found shapes "
                f"{list(a.shape)} and {list(b.shape)}"
            )
        found = functions[self._similarity](a, b)
        tensors = [one for each in embeddings for one in (each if isinstance(each, list) else [each]) if is_tensor(one)]
        return _tensor(found, tensors[0].device) if tensors else found

    def __repr__(self) -> str:
        return f"SentenceEncoder(pooling={'+'.join(self._task.encoder.pooling)}, dimensions={self._dimensions(None)})"


class _Embedding(FeatureExtraction):
    """feature-extraction of texts alone, one sequence each, whose answers stay arrays."""

    def texts(self, item: Any, params: tasks.Params) -> list[Text]:
        return [params["prompt"] + as_text(item)]

    def answer(self, prepared: tasks.Prepared, outputs: Sequence[Array]) -> Array:
        array = self.array(prepared, outputs)
        return array[0] if prepared.params["pooling"] is None else array


def _texts(inputs: Any) -> list[Any]:
    if isinstance(inputs, Mapping | bytes) or not hasattr(inputs, "__iter__"):
        raise InvalidInput(f"inputs must be a string or a list of strings, found {type(inputs).__name__}")
    return list(inputs)


def _quantized(vectors: Array, precision: str) -> Array:
    """Vectors `[n, dimensions]` as `encode` says; the signed forms are the unsigned ones less 128."""
    if precision == "float32":
        return vectors
    if precision in ("binary", "ubinary"):
        codes = np.packbits(vectors > 0, axis=-1)
    elif len(vectors) == 1:
        raise InvalidParameter(
            f"precision {precision!r} takes its steps from the vectors of a call, and one alone has no range; encode "
            "several, or take 'binary'"
        )
    else:
        low, high = vectors.min(axis=0), vectors.max(axis=0)
        steps = (high - low) / 255
        steps[steps == 0] = 1
        codes = np.clip(np.floor((vectors - low) / steps), 0, 255).astype(np.uint8)
    return codes if precision.startswith("u") else (codes ^ 128).view(np.int8)


def _vectors(embeddings: Any) -> Array:
    """Vectors of any kind as an array of floats."""
    listed = [as_numpy(one) for one in embeddings] if isinstance(embeddings, list | tuple) else as_numpy(embeddings)
    array = np.asarray(listed)
    if array.dtype.kind not in "biuf":
        raise InvalidInput(f"embeddings must be vectors, as encode makes them of texts, found {embeddings!r:.40}")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _tensor(array: Any, device: Any) -> Any:
    import torch

    return torch.as_tensor(array, device=device)
