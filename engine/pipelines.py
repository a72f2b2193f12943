"""`distilrt.pipeline`: transformers' pipelines, called as theirs, over this engine's tasks.

What a pipeline adds to a task (`distilrt.tasks`) is the ways of calling it and the forms of its answers, which depend
on the form of the inputs. Question answering, which transformers dropped in 5.3, is called as in 4.57.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distilrt import tasks
from distilrt.errors import InvalidInput
from distilrt.model.placement import backend_on, device_of
from distilrt.model.sentence_vectors import SentenceVectors
from distilrt.runtime.loading import load
from distilrt.text.tokenizer import DistilBertTokenizer

# Parameters of transformers' pipelines that have another name or place here.
_ELSEWHERE = {
    "model_kwargs": "pass them to from_pretrained, and the model here",
    "config": "pass it to from_pretrained, and the model here",
    "return_all_scores": "it is called top_k=None",
    "topk": "it is called top_k",
    "grouped_entities": "it is called aggregation_strategy='simple'",
    "ignore_subwords": "it is called aggregation_strategy='first'",
    "multi_class": "it is called multi_label",
}
# Parameters of theirs that mean nothing here: there is one kind of tokenizer, nothing is padded, no code of a
# checkpoint runs, and several threads tokenize anyway.
_WITHOUT_EFFECT = frozenset({
    "num_workers", "framework", "use_fast", "trust_remote_code", "binary_output", "processor", "feature_extractor",
    "image_processor", "padding_side", "pad_to_multiple_of", "return_attention_mask", "return_token_type_ids",
    "verbose",
})  # fmt: skip
# Dictionaries in which transformers takes the tokenizer's parameters for tasks that do not take them by themselves.
_FOLDS = ("tokenizer_kwargs", "tokenize_kwargs")


def pipeline(
    task: str,
    model: Any,
    tokenizer: DistilBertTokenizer | str | Path | None = None,
    *,
    backend: str = "auto",
    device: Any = None,
    device_map: Any = None,
    dtype: Any = "auto",
    torch_dtype: Any = None,
    num_threads: int | None = None,
    revision: str | None = None,
    subfolder: str = "",
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    batch_size: int | None = None,
    max_tokens: int = tasks.MAX_TOKENS,
    **params: Any,
) -> Pipeline:
    """A pipeline for one task; see `Pipeline` for how to call it.

    Args:
        task: "text-classification" or "sentiment-analysis", "fill-mask", "question-answering", "token-classification"
            or "ner", "feature-extraction", "sentence-similarity", "zero-shot-classification", "multiple-choice",
            "sparse-embedding".
        model: folder or hub id of a checkpoint, or a loaded model of `distilrt`.
        tokenizer: the same for the tokenizer; None: the model's.
        backend, dtype, num_threads: how to compute, as in the models' `from_pretrained`; not for a loaded model.
        device: the backend in torch's words: "cpu" or -1, "cuda" or a device's number, or a `torch.device`.
        device_map, torch_dtype: other names of `device` and `dtype`; the map "auto" leaves the choice to `backend`.
        revision, subfolder, token, cache_dir, local_files_only: where to look for both.
        batch_size: the most sequences computed together; None: as many as `max_tokens` allows.
        max_tokens: the most tokens computed together. Answers depend on neither.
        params: defaults of the task's parameters, which docs/endpoints.md lists. Other parameters of transformers'
            pipelines, such as `num_workers`, are accepted where they mean nothing here.

    Raises:
        OSError: a checkpoint or file of it is not there.
        ValueError, TypeError: an unknown task or parameter, a value that is not allowed, a model of another class.
        CheckpointError, BackendError: see the models' `from_pretrained`.
    """
    chosen = tasks.find(task)
    _unfolded(chosen, params)
    if device is not None and device_map not in (None, "auto"):
        raise ValueError(f"a pipeline is on one device; give device={device!r} or device_map={device_map!r}, not both")
    place = device_of(device_map if device is None else device)
    computes = backend_on(place or device) if place or device else backend
    if backend == "auto" and isinstance(model, str | Path):
        backend = computes
    loaded, tokenizer, sentence = load(
        model,
        tokenizer,
        chosen.architecture,
        backend=backend,
        dtype=str(dtype if torch_dtype is None else torch_dtype).removeprefix("torch."),
        num_threads=num_threads,
        revision=revision,
        subfolder=subfolder,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    if place:
        loaded.to(place)
    return Pipeline(chosen, loaded, tokenizer, params, sentence, batch_size=batch_size, max_tokens=max_tokens)


class Pipeline:
    """A task with a model and a tokenizer; safe to call from many threads.

    One input gives its answer and a list a list of answers; any other iterable, a generator or dataset say, is read as
    the answers are taken, which come in its order. Exceptions to this are transformers' own, see `__call__`.

    Attributes:
        task: the task's name.
        model, tokenizer: what it was made of.
        params: the task's parameters where a call names none.
    """

    def __init__(
        self,
        task: type[tasks.Task],
        model: Any,
        tokenizer: DistilBertTokenizer,
        params: Mapping[str, Any],
        sentence: SentenceVectors | None = None,
        *,
        batch_size: int | None = None,
        max_tokens: int = tasks.MAX_TOKENS,
    ) -> None:
        """Check what a call without inputs can check."""
        self.task, self.model, self.tokenizer = task.name, model, tokenizer
        self._kind, self._sentence = task, sentence
        self.params = _unfolded(task, params)
        self._batching: dict[str, Any] = {"batch_size": batch_size, "max_tokens": max_tokens}
        known = dict(self.params)
        if task.name == "feature-extraction":
            known.pop("return_tensors", None)
        # Labels may wait for the call.
        labels = {"candidate_labels": "any"} if "candidate_labels" in task.params else {}
        self._run([], labels | known, **self._batching)

    def __call__(self, *args: Any, batch_size: int | None = None, **params: Any) -> Any:
        """Answer inputs.

        Args:
            args: the inputs, of the kind that the task takes (see `distilrt.tasks`): one, a list, or another iterable.
                text-classification takes a tuple of two strings for a pair of texts;
                question-answering also takes a question and a context, as two arguments or by these names;
                zero-shot-classification takes its candidate_labels second.
            batch_size: in place of the pipeline's.
            params: of the task, in place of the pipeline's.

        Returns:
            As the class says. But text-classification gives a list for one string unless this call names `top_k`;
            fill-mask and question-answering give for a list of one what they give for its item; the words of one text
            (`is_split_into_words`) get a list of one; and with `return_tensors=True` feature-extraction gives torch
            tensors.

        Raises:
            InvalidInput: an input that cannot be answered; in a batch the message starts with its index.
            ValueError, TypeError: a parameter that there is not, or a value that is not allowed.
        """
        name = self.task
        inputs = _inputs(name, args, params)
        given = self.params | _unfolded(self._kind, params)
        tensors = name == "feature-extraction" and given.pop("return_tensors", None)
        batching = self._batching if batch_size is None else self._batching | {"batch_size": batch_size}

        def answers(items: Iterable[Any], **options: Any) -> Iterator[Any]:
            found = self._run(items, given, **batching, **options)
            return map(_as_tensor, found) if tensors else found

        pair = name == "text-classification" and isinstance(inputs, tuple) and list(map(type, inputs)) == [str, str]
        if pair or isinstance(inputs, str | Mapping):
            [answer] = answers([inputs], return_errors=True)
            if isinstance(answer, InvalidInput):
                raise answer
            listed = name == "text-classification" and isinstance(inputs, str) and "top_k" not in params
            return [answer] if listed else answer
        if not isinstance(inputs, list | tuple):
            return answers(_iterated(inputs))
        if given.get("is_split_into_words") is True and not all(isinstance(item, list | tuple) for item in inputs):
            inputs = [inputs]
        from tqdm import tqdm  # which huggingface_hub needs too; it shows nothing without a terminal

        found = list(tqdm(answers(inputs), total=len(inputs), unit=" inputs", disable=None, delay=1))
        return found[0] if len(found) == 1 and name in ("fill-mask", "question-answering") else found

    def predict(self, X: Any) -> Any:  # noqa: N803, the name of scikit-learn, whose interface this is
        """The answers to inputs."""
        return self(X)

    def transform(self, X: Any) -> Any:  # noqa: N803
        """The same."""
        return self(X)

    @property
    def device(self) -> Any:
        """Where the model computes."""
        return self.model.device

    @property
    def dtype(self) -> Any:
        """What the model computes in."""
        return self.model.dtype

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model and tokenizer where the reference and `pipeline` can read them.

        Raises:
            TypeError: the pipeline follows a sentence-transformers folder, of which this would be a part only.
        """
        if self._sentence is not None:
            raise TypeError(
                "this pipeline follows a sentence-transformers folder, and model and tokenizer are only a part of it; "
                "copy the folder or use `distilrt pack`, or save pipe.model and pipe.tokenizer alone"
            )
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _run(self, inputs: Iterable[Any], params: Mapping[str, Any], **options: Any) -> Iterator[Any]:
        task = self._kind(self.tokenizer, self.model.config, self._sentence)
        return tasks.run(self.model, task, inputs, params, **options)

    def __repr__(self) -> str:
        return f"Pipeline(task={self.task!r}, model={self.model.architecture}, params={self.params})"


def _inputs(task: str, args: tuple[Any, ...], params: dict[str, Any]) -> Any:
    """The inputs of a call, taken out of its arguments; other positional ones become parameters."""
    if task == "question-answering":
        if len(args) == 2:
            params |= {"question": args[0], "context": args[1]}
            args = ()
        if not args and {"question", "context"} <= params.keys():
            return _questions(params.pop("question"), params.pop("context"))
    if task == "zero-shot-classification" and len(args) == 2:
        params["candidate_labels"] = args[1]
        args = args[:1]
    given = "sequences" if task == "zero-shot-classification" and "sequences" in params else "inputs"
    if not args and given in params:
        return params.pop(given)
    if len(args) != 1:
        raise TypeError(f"{task} takes its inputs as one positional argument, found {len(args)}")
    return args[0]


def _questions(question: Any, context: Any) -> Any:
    """A question and its context, or many: each with its own context, or all with one."""
    if not isinstance(question, list | tuple):
        return {"question": question, "context": context}
    contexts = [context] * len(question) if isinstance(context, str) else list(context)
    if len(contexts) != len(question):
        raise ValueError(
            f"there are {len(question)} questions but {len(contexts)} contexts; give one context, or as many"
        )
    return [{"question": one, "context": other} for one, other in zip(question, contexts, strict=True)]


def _unfolded(task: type[tasks.Task], params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with all names known, without folds and without those that mean nothing here.

    Raises:
        ValueError: an unknown name, one that is called otherwise here, or one given twice.
    """
    unfolded: dict[str, Any] = {}
    folds = [fold for fold in _FOLDS if fold in params]
    for name, value in [*params.items(), *(pair for fold in folds for pair in (params[fold] or {}).items())]:
        if name in folds or (name in _WITHOUT_EFFECT and name not in task.params):
            continue
        if name in _ELSEWHERE:
            if value:
                raise ValueError(f"{task.name} has no parameter {name!r}: {_ELSEWHERE[name]}")
            continue
        if name in unfolded:
            raise ValueError(f"{name} is given twice, by itself and in {folds[0]}")
        unfolded[name] = value
    own = {"return_tensors"} if task.name == "feature-extraction" else set()
    task.check_names(unfolded.keys() - own)
    return unfolded


def _iterated(inputs: Any) -> Iterable[Any]:
    """The items of an iterable, or of what has only a length and items by number, as torch's datasets may."""
    if not hasattr(inputs, "__iter__") and hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
        return (inputs[i] for i in range(len(inputs)))
    try:
        items: Iterator[Any] = iter(inputs)
    except TypeError:
        raise TypeError(
            f"inputs must be one input, a list of them or an iterable, found {type(inputs).__name__}"
        ) from None
    return items


def _as_tensor(answer: Any) -> Any:
    if isinstance(answer, InvalidInput):
        return answer
    import torch

    return torch.tensor(answer)
