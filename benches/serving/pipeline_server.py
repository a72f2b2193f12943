"""A peer: FastAPI around transformers' pipeline, the first thing that everybody writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import fastapi
import torch
import transformers
import typer
import uvicorn


def main(folder: Path, port: Annotated[int, typer.Option()], dtype: str = "float32", threads: int = 2) -> None:
    """Serve `POST /`."""
    torch.set_num_threads(threads)
    pipe: Any = transformers.pipeline("text-classification", model=str(folder), dtype=getattr(torch, dtype))
    app = fastapi.FastAPI()

    @app.post("/")
    def answer(body: dict[str, Any]) -> Any:
        return [pipe(body["inputs"], **body.get("parameters", {}))]

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ok"}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    typer.run(main)
