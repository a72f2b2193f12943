"""Which status and body an error gets."""

from __future__ import annotations

import logging

import orjson
import pytest

from distilrt.errors import (
    BackendError,
    DeadlineExceeded,
    InvalidInput,
    InvalidParameter,
    NotReady,
    Overloaded,
    TooLarge,
    TooLong,
)
from distilrt.server import statuses

CASES: list[tuple[Exception, int, str]] = [
    (statuses.Malformed("x"), 400, "Malformed"),
    (statuses.Unauthorized("x"), 401, "Unauthorized"),
    (statuses.UnknownModel("x"), 404, "UnknownModel"),
    (statuses.TooSlow("x"), 408, "TooSlow"),
    (TooLarge("x"), 413, "TooLarge"),
    (statuses.Unprocessable("x"), 422, "Unprocessable"),
    (InvalidInput("x"), 422, "InvalidInput"),
    (TooLong("x"), 422, "TooLong"),
    (InvalidParameter("x"), 422, "InvalidParameter"),
    (Overloaded("x", 2.1), 429, "Overloaded"),
    (BackendError("x"), 500, "BackendError"),
    (NotReady("x"), 503, "NotReady"),
    (DeadlineExceeded("x"), 504, "DeadlineExceeded"),
]


@pytest.mark.parametrize(("error", "status", "kind"), CASES, ids=[case[2] for case in CASES])
def test_statuses(error: Exception, status: int, kind: str) -> None:
    response = statuses.response(error)
    assert response.status_code == status
    assert orjson.loads(response.body) == {"error": "x", "error_type": kind}
    assert response.headers.get("retry-after") == {429: "3", 503: "1"}.get(status)
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert response.headers.get("connection") == ("close" if status in (408, 413) else None)


def test_what_nobody_foresaw_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        response = statuses.response(KeyError("a secret"))
    assert response.status_code == 500
    assert b"secret" not in response.body
    assert "a secret" in caplog.text


def test_a_format_may_shape_the_body() -> None:
    response = statuses.response(TooLong("x"), lambda failure: [failure.status, failure.message])
    assert orjson.loads(response.body) == [422, "x"]
