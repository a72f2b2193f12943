"""Server processes on this machine: how each is started, when it is ready, the memory that it takes, its end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from distilrt.bench.artefacts import artefact, last_line, make_checkpoint, memory_mb, worker_environment
from distilrt.checkpoint import packed
from distilrt.checkpoint.source import Source
from distilrt.model import models
from distilrt.text.tokenizer import DistilBertTokenizer

PATIENCE = 180.0  # seconds to be ready
INFINITY = Path(".venv-infinity")
PACKED, ONNX = "{packed}", "{onnx}"
_PEER = ["{python}", str(Path(__file__).with_name("peer_server.py")), "{folder}", "--threads", "{threads}"]


@dataclass(frozen=True)
class Kind:
    """A server to start.

    Attributes:
        dtype: that it computes in.
        packages: whose versions tell one run from another.
        command: without the port. `{python}`, `{infinity}` (folder of its environment), `{folder}`, `{packed}`,
            `{onnx}` and `{threads}` stand for what is known later.
        engine: the model, as in `command`, for this package's engine alone; None: it is another's server.
        wire: format that it speaks.
        ready: path that answers 200 once it serves.
    """

    dtype: str
    packages: tuple[str, ...]
    command: list[str]
    engine: str | None = None
    wire: str = "hf"
    ready: str = "/readyz"


_OURS = ["{python}", "-m", "distilrt", "serve", "--threads", "{threads}"]
KINDS: dict[str, Kind] = {
    "distilrt": Kind("int8", ("distilrt",), [*_OURS, "--model", PACKED, "--dtype", "int8"], engine=PACKED),
    "distilrt-float32": Kind("float32", ("distilrt",), [*_OURS, "--model", "{folder}"], engine="{folder}"),
    "onnx-threads": Kind("int8", ("onnxruntime", "fastapi"), [*_PEER, "--onnx", ONNX]),
    # Its warm-up sends 514 tokens, which a DistilBERT can't read; the ONNX file is optimized already.
    "infinity-optimum": Kind(
        "int8", ("infinity-emb", "optimum-onnx", "onnxruntime", "torch"),
        ["{infinity}/bin/infinity_emb", "v2", "--model-id", ".", "--served-model-name", "default", "--engine",
         "optimum", "--device", "cpu", "--no-model-warmup", "--onnx-disable-optimize", "--host", "127.0.0.1",
         "--log-level", "warning"],
        wire="infinity", ready="/health",
    ),
    **{
        f"pipeline-{dtype}": Kind(dtype, ("transformers", "torch", "fastapi"), [*_PEER, "--dtype", dtype])
        for dtype in ("float32", "bfloat16")
    },
}  # fmt: skip


@dataclass(frozen=True)
class Server:
    """One of `KINDS`, running: `start_s` seconds after its start it said that it is ready."""

    kind: Kind
    url: str
    start_s: float
    engine: str | None
    version: str
    process: subprocess.Popen[bytes]

    def rss_mb(self) -> float:
        """Memory that it has now."""
        return memory_mb("VmRSS", self.process.pid) or 0.0


@contextmanager
def serving(name: str, folder: Path, threads: int) -> Iterator[Server]:
    """Start a server, and end it as an operator would.

    Args:
        name: of `KINDS`.
        folder: the checkpoint.
        threads: of its engine. Infinity knows no such setting for ONNX Runtime, which takes every core.

    Raises:
        RuntimeError: its program is missing, it ended, or was not ready in time.
    """
    kind, is_infinity = KINDS[name], KINDS[name].wire == "infinity"
    known: dict[str, Any] = {"folder": folder, "threads": threads, "python": sys.executable,
                             "infinity": INFINITY.absolute()}  # fmt: skip
    program = Path(kind.command[0].format(**known))
    if not program.exists():
        raise RuntimeError(f"{name} is not installed: there is no {program}; make .venv-infinity/stamp")
    if ONNX in kind.command or is_infinity:
        known["onnx"] = artefact(folder, "onnx-int8-channels") / "model.onnx"
    if PACKED in kind.command:
        known["packed"] = _packed(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, command = f"http://127.0.0.1:{port}", [word.format(**known) for word in kind.command]
    own = {"DO_NOT_TRACK": "1", "INFINITY_HOME": str(folder)} if is_infinity else {}
    said = "import sys\nfrom importlib.metadata import version\nfor name in sys.argv[1:]: print(name, version(name))"
    listed = subprocess.run([program.with_name("python"), "-c", said, *kind.packages],
                            capture_output=True, text=True, check=True)  # fmt: skip
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=_with_onnx(folder, known["onnx"]) if is_infinity else None,
            env=worker_environment(threads) | own,
            stdout=log,
            stderr=log,
        )
        try:
            while not _ready(url + kind.ready):
                if process.poll() is not None:
                    log.seek(0)
                    end = last_line(log.read().decode(errors="replace"))
                    raise RuntimeError(f"{name} ended with {process.returncode}: {end}")
                if time.perf_counter() - start > PATIENCE:
                    raise RuntimeError(f"{name} was not ready in {PATIENCE:.0f} s")
                time.sleep(0.01)
            engine = kind.engine and kind.engine.format(**known)
            version = ", ".join(listed.stdout.splitlines())
            yield Server(kind, url, time.perf_counter() - start, engine, version, process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def model(cache: Path, texts: Path) -> Path:
    """DistilBERT-base with random weights and two labels, and the tokenizer of the folder `texts`."""
    folder = make_checkpoint(cache / "distilbert-base-served")
    DistilBertTokenizer.from_pretrained(texts).save_pretrained(folder)
    return folder


def _ready(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


def _with_onnx(folder: Path, onnx: Path) -> Path:
    """The checkpoint beside its ONNX file, which optimum, inside Infinity, finds only by a name without a folder."""
    made = folder.with_name(folder.name + "-onnx")
    made.mkdir(exist_ok=True)
    files = {path.name: path for path in folder.iterdir() if path.is_file()} | {"model_quantized.onnx": onnx}
    for name, path in files.items():
        (made / name).unlink(missing_ok=True)
        (made / name).symlink_to(path.resolve())
    return made


def _packed(folder: Path) -> Path:
    """The model packed in int8."""
    out = folder.with_name(folder.name + "-int8")
    if packed.find(Source(out)) is None:
        loaded = models.DistilBertForSequenceClassification.from_pretrained(folder, backend="cpu", dtype="int8")
        packed.write(out, packed.of(loaded), Source(folder))
    return out
