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
    TooLong,
)
from distilrt.server import errors

CASES: list[tuple[Exception, int, str]] = [
    (errors.Malformed("x"), 400, "Malformed"),
    (errors.Unauthorized("x"), 401, "Unauthorized"),
    (errors.UnknownModel("x"), 404, "UnknownModel"),
    (errors.TooSlow("x"), 408, "TooSlow"),
    (errors.TooLarge("x"), 413, "TooLarge"),
    (errors.Unprocessable("x"), 422, "Unprocessable"),
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
    response = errors.response(error)
    assert response.status_code == status
    assert orjson.loads(response.body) == {"error": "x", "error_type": kind}
    assert response.headers.get("retry-after") == {429: "3", 503: "1"}.get(status)
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert response.headers.get("connection") == ("close" if status in (408, 413) else None)


def test_what_nobody_foresaw_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        response = errors.response(KeyError("a secret"))
    assert response.status_code == 500
    assert b"secret" not in response.body
    assert "a secret" in caplog.text


def test_a_format_may_shape_the_body() -> None:
    response = errors.response(TooLong("x"), lambda failure: [failure.status, failure.message])
    assert orjson.loads(response.body) == [422, "x"]
