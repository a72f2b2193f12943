"""`/openapi.json`, made from the operations, and `/docs`, the same as a page that loads nothing else."""

from __future__ import annotations

import html
import re
from http import HTTPStatus
from typing import Any, get_type_hints

import msgspec
import orjson
from starlette.responses import HTMLResponse, Response

import distilrt
from distilrt.server.call import Call
from distilrt.server.operation import Operation
from distilrt.server.serving import Serving

_ANY = "#/components/schemas/{name}"
# Statuses of an error, of every route and of those with a body; docs/serving.md says when.
_ERRORS = (401, 404)
_BODY_ERRORS = (400, 408, 413, 422, 424, 429, 500, 503, 504)
_HEADERS = [
    ("x-priority", {"type": "integer", "minimum": -10, "maximum": 10}, "A higher one goes before others."),
    ("x-deadline-ms", {"type": "integer", "minimum": 1}, "How long the request may wait."),
]


async def _document(call: Call) -> Response:
    return Response(orjson.dumps(describe(call.serving)), media_type="application/json")


async def _docs(call: Call) -> Response:
    return HTMLResponse(render(describe(call.serving)))


def describe(serving: Serving) -> dict[str, Any]:
    """The OpenAPI document of a server's routes."""
    kinds_of = ((each.body, each.answer, _error(each)) for each in serving.operations)
    used = {id(kind): kind for kinds in kinds_of for kind in kinds if kind is not None}
    found, components = msgspec.json.schema_components(list(used.values()), ref_template=_ANY)
    schemas = dict(zip(used, found, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for each in serving.operations:
        path = re.sub(r"\{(\w+):path\}", r"{\1}", each.path)
        described = _operation(each, schemas, serving.settings.api_key is not None)
        paths.setdefault(path, {})[each.method.lower()] = described
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "distilrt",
            "version": distilrt.__version__,
            "description": f"DistilBERT models: {', '.join(serving.engines)}.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if serving.settings.api_key is not None:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


def _error(each: Operation) -> Any:
    return get_type_hints(each.shape)["return"]


def _operation(each: Operation, schemas: dict[int, Any], key: bool) -> dict[str, Any]:
    def content(kind: Any) -> dict[str, Any]:
        return {"application/json": {"schema": schemas[id(kind)]}}

    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"\{(\w+)", each.path)
    ]
    text = {each.media_type: {"schema": {"type": "string"}}}
    answer = text if each.answer is None else content(each.answer)
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": answer}}
    statuses = _ERRORS + _BODY_ERRORS if each.body is not None else _ERRORS
    for status in statuses:
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": content(_error(each))}
    if each.body is None and each.answer is not None:  # a probe says 503 in its answer's form
        responses["503"] = {"description": HTTPStatus(503).phrase, "content": content(each.answer)}
    operation: dict[str, Any] = {"summary": each.summary, "responses": responses}
    if each.body is not None:
        operation["requestBody"] = {"required": True, "content": content(each.body)}
        parameters += [
            {"name": name, "in": "header", "required": False, "schema": schema, "description": text}
            for name, schema, text in _HEADERS
        ]
    if parameters:
        operation["parameters"] = parameters
    if key and not each.public:
        operation["security"] = [{"key": []}]
    return operation


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>distilrt: routes</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
summary {{ cursor: pointer; padding: .3rem 0; border-top: 1px solid #8884; }}
code {{ font-family: ui-monospace, monospace; }}
pre {{ overflow: auto; padding: .5rem; background: #8881; font-size: 13px; }}
.method {{ display: inline-block; width: 4rem; font-weight: bold; }}
:root {{ color-scheme: light dark; }}
</style>
<h1>distilrt {version}</h1>
<p>{description} The same as a document for programs: <a href="openapi.json">openapi.json</a>.</p>
<h2>Routes</h2>
{routes}
<h2>Types</h2>
{types}
</html>
"""


def render(document: dict[str, Any]) -> str:
    """The OpenAPI document as a page."""
    found = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts = {
                "Headers and path": operation.get("parameters"),
                "Body": operation.get("requestBody", {}).get("content"),
                "Answers": operation["responses"],
            }
            inside = "".join(f"<h4>{title}</h4>{_listing(part)}" for title, part in parts.items() if part)
            found.append(
                f'<details><summary><span class="method">{method.upper()}</span> <code>{html.escape(path)}'
                f"</code> {html.escape(operation['summary'])}</summary>{inside}</details>"
            )
    types = [
        f'<details id="{name}"><summary><code>{name}</code></summary>{_listing(kind)}</details>'
        for name, kind in document["components"]["schemas"].items()
    ]
    info = document["info"]
    return _PAGE.format(
        version=html.escape(info["version"]),
        description=html.escape(info["description"]),
        routes="\n".join(found),
        types="\n".join(types),
    )


def _listing(value: Any) -> str:
    """JSON, in which the types' names lead to them."""
    text = html.escape(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode(), quote=False)
    linked = re.sub(r"#/components/schemas/([.\w]+)", r'<a href="#\1">\1</a>', text)
    return f"<pre>{linked}</pre>"


OPERATIONS = [
    Operation("GET", "/openapi.json", _document, "This document", None, dict[str, Any], public=True),
    Operation("GET", "/docs", _docs, "This document as a page", media_type="text/html", public=True),
]
