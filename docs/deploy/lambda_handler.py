"""A function for AWS Lambda, or another platform that starts a process for a request: the model of a packed folder.

The model is loaded when the process starts, from the folder in DISTILRT_MODELS; a packed one is mapped, not read.
DISTILRT_TASK names the task, text-classification without.
"""

from __future__ import annotations

import json
import os
from typing import Any

import distilrt
from distilrt.errors import DistilrtError

answer = distilrt.pipeline(os.environ.get("DISTILRT_TASK", "text-classification"), os.environ["DISTILRT_MODELS"])


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Answers `{"inputs": …, "parameters": {…}}`, as the event itself or as the body of a function URL's request."""
    try:
        body = json.loads(event["body"]) if "body" in event else event
        found = answer(body["inputs"], **body.get("parameters", {}))
    except (DistilrtError, ValueError, TypeError, KeyError) as error:
        return {"statusCode": 400, "body": json.dumps({"error": f"{type(error).__name__}: {error}"})}
    return {"statusCode": 200, "body": json.dumps(found, default=lambda value: value.tolist())}
