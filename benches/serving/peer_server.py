"""Peers behind FastAPI: ONNX Runtime and tokenizers, as a careful engineer writes it by hand, or the pipeline of
transformers, the first thing that everybody writes. A plain `def` endpoint runs in FastAPI's thread pool.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import fastapi
import numpy as np
import typer
import uvicorn


def onnx_runtime(folder: Path, model: Path, threads: int) -> Callable[[dict[str, Any]], Any]:
    """Raw scores, single texts without padding."""
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    tokenizer.no_padding()
    config = json.loads((folder / "config.json").read_text())
    labels = list(config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"}).values())

    def answer(body: dict[str, Any]) -> Any:
        ids = np.array([tokenizer.encode(body["inputs"]).ids], np.int64)
        (logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        scored = [{"label": label, "score": float(x)} for label, x in zip(labels, logits[0], strict=True)]
        return [sorted(scored, key=lambda item: -item["score"])]

    return answer


def pipeline(folder: Path, dtype: str, threads: int) -> Callable[[dict[str, Any]], Any]:
    """Whatever the parameters of the request ask for."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    pipe: Any = transformers.pipeline("text-classification", model=str(folder), dtype=getattr(torch, dtype))
    return lambda body: [pipe(body["inputs"], **body.get("parameters", {}))]


def main(
    folder: Path,
    port: Annotated[int, typer.Option()],
    onnx: Annotated[Path | None, typer.Option(help="Model for ONNX Runtime; default: the pipeline.")] = None,
    dtype: str = "float32",
    threads: int = 2,
) -> None:
    """Serve `POST /`, as Hugging Face's Inference API does."""
    answer = onnx_runtime(folder, onnx, threads) if onnx else pipeline(folder, dtype, threads)
    app = fastapi.FastAPI()

    @app.post("/")
    def classify(body: dict[str, Any]) -> Any:
        return answer(body)

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ok"}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    typer.run(main)
