"""`/docs`: what programs can ask a server for, as a plain page made of its OpenAPI description."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

Json = Mapping[str, Any]
TableRow = tuple[str, str, str]

_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>flowportrait: for programs</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/static/base.css">
<link rel="stylesheet" href="/static/make.css">
<main>
"""


def reference_page(described: Json) -> str:
    """The page of an OpenAPI description: every request with what it takes and gives."""
    about = f"<h1>{escape(described['info']['title'])}: for programs</h1>"
    lead = f"<p class=lead>{escape(described['info']['description'])}</p>"
    more = (
        "<p>For tools: <a href='/openapi.json'>openapi.json</a>. The page: <a href='/'>/</a>.</p>"
    )
    requests = [
        _request(described, path, method, one)
        for path, methods in described["paths"].items()
        for method, one in methods.items()
    ]
    return "\n".join([_HEAD, about, lead, more, *requests, "</main></html>"])


def _request(
    described: Json,
    path: str,
    method: str,
    one: Json,
) -> str:
    """The section about one request."""
    parts = [f"<h2><code>{method.upper()} {escape(path)}</code></h2>"]
    parts.append(f"<p>{escape(' '.join(one.get('description', one['summary']).split()))}</p>")
    fields = [*_parameters(one), *_body(described, one.get("requestBody"))]
    parts += _table("It takes", fields)
    given = one["responses"].get("200", {}).get("content", {})
    schema = given.get("application/json", {}).get("schema")
    parts += _table("It gives", list(_fields(described, schema)))
    return f"<section class=card>{''.join(parts)}</section>"


def _parameters(one: Json) -> Iterator[TableRow]:
    for parameter in one.get("parameters", ()):
        yield parameter["name"], _kind(parameter["schema"]), f"in the {parameter['in']}"


def _body(described: Json, body: Json | None) -> Iterator[TableRow]:
    """Rows about the body of a request."""
    for kind, content in (body or {}).get("content", {}).items():
        if kind == "application/json":
            yield from _fields(described, content["schema"])
        else:
            yield "body", "bytes", body.get("description", "")


def _fields(described: Json, schema: Json | None) -> Iterator[TableRow]:
    """Name, kind and meaning of what an object holds; of a list, of its entries."""
    schema = _resolved(described, schema or {})
    if "items" in schema:
        schema = _resolved(described, schema["items"])
    for name, field in schema.get("properties", {}).items():
        default = ""
        if "default" in field:
            default = f" Default: {json.dumps(field['default'])}."
        yield name, _kind(field), field.get("description", "") + default


def _resolved(described: Json, schema: Json) -> Json:
    name = schema.get("$ref", "").rpartition("/")[2]
    if name:
        return described["components"]["schemas"][name]
    return schema


def _kind(schema: Json) -> str:
    """A schema's type in words."""
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    return str(schema.get("const") or schema.get("type", "any"))


def _table(title: str, rows: list[TableRow]) -> list[str]:
    """A titled table of HTML; nothing without rows."""
    if not rows:
        return []
    cells = "".join(
        f"<tr><th scope=row><code>{escape(name)}</code></th><td>{escape(kind)}</td>"
        f"<td>{escape(said.strip())}</td></tr>"
        for name, kind, said in rows
    )
    return [f"<h3>{title}</h3><div class=scroll tabindex=0><table>{cells}</table></div>"]
