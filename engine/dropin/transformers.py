"""`distilrt.accelerate` for transformers' models and pipelines.

An accelerated model is a copy that shares parameters, config and submodules with the original and replaces only
`forward`: transformers' signature in, transformers' output classes out. The submodules are never run, so a hook on one
is refused. Outputs at masked positions are zero, as everywhere in distilrt.

transformers 4.57 and 5.x. Nothing of transformers is patched.
"""

from __future__ import annotations

import dataclasses
import inspect
import threading
import time
from collections import OrderedDict
from functools import cache, partialmethod, update_wrapper
from types import FunctionType
from typing import Any, NoReturn

import torch
from transformers import modeling_outputs

from distilrt import env
from distilrt.batch import PaddedInputs
from distilrt.checkpoint.weights import assemble, check_architecture
from distilrt.dropin import ops
from distilrt.dropin.copies import WAY_OUT, Accelerated, Namespace, accelerated_copy, frozen, refuse_change
from distilrt.dropin.modules import ModuleFile, Structure, check
from distilrt.dropin.output_fields import flat, nested, output_shapes
from distilrt.dropin.watch import Watch
from distilrt.eager import eager
from distilrt.model import models
from distilrt.model.architecture import CLASSIFIER
from distilrt.model.base_model import compute_fields
from distilrt.model.bert_config import NEXT_SENTENCE
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import ENCODER, HEADS
from distilrt.model.outputs import selected_states

# transformers' class to ours; a BERT is computed as the DistilBERT that it folds into.
_ARCHITECTURES = {name: name for name in HEADS} | {head.bert: name for name, head in HEADS.items()}
_ARCHITECTURES[NEXT_SENTENCE] = CLASSIFIER

_IGNORED = frozenset({"num_items_in_batch", "use_cache"})  # by these classes of transformers
_fields = eager(compute_fields)  # without the output class of ours, which would take microseconds
_attribute = object.__getattribute__  # The __getattribute__ of transformers' configs takes microseconds.


def accelerate_pipeline(pipeline: Any, backend: str, dtype: str) -> Any:
    """`accelerate` of a transformers pipeline: a copy of it around the accelerated model."""
    made = accelerated_copy(pipeline)
    made.model = accelerate_model(pipeline.model, backend, dtype)
    return made


def accelerate_model(model: Any, backend: str, dtype: str, masked_outputs: bool = False) -> Any:
    """`accelerate` of a transformers model, whose outputs at masked positions are computed if `masked_outputs`.

    Raises:
        TypeError: it is none of `_ARCHITECTURES`, or computes in another way than its class.
        CheckpointError, ValueError, BackendError: see `accelerate`.
    """
    if isinstance(model, AcceleratedModel):
        model = model.to_transformers()
    made = accelerated_copy(model, AcceleratedModel)
    reference = _reference_class(model)
    if "forward" in vars(model):
        raise TypeError(f"this {type(model).__name__} has a forward of its own, put there by device_map or another "
                        "library, which would be lost; load the model without it")  # fmt: skip
    vars(made).update(
        _request=(backend, dtype, masked_outputs), _reference=reference, _compiled_call_impl=None, training=False
    )
    made._start()
    return made


class AcceleratedModel(Accelerated):
    """The methods that an accelerated model has in place of those of its own class.

    While torch.compile captures a program, the engine's forward becomes one opaque operator of its graph.
    """

    _request: tuple[str, str, bool]
    _reference: Any  # the transformers class whose forward is computed
    _number: int  # by which operators find this model
    _lock: threading.Lock  # held while the engine is loaded
    _structure: Structure  # what the original's modules were when _engine was made
    _watch: Watch  # what the original's parameters were then
    _engine: Any
    _names: tuple[str, ...]  # positional arguments
    _known: frozenset[str]  # supported arguments
    _outputs: Any  # output class
    _fields: list[str]  # of that class
    _dtype: torch.dtype  # of the outputs
    _trainable: bool

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A function for each class, since others read from its signature what a model takes and which are its labels.
        if cls.__bases__[0] is AcceleratedModel:
            forward: Any = FunctionType(cls.forward.__code__, cls.forward.__globals__)
            cls.forward = update_wrapper(forward, cls.__bases__[1].forward)  # type: ignore[attr-defined,method-assign]

    def _start(self) -> None:
        vars(self).update(_number=ops.register(self), _lock=threading.Lock())
        self._load()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the engine and what belongs to it, which `__setstate__` makes anew."""
        kept = ("_request", "_reference")
        return {name: value for name, value in vars(self).items()
                if name in kept or name not in AcceleratedModel.__annotations__}  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        self._start()

    @property
    def engine(self) -> Any:
        """Our model, of the parameters as they are now. Safe to call from many threads."""
        if self._is_stale():
            with self._lock:
                if self._is_stale():  # and not because another thread is about to load
                    self._load()
        return self._engine

    @eager
    def _is_stale(self) -> bool:
        parameters = self._structure.parameters()
        return parameters is None or self._watch.changed(parameters)

    def _load(self) -> None:
        original = self._original
        check(original, self._reference)
        seen = Structure(original)
        watch = Watch(seen.tensors, seen.names)
        names, known, outputs = _signature(self._reference)
        parameters = list(original.parameters())
        vars(self).update(
            _modules=frozen(original._modules),
            _structure=seen,
            _watch=watch,
            _names=names,
            _known=known,
            _outputs=outputs,
            _fields=[field.name for field in dataclasses.fields(outputs)],
            _dtype=parameters[0].dtype,
            _trainable=any(parameter.requires_grad for parameter in parameters),
            _engine=_engine(original, self._reference, *self._request),
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The reference's forward; see its documentation for arguments and outputs.

        Raises:
            TypeError: an argument that is not supported, inputs that are no tensors or need gradients, training mode.
            InvalidInput, TooLong: a wrong shape, dtype or value, see `distilrt.model.models`.
        """
        if args:
            kwargs = _bound(self._names, args, kwargs)
        if self.training:  # type: ignore[attr-defined]
            raise TypeError(f"an accelerated model only infers; to train, {WAY_OUT}; to infer, call eval()")
        if not self._known.issuperset(kwargs):
            _refuse_unknown(self, kwargs, self._known)
        config, pop = self.config, kwargs.pop  # type: ignore[attr-defined]
        if (states := pop("output_hidden_states", None)) is None:
            states = _attribute(config, "output_hidden_states")
        if (attentions := pop("output_attentions", None)) is None:
            attentions = _attribute(config, "output_attentions")
        if (as_dict := pop("return_dict", None)) is None:
            as_dict = _attribute(config, "return_dict")
        _check_tensors(kwargs)
        compiling = torch.compiler.is_compiling()
        if compiling:
            fields = self._compute_opaquely(kwargs, bool(states), attentions)
        elif torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise TypeError(f"an accelerated model can't be traced by torch.jit; {WAY_OUT}, and trace that")
        else:
            fields = self._compute(kwargs, bool(states), attentions)
        if self._dtype is not torch.float32:
            fields = {name: _mapped(value, lambda tensor: tensor.to(self._dtype)) for name, value in fields.items()}
        if self._trainable and torch.is_grad_enabled() and not compiling:
            fields = _with_history(fields)
        if states and states is not True:
            fields["hidden_states"] = selected_states(fields["hidden_states"], states)
        if not as_dict:
            return tuple(fields[name] for name in self._fields if name in fields)
        return self._outputs(**fields) if compiling else _filled(self._outputs, self._fields, fields)

    def _compute(self, tensors: dict[str, Any], hidden_states: bool, attentions: bool) -> dict[str, Any]:
        """The fields of the output in float32."""
        engine, started = self.engine, time.perf_counter()
        labels = [tensors.pop(name, None) for name in HEADS[engine.architecture].labels]
        fields: dict[str, Any] = _fields(engine, PaddedInputs(**tensors), hidden_states, attentions, labels)
        self._watch.computed(time.perf_counter() - started)
        return fields

    def _compute_opaquely(self, tensors: dict[str, Any], hidden_states: bool, attentions: bool) -> dict[str, Any]:
        """`_compute` as one operator of the graph that is being captured."""
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        engine = self._engine
        outputs = output_shapes(engine.architecture, engine.config, given, hidden_states, attentions)
        return nested(outputs, torch.ops.distilrt.compute(*ops.operands(self._number, given, outputs)))

    def compute(self, tensors: dict[str, torch.Tensor], outputs: list[str]) -> list[torch.Tensor]:
        """The outputs of those names; for `ops.compute`."""
        return flat(self._compute(tensors, "hidden_states.0" in outputs, "attentions.0" in outputs))

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, torch.nn.Module | torch.nn.Parameter):
            refuse_change(self, name)
        super().__setattr__(name, value)

    def train(self, mode: bool = True) -> Any:
        """The model itself; in training mode it refuses to be called, as libraries change modes around inference."""
        vars(self)["training"] = mode
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """The model itself where `fn` (of `to`, `half`, `cuda`, …) would change nothing; refused otherwise."""
        parameter = min(self._original.parameters(), key=torch.numel)
        result = fn(parameter.detach().clone())
        if (result.device, result.dtype) != (parameter.device, parameter.dtype):
            raise TypeError(
                f"an accelerated model stays on {parameter.device} in {parameter.dtype} and can't be moved to "
                f"{result.device} or cast to {result.dtype}; {WAY_OUT}, move or cast that, then accelerate again"
            )
        return self

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Save the original, in transformers' formats."""
        return self._original.save_pretrained(*args, **kwargs)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Push the original, in transformers' formats."""
        return self._original.push_to_hub(*args, **kwargs)


accelerated = Namespace(AcceleratedModel)


for _name in ("load_state_dict", "resize_token_embeddings", "resize_position_embeddings", "set_input_embeddings",
              "set_output_embeddings", "prune_heads", "add_adapter", "load_adapter", "init_weights",
              "gradient_checkpointing_enable", "add_module", "register_module", "register_parameter",
              "set_submodule"):  # fmt: skip
    setattr(AcceleratedModel, _name, partialmethod(refuse_change, _name))


def _reference_class(model: Any) -> Any:
    """The class of transformers whose forward `model` runs."""
    cls: Any
    for cls in type(model).__mro__:
        if cls.__name__ in _ARCHITECTURES and cls.__module__.startswith("transformers.models."):
            if type(model).forward is not cls.forward:
                raise TypeError(f"{type(model).__name__} has another forward than {cls.__name__}, which accelerate "
                                f"would not run; accelerate its {cls.__name__} instead")  # fmt: skip
            return cls
    raise TypeError(f"accelerate takes {', '.join(_ARCHITECTURES)} of transformers, found {type(model).__name__}")


def _engine(model: Any, reference: Any, backend: str, dtype: str, masked_outputs: bool) -> Any:
    architecture = _ARCHITECTURES[reference.__name__]
    config = DistilBertConfig.from_dict(model.config.to_dict())
    if reference.__name__ == NEXT_SENTENCE:
        config = config.replace(num_labels=2, architectures=(NEXT_SENTENCE,))
    check_architecture(f"this {type(model).__name__}", architecture, config)
    tensors = ModuleFile(model).tensors()
    weights = assemble(tensors, architecture, config, f"this {type(model).__name__}", strict=True)
    if backend == "auto":
        backend = "cuda" if model.device.type == "cuda" else env.backend() or "cpu"
    made = getattr(models, architecture)(config, weights, backend=backend, dtype=dtype)
    made.masked_outputs = masked_outputs
    return made


@cache
def _signature(reference: Any) -> tuple[tuple[str, ...], frozenset[str], Any]:
    """Positional arguments, supported keywords, and output class of a class of transformers."""
    parameters = inspect.signature(reference.forward).parameters.values()
    names = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self")
    architecture = _ARCHITECTURES[reference.__name__]
    ours = inspect.signature(getattr(models, architecture).forward)
    output = HEADS[architecture].output.__name__  # our output classes have the names of transformers'
    if reference.__name__ == ENCODER.bert:
        output = "BaseModelOutputWithPoolingAndCrossAttentions"
    elif reference.__name__ == NEXT_SENTENCE:
        output = "NextSentencePredictorOutput"
    return names, frozenset(ours.parameters) - {"self"}, getattr(modeling_outputs, output)


def _bound(names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    if len(args) > len(names):
        raise TypeError(f"forward takes {len(names)} positional arguments, found {len(args)}")
    given = dict(zip(names, args, strict=False))
    if twice := given.keys() & kwargs.keys():
        raise TypeError(f"forward got multiple values for argument {min(twice)!r}")
    return given | kwargs


def _refuse_unknown(model: Any, kwargs: dict[str, Any], known: frozenset[str]) -> None:
    """Drop arguments that say nothing, as pipelines and trainers pass them, and refuse others."""
    for name in kwargs.keys() - known:
        value = kwargs.pop(name)
        if value is not None and value is not False and name not in _IGNORED:
            raise TypeError(f"an accelerated {type(model).__name__} does not support {name!r}, only "
                            f"{', '.join(sorted(known))}; for more {WAY_OUT}")  # fmt: skip


def _check_tensors(kwargs: dict[str, Any]) -> None:
    """Refuse what the engine would compute and transformers would not, or the other way round."""
    for name, value in kwargs.items():
        if value is None:
            continue
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} must be a torch tensor, found {type(value).__name__}")
        if value.requires_grad and torch.is_grad_enabled():
            raise TypeError(f"{name} requires a gradient, and an accelerated model computes none; {WAY_OUT}, or call "
                            "under torch.no_grad()")  # fmt: skip
    mask = kwargs.get("attention_mask")
    if mask is not None:
        ids = kwargs.get("input_ids")
        rank = kwargs["inputs_embeds"].ndim - 1 if ids is None else ids.ndim
        if mask.ndim > rank:
            raise TypeError(f"attention_mask has {mask.ndim} dimensions, and an accelerated model takes only a 0/1 "
                            f"mask of the positions; for masks of pairs of positions {WAY_OUT}")  # fmt: skip


def _mapped(value: Any, function: Any) -> Any:
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)


def _filled(outputs: Any, names: list[str], fields: dict[str, Any]) -> Any:
    """`outputs(**fields)`, without the checks of its constructor, which take longer than the rest of a call."""
    made = OrderedDict.__new__(outputs)
    attributes = vars(made)
    for name in names:
        attributes[name] = value = fields.get(name)
        if value is not None:
            OrderedDict.__setitem__(made, name, value)
    return made


class _NoGradient(torch.autograd.Function):
    """Gives outputs the history that the reference's have, so that asking for gradients names the way out."""

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> NoReturn:
        raise TypeError(f"an accelerated model computes no gradients; to train, {WAY_OUT}")


def _with_history(fields: dict[str, Any]) -> dict[str, Any]:
    tensors: list[torch.Tensor] = []
    for value in fields.values():
        tensors.extend(value if isinstance(value, tuple) else [value])
    anchor = torch.zeros((), requires_grad=True)
    tracked = iter(_NoGradient.apply(anchor, tensors))  # type: ignore[no-untyped-call]
    return {name: _mapped(value, lambda _: next(tracked)) for name, value in fields.items()}
