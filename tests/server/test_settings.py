"""The server's settings: defaults, variables, and what is refused."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from distilrt.server.settings import ModelSettings, Settings

VARIABLES = {
    "DISTILRT_HOST": "::1",
    "DISTILRT_PORT": "0",
    "DISTILRT_API_KEY": "secret",
    "DISTILRT_MAX_BODY_BYTES": "5",
    "DISTILRT_MAX_INPUTS": "6",
    "DISTILRT_MAX_TOKENS": "10",
    "DISTILRT_TRUNCATE": "true",
    "DISTILRT_DEADLINE": "0.5",
    "DISTILRT_BODY_TIMEOUT": "7",
    "DISTILRT_KEEP_ALIVE": "11",
    "DISTILRT_MAX_CONNECTIONS": "12",
    "DISTILRT_DRAIN_DELAY": "0",
    "DISTILRT_DRAIN_TIMEOUT": "8",
    "DISTILRT_LOG_FORMAT": "json",
}


def test_every_setting_has_a_variable_and_what_is_given_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.from_env() == Settings()
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    found = Settings.from_env(port=None, max_inputs=9)
    assert asdict(found) == {
        "host": "::1",
        "port": 0,
        "api_key": "secret",
        "max_body_bytes": 5,
        "max_inputs": 9,
        "max_tokens": 10,
        "truncate": True,
        "deadline": 0.5,
        "body_timeout": 7.0,
        "keep_alive": 11.0,
        "max_connections": 12,
        "drain_delay": 0.0,
        "drain_timeout": 8.0,
        "log_format": "json",
    }


def test_variables_of_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ModelSettings.from_env() == ModelSettings()
    monkeypatch.setenv("DISTILRT_MODELS", "a=./x  org/y")
    monkeypatch.setenv("DISTILRT_DTYPE", "int8")
    monkeypatch.setenv("DISTILRT_MAX_BATCH_TOKENS", "1")
    monkeypatch.setenv("DISTILRT_MAX_QUEUE_TOKENS", "2")
    monkeypatch.setenv("DISTILRT_MAX_DELAY", "0.5")
    assert ModelSettings.from_env(backend="cpu", max_batch_tokens=3) == ModelSettings(
        models=["a=./x", "org/y"], backend="cpu", dtype="int8", max_batch_tokens=3, max_queue_tokens=2, max_delay=0.5
    )


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"port": 65536}, "port must be an integer from 0 to 65535, found 65536"),
    ({"port": True}, "port must be"),
    ({"max_inputs": 0}, "max_inputs must be an integer of at least 1, found 0"),
    ({"max_body_bytes": "1"}, "max_body_bytes must be"),
    ({"deadline": 0}, "deadline must be a number of seconds, more than 0, found 0"),
    ({"body_timeout": None}, "body_timeout must be"),
    ({"drain_delay": -1}, "drain_delay must be a number of seconds, at least 0, found -1"),
    ({"drain_timeout": float("inf")}, "drain_timeout must be"),
    ({"api_key": ""}, "api_key must be printable ASCII"),
    ({"api_key": "schlüssel"}, "api_key must be printable ASCII"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**change)


def test_an_empty_variable_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILRT_API_KEY", "")
    with pytest.raises(ValueError, match="DISTILRT_API_KEY"):
        Settings.from_env()
    assert Settings.from_env(api_key="secret").api_key == "secret"


@pytest.mark.parametrize(("name", "value"), [("PORT", "x"), ("DEADLINE", "soon"), ("TRUNCATE", "yes"), ("PORT", "-1")])
def test_variables_of_a_wrong_type(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"DISTILRT_{name}", value)
    with pytest.raises(ValueError, match=f"DISTILRT_{name} must be .*, found '{value}'"):
        Settings.from_env()
