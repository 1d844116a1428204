"""The OpenAPI file is true: its paths are the routes, its examples are answered as it says."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from latentdb.explorer.api import Api
from latentdb.explorer.app import make_app
from latentdb.explorer.blends import MAX_BLENDS, MAX_CORNERS, MAX_PARTS, MAX_WHERE
from latentdb.explorer.guard import Guard
from latentdb.explorer.views import MAX_NEIGHBOURS, Views
from latentdb.reader import Reader
from tests.conftest import draw_shape

pytest.importorskip("starlette")
pytest.importorskip("httpx")
from starlette.testclient import TestClient

DOCUMENT: dict[str, Any] = json.loads(
    files("latentdb.explorer").joinpath("openapi.json").read_text()
)
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = [
    (path, method, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


@pytest.fixture(scope="module")
def views(_filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Views]:
    path = shutil.copytree(_filled, tmp_path_factory.mktemp("openapi") / "shapes.ldb")
    with Reader.open(path) as db:
        yield Views(db)


@pytest.fixture(scope="module")
def client(views: Views) -> TestClient:
    guard = Guard(make_app(views), token="secret", port=8417)
    made = TestClient(guard, base_url=DOCUMENT["servers"][0]["url"].removesuffix("/api/v1"))
    made.headers["authorization"] = "Bearer secret"
    return made


def test_its_paths_are_the_routes(views: Views) -> None:
    api = Api(views)
    routes = {(re.sub(":int}", "}", f"/{path}"), "get") for path in api.gets}
    routes |= {(f"/{path}", "post") for path in api.posts}
    assert {(path, method) for path, method, _ in OPERATIONS} == routes


def plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with what it refers to, and all that it consists of, as one."""
    if "$ref" in schema:
        return plain(SCHEMAS[schema["$ref"].rsplit("/", 1)[1]])
    parts = [plain(part) for part in schema.get("allOf", ())]
    if not parts:
        return schema
    properties: dict[str, Any] = {}
    for part in parts:
        properties |= part["properties"]
    required = [name for part in parts for name in part["required"]]
    return {"type": "object", "properties": properties, "required": required}


KINDS: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
    "null": type(None),
}


def check(value: Any, schema: dict[str, Any]) -> None:
    schema = plain(schema)
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    assert any(isinstance(value, KINDS[kind]) for kind in kinds), (value, schema)
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema["required"]) == set(value)
        for name, item in value.items():
            check(item, schema["properties"][name])
    if isinstance(value, list):
        for item in value[:3]:
            check(item, schema["items"])


@pytest.mark.parametrize(
    ("path", "method", "operation"), OPERATIONS, ids=[f"{one[1]}{one[0]}" for one in OPERATIONS]
)
def test_its_examples_are_answered_as_it_says(
    client: TestClient, path: str, method: str, operation: dict[str, Any]
) -> None:
    picture = io.BytesIO()
    draw_shape("disc", 1).save(picture, "PNG")
    sent: dict[str, Any] = {"params": {}}
    for parameter in operation.get("parameters", ()):
        name, schema = parameter["name"], parameter["schema"]
        value = parameter.get("example", schema.get("default"))
        if name == "token":
            headers = {"content-type": "image/png"}
            made = client.post("/api/v1/images", content=picture.getvalue(), headers=headers)
            value = made.json()["image"]
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", str(value))
        else:
            sent["params"][name] = value
    for kind, body in operation.get("requestBody", {"content": {}})["content"].items():
        content = json.dumps(body["example"]) if "example" in body else picture.getvalue()
        sent |= {"content": content, "headers": {"content-type": kind}}
    answer = client.request(method, f"/api/v1{path}", **sent)
    assert answer.status_code == 200, answer.text
    kinds = operation["responses"]["200"]["content"]
    kind = answer.headers["content-type"]
    assert kind in kinds
    if kind == "application/json":
        check(answer.json(), kinds[kind]["schema"])


def test_its_limits_are_those_of_the_code() -> None:
    assert SCHEMAS["Blend"]["properties"]["parts"]["maxItems"] == MAX_PARTS
    assert SCHEMAS["Selection"]["properties"]["polygon"]["maxItems"] == MAX_CORNERS
    assert SCHEMAS["Selection"]["properties"]["where"]["maxLength"] == MAX_WHERE
    several = DOCUMENT["paths"]["/decode"]["post"]["requestBody"]["content"]["application/json"]
    assert several["schema"]["oneOf"][1]["properties"]["blends"]["maxItems"] == MAX_BLENDS
    parameters = DOCUMENT["paths"]["/neighbors/{row}"]["get"]["parameters"]
    assert parameters[1]["schema"]["maximum"] == MAX_NEIGHBOURS
