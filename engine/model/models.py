"""The model classes, with the reference's names, signatures and outputs: padded arrays in, padded arrays out.

Lists, NumPy arrays, tensors, padding and labels end at the models; the layers below see packed rows alone.

Every `forward` takes the reference's arguments in the reference's order:

    input_ids: `[batch_size, seq_len]` token ids; or None with `inputs_embeds`.
    attention_mask: `[batch_size, seq_len]` of 0 and 1 in any pattern; None: all 1. Outputs at masked positions are 0.
    inputs_embeds: `[batch_size, seq_len, hidden_size]` in place of the looked-up word embeddings.
    position_ids: `[batch_size, seq_len]`, `[1, seq_len]` or `[seq_len]`; None: 0, 1, 2, …
    token_type_ids: `[batch_size, seq_len]` of a BERT, None: 0; ignored where the model has none, as in the reference.
    output_hidden_states, output_attentions, return_dict: None: what the config says. Indices in place of True leave
        None in the place of the other hidden states.

and raises `InvalidInput` for a wrong shape, dtype or value and `TooLong` for a position that the model does not have.
Outputs are of the kind of `input_ids` (or `inputs_embeds`): torch tensors on its device, else NumPy arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from distilrt.batch import PaddedInputs
from distilrt.eager import eager
from distilrt.errors import CheckpointError
from distilrt.model import outputs
from distilrt.model.architecture import with_pooler
from distilrt.model.array_kinds import as_tensor
from distilrt.model.base_model import BaseModel
from distilrt.model.bert_config import NEXT_SENTENCE
from distilrt.model.config import DistilBertConfig

if TYPE_CHECKING:
    from typing_extensions import Self

_Output = TypeVar("_Output", bound=outputs.ModelOutput)


class DistilBertModel(BaseModel[outputs.BaseModelOutput]):
    """The bare encoder. `last_hidden_state` is zero at masked positions, a masked first one included.

    A BERT whose checkpoint has a pooler also gives `pooler_output` `[batch_size, hidden_size]`, of position 0 even
    where that is masked.
    """

    architecture = "DistilBertModel"

    @eager
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        position_ids: Any = None,
        *,
        token_type_ids: Any = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> outputs.BaseModelOutput:
        """Hidden states `[batch_size, seq_len, hidden_size]`; see the module for the arguments."""
        inputs = PaddedInputs(input_ids, attention_mask, inputs_embeds, position_ids, token_type_ids)
        return self._forward(inputs, output_hidden_states, output_attentions, return_dict)

    @eager
    def first_hidden_state(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        position_ids: Any = None,
        token_type_ids: Any = None,
    ) -> Any:
        """The hidden state of position 0 `[batch_size, hidden_size]`, also where it is masked; arguments as above."""
        inputs = PaddedInputs(input_ids, attention_mask, inputs_embeds, position_ids, token_type_ids)
        run = self._encode(inputs, first_only=True)
        return run.scores if run.device is None else as_tensor(run.scores, run.device)

    __call__ = forward


class HeadModel(BaseModel[_Output]):
    """What the five classes with a head share."""

    @property
    def distilbert(self) -> DistilBertModel:
        """The encoder beneath, on the same backend; a BERT's has the pooler that its classifier has."""
        encoder = self._shared_as(DistilBertModel)
        encoder.config = with_pooler(self.config, encoder.architecture, self.weights)
        return encoder

    bert = distilbert  # its name in transformers' BERTs


class LabelledModel(HeadModel[_Output]):
    """What the four classes share whose loss takes one array of labels."""

    @eager
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        position_ids: Any = None,
        *,
        token_type_ids: Any = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> _Output:
        """Logits, and with `labels` a loss; see the class for both, and the module for the other arguments."""
        inputs = PaddedInputs(input_ids, attention_mask, inputs_embeds, position_ids, token_type_ids)
        return self._forward(inputs, output_hidden_states, output_attentions, return_dict, labels)

    __call__ = forward


class DistilBertForMaskedLM(LabelledModel[outputs.MaskedLMOutput]):
    """The encoder with a score for each word of the vocabulary at every position.

    Logits are `[batch_size, seq_len, vocab_size]`. `labels` `[batch_size, seq_len]` are word ids, or -100 where none
    counts; those at masked positions count too.
    """

    architecture = "DistilBertForMaskedLM"


class DistilBertForSequenceClassification(LabelledModel[outputs.SequenceClassifierOutput]):
    """The encoder with scores for a whole sequence, read at position 0 even where that is masked.

    Logits are `[batch_size, num_labels]`. `labels` are `[batch_size]` label ids or numbers, or
    `[batch_size, num_labels]` numbers, by `config.problem_type` (see `losses.sequence_classification`).
    """

    architecture = "DistilBertForSequenceClassification"


class BertForNextSentencePrediction(DistilBertForSequenceClassification):
    """A BERT with scores for whether the second text of a pair follows the first: label 0 says that it does.

    It is a classifier of two labels whose tensors have other names in files; it also reads them in a file of
    `BertForPreTraining`, such as the first BERTs. Logits are `[batch_size, 2]`, `labels` `[batch_size]` 0 or 1.
    """

    def __init__(self, config: Any, *args: Any, **options: Any) -> None:
        config = DistilBertConfig.of(config)
        if not config.is_bert:
            raise CheckpointError(f"{NEXT_SENTENCE} needs a BERT, and this is the config of a DistilBERT")
        super().__init__(config.replace(num_labels=2, architectures=(NEXT_SENTENCE,)), *args, **options)

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Self:
        """Load it as the other classes do, with two labels, as transformers does whatever the config says."""
        return super().from_pretrained(*args, **options | {"num_labels": 2, "architectures": (NEXT_SENTENCE,)})


class DistilBertForTokenClassification(LabelledModel[outputs.TokenClassifierOutput]):
    """The encoder with scores for each label at every position.

    Logits are `[batch_size, seq_len, num_labels]`. `labels` `[batch_size, seq_len]` are label ids, or -100 where none
    counts; those at masked positions count too.
    """

    architecture = "DistilBertForTokenClassification"


class DistilBertForMultipleChoice(LabelledModel[outputs.MultipleChoiceModelOutput]):
    """The encoder with one score for each choice, read at position 0 even where that is masked.

    Inputs have num_choices before seq_len, and logits are `[batch_size, num_choices]`. `labels` `[batch_size]` are the
    right choices. Hidden states and attentions have batch_size * num_choices sequences, and position_ids may be given
    so, as in the reference.
    """

    architecture = "DistilBertForMultipleChoice"


class DistilBertForQuestionAnswering(HeadModel[outputs.QuestionAnsweringModelOutput]):
    """The encoder with a score for each position to be the first and the last of the answer."""

    architecture = "DistilBertForQuestionAnswering"

    @eager
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        start_positions: Any = None,
        end_positions: Any = None,
        position_ids: Any = None,
        *,
        token_type_ids: Any = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> outputs.QuestionAnsweringModelOutput:
        """Start and end logits, each `[batch_size, seq_len]`; see the module for the arguments.

        `start_positions`, `end_positions` `[batch_size]`: both or no loss; one outside the sequence is left out.
        """
        inputs = PaddedInputs(input_ids, attention_mask, inputs_embeds, position_ids, token_type_ids)
        ends = start_positions, end_positions
        return self._forward(inputs, output_hidden_states, output_attentions, return_dict, *ends)

    __call__ = forward


# transformers' Auto classes: one class loads a head behind either encoder, so that only the head is left to choose.
AutoModel = DistilBertModel
AutoModelForMaskedLM = DistilBertForMaskedLM
AutoModelForMultipleChoice = DistilBertForMultipleChoice
AutoModelForNextSentencePrediction = BertForNextSentencePrediction
AutoModelForQuestionAnswering = DistilBertForQuestionAnswering
AutoModelForSequenceClassification = DistilBertForSequenceClassification
AutoModelForTokenClassification = DistilBertForTokenClassification
