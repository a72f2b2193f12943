"""The examples in docs/deploy: their paths, ports, variables and options are the server's."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distilrt.runtime.engine import Engine
from distilrt.server.settings import ModelSettings, Settings, options

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "deploy"
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
OPTIONS = {**options(ModelSettings), **options(Settings)}
VARIABLES = {f"DISTILRT_{name.upper()}" for name, option in OPTIONS.items() if option.variable}
FLAGS = {f"--{(option.flag or name).replace('_', '-')}" for name, option in OPTIONS.items()}


def parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every object inside a document."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from parts(item)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests(path: Path, engine_of: Callable[..., Engine], client_of: Any) -> None:
    client = client_of(engine_of("DistilBertForMaskedLM"))
    documents = list(yaml.safe_load_all(path.read_text()))
    assert all({"apiVersion", "kind", "metadata", "spec"} <= set(document) for document in documents)
    found = [part for document in documents for part in parts(document)]
    probes = [part["httpGet"] for part in found if "httpGet" in part]
    names = {part["name"] for part in found if "containerPort" in part}
    assert {part["containerPort"] for part in found if "containerPort" in part} == {Settings().port}
    assert probes
    for probe in probes:
        assert client.get(probe["path"]).status_code == 200
        assert probe["port"] in (Settings().port, *names)
    for part in found:
        for variable in part.get("env", []):
            assert variable["name"] in VARIABLES
        assert {word for word in part.get("args", []) if word.startswith("-")} <= FLAGS


def test_the_deployment_waits_for_what_is_on_its_way() -> None:
    deployment = next(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    assert pod["securityContext"]["runAsNonRoot"]
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    seconds = float(given["DISTILRT_DRAIN_DELAY"]) + float(given["DISTILRT_DRAIN_TIMEOUT"])
    assert pod["terminationGracePeriodSeconds"] > seconds


def test_the_image() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    assert set(re.findall(r"DISTILRT_\w+", text)) <= VARIABLES
    assert f"DISTILRT_PORT={Settings().port}" in text
    assert f"EXPOSE {Settings().port}" in text
    extras = re.search(r"\[project.optional-dependencies\](.*?)^\[", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert extras is not None
    for extra in {name for names in re.findall(r"EXTRAS=([\w,]+)", text) for name in names.split(",")}:
        assert re.search(rf"^{extra} = \[", extras[1], re.M)
    user = text.index("\nUSER 1000\n")
    assert "RUN" not in text[user:]  # and what follows is not root's
    assert text.rstrip().endswith('ENTRYPOINT ["distilrt", "serve"]')


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.lambda"])
def test_what_images_are_made_of(name: str) -> None:
    """One stage, the wheels of `make wheels`, and files that are there and not ignored."""
    text = (FOLDER / name).read_text()
    assert re.findall(r"^(\w+)", text, re.M).count("FROM") == 1
    made = {"dist", "packed"}  # by the commands at the top
    sources = {*re.findall(r"source=([^,\s]+)", text), *re.findall(r"^COPY (\S+)", text, re.M)}
    assert "dist" in sources
    assert all((ROOT / source).exists() for source in sources - made)
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().split()
    assert not set(ignored) & {source.split("/")[0] for source in sources}


def test_the_images_health_check(address: str) -> None:
    """Its words, run as they are: they find a server that lives, and fail where there is none."""
    text = (FOLDER / "Dockerfile").read_text().replace("\\\n", "")
    found = re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", text, re.M)
    assert found is not None
    python, *arguments = json.loads(found[1])
    assert python == "python"
    with socket.socket() as unused:  # bound, and nobody listens
        unused.bind(("127.0.0.1", 0))
        for port, alive in ((address.rpartition(":")[2], True), (str(unused.getsockname()[1]), False)):
            done = subprocess.run([sys.executable, *arguments], env=os.environ | {"DISTILRT_PORT": port},
                                  capture_output=True)  # fmt: skip
            assert (done.returncode == 0) == alive
