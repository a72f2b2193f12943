"""Tasks: from a caller's text to a JSON-ready answer, equal to that of transformers' pipeline of the same name.

`TASKS` has them by name. `run` takes any number of inputs through one of them; a server takes `prepare`, `compute` and
`answer` apart to merge many callers' inputs.
"""

from __future__ import annotations

from distilrt.errors import InvalidParameter
from distilrt.tasks.base import FIRST, Param, Prepared, Task, longest
from distilrt.tasks.embeddings import SENTENCE, FeatureExtraction, SentenceSimilarity
from distilrt.tasks.fill_mask import FillMask
from distilrt.tasks.multiple_choice import MultipleChoice
from distilrt.tasks.outputs import Outputs
from distilrt.tasks.question_answering import QuestionAnswering
from distilrt.tasks.runner import MAX_TOKENS, compute, run
from distilrt.tasks.size import Size
from distilrt.tasks.sparse_embedding import SparseEmbedding
from distilrt.tasks.text_classification import TextClassification
from distilrt.tasks.token_classification import TokenClassification
from distilrt.tasks.zero_shot_classification import ZeroShotClassification

__all__ = [
    "FIRST",
    "MAX_TOKENS",
    "SENTENCE",
    "TASKS",
    "Param",
    "Prepared",
    "Size",
    "Task",
    "compute",
    "find",
    "longest",
    "run",
]

_ALL: tuple[Task, ...] = (
    TextClassification(),
    FillMask(),
    QuestionAnswering(),
    TokenClassification(),
    FeatureExtraction(),
    SentenceSimilarity(),
    ZeroShotClassification(),
    SparseEmbedding(),
    MultipleChoice(),
)
TASKS: dict[str, Task] = {task.name: task for task in _ALL}
TASKS |= {"sentiment-analysis": TASKS["text-classification"], "ner": TASKS["token-classification"]}

_OUTPUTS = Outputs()


def find(name: str) -> Task:
    """The task of that name, or for "outputs" that which engines of any model have.

    Raises:
        InvalidParameter: there is none.
    """
    if name == _OUTPUTS.name:
        return _OUTPUTS
    if name not in TASKS:
        raise InvalidParameter(f"task must be one of {', '.join(TASKS)}, found {name!r}")
    return TASKS[name]
