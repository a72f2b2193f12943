"""A peer: FastAPI around ONNX Runtime and tokenizers, as a careful engineer writes it by hand.

`--form threads`: a plain `def` endpoint, which FastAPI runs in its thread pool. `--form worker`: one thread that takes
requests in their order.
"""

from __future__ import annotations

import json
import queue
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any

import fastapi
import numpy as np
import onnxruntime
import typer
import uvicorn
from tokenizers import Tokenizer


class Model:
    """Text in, a logit of each label out."""

    def __init__(self, folder: Path, onnx: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(512)
        self._tokenizer.no_padding()
        config = json.loads((folder / "config.json").read_text())
        self._labels = list(config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"}).values())

    def __call__(self, text: str) -> list[list[dict[str, Any]]]:
        """What Hugging Face's Inference API answers, with raw scores."""
        ids = np.array([self._tokenizer.encode(text).ids], np.int64)
        (logits,) = self._session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        scored = [{"label": label, "score": float(x)} for label, x in zip(self._labels, logits[0], strict=True)]
        return [sorted(scored, key=lambda item: -item["score"])]


class Worker:
    """The model on one thread."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._jobs: queue.SimpleQueue[tuple[str, Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            text, future = self._jobs.get()
            try:
                future.set_result(self._model(text))
            except Exception as error:
                future.set_exception(error)

    def submit(self, text: str) -> Future[Any]:
        """The answer, later."""
        future: Future[Any] = Future()
        self._jobs.put((text, future))
        return future


def main(
    folder: Path, onnx: Path, port: Annotated[int, typer.Option()], form: str = "threads", threads: int = 2
) -> None:
    """Serve `POST /`."""
    import asyncio

    app, model = fastapi.FastAPI(), Model(folder, onnx, threads)
    if form == "threads":

        @app.post("/")
        def answer(body: dict[str, Any]) -> Any:
            return model(body["inputs"])

    else:
        worker = Worker(model)

        @app.post("/")
        async def answer_in_order(body: dict[str, Any]) -> Any:
            return await asyncio.wrap_future(worker.submit(body["inputs"]))

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ok"}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    typer.run(main)
