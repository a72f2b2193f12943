"""Server processes on this machine: how each is started, when it is ready, the memory that it takes, its end."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from distilrt.bench.artefacts import artefact, last_line, make_checkpoint, worker_environment
from distilrt.checkpoint import packed
from distilrt.checkpoint.source import Source
from distilrt.model import models

HERE = Path(__file__).parent
PATIENCE = 180.0  # seconds to be ready
INFINITY = Path(".venv-infinity")


@dataclass(frozen=True)
class Kind:
    """A server to start.

    Attributes:
        dtype: that it computes in.
        command: `{python}`, `{infinity}` (folder of its environment), `{folder}`, `{packed}`, `{onnx}`, `{port}` and
            `{threads}` stand for what is known later.
        packages: whose versions tell one run from another.
        engine: the model, as in `command`, for this package's engine alone; None: it is another's server.
        wire: format that it speaks.
        ready: path that answers 200 once it serves.
        environment: variables beyond those of every engine, written as `command`.
        beside: start it in the folder with the checkpoint and `model_quantized.onnx`.
    """

    dtype: str
    command: tuple[str, ...]
    packages: tuple[str, ...]
    engine: str | None = None
    wire: str = "hf"
    ready: str = "/readyz"
    environment: tuple[tuple[str, str], ...] = ()
    beside: bool = False


def _ours(dtype: str, folder: str) -> Kind:
    return Kind(dtype, ("{python}", "-m", "distilrt", "serve", "--model", folder, "--dtype", dtype, "--port", "{port}",
                        "--threads", "{threads}"), ("distilrt",), engine=folder)  # fmt: skip


def _onnx(form: str) -> Kind:
    return Kind("int8", ("{python}", str(HERE / "onnx_server.py"), "{folder}", "{onnx}", "--port", "{port}", "--form",
                         form, "--threads", "{threads}"), ("onnxruntime", "fastapi"))  # fmt: skip


def _pipeline(dtype: str) -> Kind:
    return Kind(dtype, ("{python}", str(HERE / "pipeline_server.py"), "{folder}", "--port", "{port}", "--dtype", dtype,
                        "--threads", "{threads}"), ("transformers", "torch", "fastapi"))  # fmt: skip


def _infinity(engine: str, dtype: str) -> Kind:
    """Its warm-up sends 514 tokens, which a DistilBERT can't read; the ONNX file is optimized already.

    optimum finds an ONNX file only by a name without a folder, hence `beside`.
    """
    return Kind(dtype, ("{infinity}/bin/infinity_emb", "v2", "--model-id", ".", "--served-model-name", "default",
                        "--engine", engine, "--device", "cpu", "--no-model-warmup", "--onnx-disable-optimize",
                        "--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning"),
                ("infinity-emb", "optimum-onnx", "onnxruntime", "torch"), wire="infinity", ready="/health", beside=True,
                environment=(("DO_NOT_TRACK", "1"), ("INFINITY_HOME", "{folder}")))  # fmt: skip


KINDS: dict[str, Kind] = {
    "distilrt": _ours("int8", "{packed}"),
    "distilrt-float32": _ours("float32", "{folder}"),
    "onnx-threads": _onnx("threads"),
    "onnx-worker": _onnx("worker"),
    "infinity-optimum": _infinity("optimum", "int8"),
    "infinity-torch": _infinity("torch", "float32"),
    "pipeline": _pipeline("float32"),
    "pipeline-bfloat16": _pipeline("bfloat16"),
}


def model(cache: Path, texts: Path) -> Path:
    """DistilBERT-base with random weights, two labels and a tokenizer; `texts` has the tokenizer's files."""
    folder = make_checkpoint(cache / "distilbert-base-served")
    for name in ("tokenizer.json", "vocab.txt"):
        shutil.copy(texts / name, folder / name)
    # A BertTokenizer would give token types, which transformers' DistilBERT does not take.
    settings = json.loads((texts / "tokenizer_config.json").read_text()) | {"tokenizer_class": "DistilBertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _beside(folder: Path, onnx: Path) -> Path:
    """A folder with the checkpoint's files and the ONNX file under the name that Infinity looks for."""
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
        packed.write(out, loaded, Source(folder))
    return out


def _versions(python: Path, packages: Sequence[str]) -> str:
    """Of packages in an environment."""
    said = "import sys\nfrom importlib.metadata import version\nfor name in sys.argv[1:]: print(name, version(name))"
    done = subprocess.run([python, "-c", said, *packages], capture_output=True, text=True, check=True)
    return ", ".join(done.stdout.splitlines())


class Server:
    """One of `KINDS`, running.

    Args:
        name: its key.
        folder: the checkpoint.
        threads: of its engine. Infinity knows no such setting for ONNX Runtime, which takes every core.
        infinity: folder of Infinity's environment.

    Attributes:
        kind: of the server.
        url: where it answers.
        start_s: seconds from its start to the first answer that it is ready.
        engine: the model for this package's engine alone; None: another's server.
        version: of its packages.

    Raises:
        RuntimeError: its program is missing, it ended, or was not ready in time.
    """

    def __init__(self, name: str, folder: Path, threads: int, infinity: Path = INFINITY) -> None:
        self.name, self.kind = name, KINDS[name]
        kind = self.kind
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        known = {"folder": folder, "port": port, "threads": threads, "python": sys.executable,
                 "infinity": infinity.absolute()}  # fmt: skip
        program = Path(kind.command[0].format(**known))
        if not program.exists():
            raise RuntimeError(f"{name} is not installed: there is no {program}; make .venv-infinity/stamp")
        words = " ".join(kind.command)
        if "{onnx}" in words or kind.beside:
            known["onnx"] = artefact(folder, "onnx-int8-channels") / "model.onnx"
        if "{packed}" in words:
            known["packed"] = _packed(folder)
        command = [word.format(**known) for word in kind.command]
        self.engine = None if kind.engine is None else kind.engine.format(**known)
        self.version = _versions(program.with_name("python"), kind.packages)
        folder_of_work = _beside(folder, Path(known["onnx"])) if kind.beside else None
        environment = worker_environment(threads) | {key: value.format(**known) for key, value in kind.environment}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        start = time.perf_counter()
        self.process = subprocess.Popen(
            command, cwd=folder_of_work, env=environment, stdout=self._log, stderr=self._log
        )
        try:
            while not self._ready(port):
                if self.process.poll() is not None:
                    self._log.seek(0)
                    said = last_line(self._log.read().decode(errors="replace"))
                    raise RuntimeError(f"{name} ended with {self.process.returncode}: {said}")
                if time.perf_counter() - start > PATIENCE:
                    raise RuntimeError(f"{name} was not ready in {PATIENCE:.0f} s")
                time.sleep(0.01)
        except BaseException:
            self.close()
            raise
        self.start_s = time.perf_counter() - start

    def _ready(self, port: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", self.kind.ready)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def rss_mb(self) -> float:
        """Memory that it has now."""
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines())
        return int(fields["VmRSS"].split()[0]) / 1024

    def close(self) -> None:
        """End it, as an operator would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
