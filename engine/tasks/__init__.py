"""Tasks: from a caller's text to a JSON-ready answer, equal to that of transformers' pipeline of the same name.

`TASKS` has the classes by name. An object of one belongs to a model, and `run` takes any number of inputs through it; a
server uses its `settle`, `size`, `prepare` and `answer` apart, to merge many callers' inputs.
"""

from __future__ import annotations

from distilrt.errors import InvalidParameter
from distilrt.tasks.embeddings import SENTENCE, FeatureExtraction, SentenceSimilarity, SparseEmbedding
from distilrt.tasks.fill_mask import FillMask
from distilrt.tasks.head_outputs import HeadOutputs
from distilrt.tasks.multiple_choice import MultipleChoice
from distilrt.tasks.question_answering import QuestionAnswering
from distilrt.tasks.runner import MAX_TOKENS, compute, run
from distilrt.tasks.size import Size
from distilrt.tasks.task import FIRST, Params, Prepared, Task, longest
from distilrt.tasks.task_parameters import Param
from distilrt.tasks.text_classification import TextClassification
from distilrt.tasks.token_classification import TokenClassification
from distilrt.tasks.zero_shot_classification import ZeroShotClassification

__all__ = [
    "FIRST",
    "MAX_TOKENS",
    "SENTENCE",
    "TASKS",
    "Param",
    "Params",
    "Prepared",
    "Size",
    "Task",
    "compute",
    "find",
    "longest",
    "run",
]

_ALL: tuple[type[Task], ...] = (
    TextClassification,
    FillMask,
    QuestionAnswering,
    TokenClassification,
    FeatureExtraction,
    SentenceSimilarity,
    ZeroShotClassification,
    SparseEmbedding,
    MultipleChoice,
)
TASKS: dict[str, type[Task]] = {task.name: task for task in _ALL}
TASKS |= {"sentiment-analysis": TextClassification, "ner": TokenClassification}


def find(name: str) -> type[Task]:
    """The task of that name, or for "outputs" the one of engines of any model; an InvalidParameter for others."""
    if name == HeadOutputs.name:
        return HeadOutputs
    if name not in TASKS:
        raise InvalidParameter(f"task must be one of {', '.join(TASKS)}, found {name!r}")
    return TASKS[name]
