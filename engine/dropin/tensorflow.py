"""The reference's TensorFlow classes, which transformers 5 no longer has: TensorFlow tensors in and out.

`from_pretrained` and everything else but the call is that of the classes in `distilrt.model.models`: any format is
read, `tf_model.h5` too, and needs no TensorFlow for it. The call has the arguments, the fields and the losses of
transformers 4.57's TensorFlow classes:

    input_ids: `[batch_size, seq_len]` tensor, array or list of lists; or a dict of arguments; or a list or tuple of
        tensors and arrays, the arguments in order.
    attention_mask: `[batch_size, seq_len]` of 0 and 1; None: all 1. Outputs at masked positions are 0.
    inputs_embeds: `[batch_size, seq_len, hidden_size]` in place of the looked-up word embeddings.
    output_attentions, output_hidden_states, return_dict: None: what the config says.

It works eagerly, in a `tf.function` that XLA does not compile, and in `tf.data.Dataset.map`; there an error of ours
arrives as one of TensorFlow's, with our message in it. It can't be differentiated, trained or exported as a SavedModel.
Safe to call from many threads.

Raises, beyond what the models raise, TypeError: `training`, `head_mask`, an unknown argument, or a ragged tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from distilrt.dropin.output_fields import Shapes, flat, nested, output_shapes
from distilrt.errors import InvalidInput
from distilrt.model import losses, models
from distilrt.model.heads import HEADS

try:
    import tensorflow as tf
except ImportError as error:
    raise ImportError("the TensorFlow classes need TensorFlow: pip install 'distilrt[tensorflow]'; the classes without "
                      "TF in their names do not") from error  # fmt: skip

Array = npt.NDArray[Any]

_as_written = tf.autograph.experimental.do_not_convert  # or AutoGraph rewrites what a tf.function calls
_KERAS = ("build", "compile", "evaluate", "export", "fit", "predict", "save", "summary")


class _TensorFlowModel(tf.Module):  # type: ignore[misc]
    """What the four classes share: the way from TensorFlow's tensors to NumPy and back."""

    def _run(self: Any, given: dict[str, Any]) -> Any:
        """Compute one call, given its arguments by name."""
        arguments = _sorted_out({name: value for name, value in given.items() if name != "self"})
        if arguments.pop("training"):
            raise TypeError("distilrt only infers: training must be False; train with transformers 4, and load the "
                            "result here")  # fmt: skip
        if arguments.pop("head_mask") is not None:
            raise TypeError("head_mask is not supported, as in the reference's TensorFlow classes; leave it out")
        flags = {
            name: getattr(self.config, name) if (flag := arguments.pop(name)) is None else bool(flag)
            for name in ("output_hidden_states", "output_attentions", "return_dict")
        }
        as_dict = flags.pop("return_dict")
        tensors = {name: _tensor(name, value) for name, value in arguments.items() if value is not None}
        if ("input_ids" in tensors) == ("inputs_embeds" in tensors):
            raise InvalidInput("give exactly one of input_ids and inputs_embeds")
        embeds = tensors.pop("inputs_embeds", None)
        if embeds is None:
            arrays = self._apply(tensors, flags)
        else:
            arrays = _not_differentiable(lambda given: self._apply(tensors | {"inputs_embeds": given}, flags), embeds)
        output = HEADS[self.architecture].output(**nested(self._shapes(tensors, flags), arrays))
        return output if as_dict else output.to_tuple()

    def _apply(self: Any, tensors: Mapping[str, Any], flags: Mapping[str, bool]) -> tuple[Any, ...]:
        """The outputs one after another, computed now, or whenever the graph that is being traced runs."""
        dtype = np.dtype("float64" if self.dtype == "float64" else "float32")

        def compute(*arrays: Array) -> list[Array]:
            fields = self.forward(**dict(zip(tensors, arrays, strict=True)), **flags, return_dict=True)
            return [np.asarray(part, dtype) for part in flat(fields)]

        if tf.executing_eagerly():
            return tuple(tf.convert_to_tensor(part) for part in compute(*(value.numpy() for value in tensors.values())))
        shapes = self._shapes(tensors, flags)
        found = tf.numpy_function(compute, list(tensors.values()), [dtype] * len(shapes), stateful=False)
        given = tensors["input_ids"] if "input_ids" in tensors else tensors["inputs_embeds"]
        batch_size, seq_len = (None, None) if given.shape.rank is None else given.shape.as_list()[:2]
        sizes = {"batch_size": batch_size, "sequences": batch_size, "seq_len": seq_len}
        for part, shape in zip(found, shapes.values(), strict=True):
            part.set_shape([sizes.get(size, size) for size in shape])
        return tuple(found)

    _loss_shape: ClassVar[tuple[Any, ...]] = ("batch_size",)

    def _shapes(self: Any, tensors: Mapping[str, Any], flags: Mapping[str, bool]) -> Shapes:
        """Name and dimensions of every output, in order; see `output_shapes`."""
        wanted = flags["output_hidden_states"], flags["output_attentions"]
        shapes = output_shapes(self.architecture, self.config, tensors, *wanted)
        return shapes | {"loss": self._loss_shape} if "loss" in shapes else shapes

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Mapping[str, Any]:
        """TensorFlow asks for these when it saves an object that holds this one."""
        if save_type == "savedmodel":
            raise TypeError(f"{type(self).__name__} can't be part of a SavedModel: it computes outside TensorFlow's "
                            "graph. Save with save_pretrained, and load with from_pretrained")  # fmt: skip
        return {}

    @property
    def variables(self) -> tuple[()]:
        """None: the weights are not TensorFlow's, so a Keras model that holds this one has only its own to train."""
        return ()

    trainable_variables = non_trainable_variables = variables
    trainable_weights = non_trainable_weights = variables

    def __getattr__(self, name: str) -> NoReturn:
        if name in _KERAS:
            raise AttributeError(f"{type(self).__name__} has no {name!r}: it is not a Keras model and only infers; "
                                 "call it on each batch, and train with transformers 4")  # fmt: skip
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


class TFDistilBertModel(models.DistilBertModel, _TensorFlowModel):
    """The bare encoder, `last_hidden_state` `[batch_size, seq_len, hidden_size]`; see the module for arguments."""

    def call(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
    ) -> Any:
        """A `BaseModelOutput` of tensors, or a tuple of them."""
        return self._run(locals())

    __call__ = call = _as_written(call)


class TFDistilBertForMaskedLM(models.DistilBertForMaskedLM, _TensorFlowModel):
    """Scores for each word, `logits` `[batch_size, seq_len, vocab_size]`; see the module for arguments.

    `loss` `[1]`: mean over the `labels` `[batch_size, seq_len]` that are not -100, those at masked positions included.
    """

    _loss_shape = (1,)

    def call(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Any = None,
        training: bool = False,
    ) -> Any:
        """The output of the reference's class, of tensors, or a tuple of them."""
        return self._run(locals())

    __call__ = call = _as_written(call)

    def _loss(self, scores: Array, *labels: Any) -> Array:
        if self.config.extra.get("tf_legacy_loss"):
            raise TypeError("config.tf_legacy_loss, one loss for each label, is not supported; set it to false, or "
                            "compute the loss from the logits")  # fmt: skip
        return np.reshape(super()._loss(scores, *labels), 1)


class TFDistilBertForSequenceClassification(models.DistilBertForSequenceClassification, _TensorFlowModel):
    """Scores for a whole sequence, `logits` `[batch_size, num_labels]`; see the module for arguments.

    `loss` `[batch_size]`: cross entropy of the integer `labels` `[batch_size]`; with one label squared error of the
    numbers. As in the reference, `config.problem_type` does not matter.
    """

    call: Any = TFDistilBertForMaskedLM.call
    __call__ = call

    def _loss(self, scores: Array, *labels: Any) -> Array:
        loss = losses.squares_of_each_sequence if self.config.num_labels == 1 else losses.of_each_sequence
        return loss(scores, *labels)


class TFDistilBertForQuestionAnswering(models.DistilBertForQuestionAnswering, _TensorFlowModel):
    """Scores of each position to begin and to end the answer, `start_logits` and `end_logits` `[batch_size, seq_len]`.

    `loss` `[batch_size]`: mean of the cross entropies of `start_positions` and `end_positions`, each `[batch_size]` and
    in the sequence. See the module for the other arguments.
    """

    def call(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        start_positions: Any = None,
        end_positions: Any = None,
        training: bool = False,
    ) -> Any:
        """A `QuestionAnsweringModelOutput` of tensors, or a tuple of them."""
        return self._run(locals())

    __call__ = call = _as_written(call)

    def _loss(self, scores: Array, *labels: Any) -> Array:
        starts = losses.of_each_sequence(scores[..., 0], labels[0], "start_positions")
        return (starts + losses.of_each_sequence(scores[..., 1], labels[1], "end_positions")) / 2


def _sorted_out(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments with those that came as a dict or a list in place of `input_ids` under their own names."""
    first = arguments["input_ids"]
    if isinstance(first, (list, tuple)) and any(tf.is_tensor(item) or isinstance(item, np.ndarray) for item in first):
        names = list(arguments)
        if len(first) > len(names):
            raise TypeError(f"found {len(first)} inputs; there are {len(names)} arguments: {', '.join(names)}")
        first = dict(zip(names, first, strict=False))
    elif not isinstance(first, Mapping):
        return arguments
    unknown = [name for name in first if name not in arguments and name != "token_type_ids"]
    if unknown:
        raise TypeError(f"unknown argument {unknown[0]!r} in the inputs; known are {', '.join(arguments)}")
    return arguments | {"input_ids": None} | dict(first)


def _tensor(name: str, value: Any) -> Any:
    if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
        raise TypeError(f"{name} is a {type(value).__name__}; pad it with to_tensor(), and give an attention_mask")
    if any(cls.__name__ == "KerasTensor" for cls in type(value).__mro__):
        raise TypeError(f"{name} is a KerasTensor, which has no values yet; call this model in the call() of a layer "
                        "of your own, or in a keras.layers.Lambda")  # fmt: skip
    return tf.convert_to_tensor(value)


def _not_differentiable(compute: Any, embeds: Any) -> Any:
    """`compute(embeds)`, whose gradients TensorFlow would otherwise silently take for None."""

    def gradient(*_: Any) -> NoReturn:
        raise TypeError("distilrt only infers and has no gradients; use transformers 4 for what needs them")

    return tf.custom_gradient(lambda given: (compute(given), gradient))(embeds)
