"""Makes tests/golden/tensorflow: tiny checkpoints of transformers' TensorFlow classes, and what these compute.

The classes are gone from transformers 5, so this runs in an environment of its own:

    pip install transformers==4.57.6 tensorflow-cpu==2.21.0 tf-keras==2.21.0
    TF_USE_LEGACY_KERAS=1 python tests/golden/make_tensorflow.py

For each class it writes `<class>/config.json`, `<class>/tf_model.h5` and `<class>/answers.npz`. The last has the inputs
(`input_ids`, `attention_mask`, `inputs_embeds` and labels) and the outputs by the reference's names: `logits`, `loss`,
`hidden_states.0`, …; of `inputs_embeds` under `embeds.`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import transformers

TARGET = Path(__file__).parent / "tensorflow"
SIZES: dict[str, Any] = {"vocab_size": 24, "max_position_embeddings": 10, "n_layers": 1, "n_heads": 2, "dim": 32,
                         "hidden_dim": 48}  # fmt: skip
LABELS: dict[str, dict[str, Any]] = {
    "TFDistilBertModel": {},
    "TFDistilBertForMaskedLM": {"labels": [[-100, 3, -100, 20, -100, -100], [-100, -100, 7, 0, -100, -100],
                                           [-100, -100, 1, -100, -100, 2]]},
    "TFDistilBertForSequenceClassification": {"labels": [2, 0, 1]},
    "TFDistilBertForQuestionAnswering": {"start_positions": [1, 0, 5], "end_positions": [3, 2, 5]},
}  # fmt: skip


def main() -> None:
    random = np.random.default_rng(0)
    for name, labels in LABELS.items():
        num_labels = 2 if "Question" in name else 3
        config = transformers.DistilBertConfig(**SIZES | {"num_labels": num_labels})
        model = getattr(transformers, name)(config)
        model(tf.constant([[1, 2]]))  # builds the variables
        for variable in model.weights:
            shape = variable.shape.as_list()
            scale = 1.5 * shape[0] ** -0.5 if variable.name.endswith("kernel:0") else 0.3
            variable.assign(random.standard_normal(shape) * scale + float(variable.name.endswith("gamma:0")))
        inputs = {
            "input_ids": random.integers(0, SIZES["vocab_size"], (3, 6)),
            "attention_mask": np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]]),
        }
        embeds = random.standard_normal((3, 6, SIZES["dim"])).astype(np.float32)
        given = inputs | {key: np.array(value) for key, value in labels.items()}
        answers: dict[str, Any] = dict(given) | {"inputs_embeds": embeds}
        flags = {"output_hidden_states": True, "output_attentions": True}
        store(answers, "", model({key: tf.constant(value) for key, value in given.items()}, **flags))
        store(answers, "embeds.", model(None, tf.constant(inputs["attention_mask"]), inputs_embeds=tf.constant(embeds)))
        model.save_pretrained(TARGET / name, safe_serialization=False)
        np.savez_compressed(TARGET / name / "answers.npz", **answers)


def store(answers: dict[str, Any], prefix: str, output: Any) -> None:
    """Add a model's output, a tuple of tensors item by item."""
    for key, value in output.items():
        if isinstance(value, tuple):
            answers.update({f"{prefix}{key}.{i}": item.numpy() for i, item in enumerate(value)})
        else:
            answers[prefix + key] = value.numpy()


if __name__ == "__main__":
    main()
