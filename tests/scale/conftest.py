"""A Ray of this machine's own for the tests."""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HUB_ID = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
LABELS = {"0": "NEGATIVE", "1": "POSITIVE"}


@pytest.fixture(scope="session")
def classifier(folder_of: Callable[..., Path]) -> Path:
    """The folder of a tiny sentiment classifier."""
    return folder_of("DistilBertForSequenceClassification", id2label=LABELS)


@pytest.fixture(scope="session")
def cluster(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of Serve's proxy in a Ray of two CPUs that knows HUB_ID offline and ends with the tests."""
    ray = pytest.importorskip("ray", reason="needs Ray: make test-ray")
    from ray import serve

    home = tmp_path_factory.mktemp("hub")
    repository = home / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(classifier, repository / "snapshots" / ("0" * 40))
    variables = {
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray leaves one in the home folder
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "distilrt.scale.ray_proxy.middlewares",
    }
    sockets = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # their paths must be short
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        context = ray.init(
            num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False,
            _node_ip_address="127.0.0.1", _temp_dir=sockets,
        )  # fmt: skip
        patch.setenv("RAY_ADDRESS", context.address_info["address"])
        try:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()
            ray.shutdown()
            shutil.rmtree(sockets, ignore_errors=True)


@pytest.fixture
def run(cluster: str) -> Iterator[Callable[..., str]]:
    """Runs `app(…)` until the end of the test; returns its address."""
    from ray import serve

    from distilrt.scale.ray_serve import app

    def start(*args: Any, **options: Any) -> str:
        serve.run(app(*args, **options), name="test", route_prefix="/")
        return cluster

    yield start
    serve.delete("test")
