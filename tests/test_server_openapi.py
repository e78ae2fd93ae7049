"""The OpenAPI document: what it says is what the service does, whatever is sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.core.parameters import ParameterLocation

from service import RunningService, bearer, running_service
from stub_endpoint import StubEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

# Which labels there are depends on the task, exactly one of two parameters is wanted, cursors are given out, and what
# is a file of comments is a long story: none of these can be said in a schema, so there requests that keep to it may be
# refused.
UNSAID = {"POST /v1/corrections", "GET /v1/corrections", "DELETE /v1/comments", "GET /v1/jobs", "POST /v1/jobs"}
UNSAID |= {"PUT /v1/chat/files/process", "GET /v1/downloads"}
FILES = {"POST /v1/jobs", "PUT /v1/chat/files/process"}


@schemathesis.serializer("application/x-ndjson")
def as_lines(_context: Any, value: Any) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else json.dumps(value).encode()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("service")
    with StubEndpoint() as stub, running_service(folder, stub, service={"max_comments": 20}) as running:
        yield running


def examples_of(schemas: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, schema in schemas.items():
        for example in schema.get("examples", ()):
            yield name, example


def test_document(running: RunningService) -> None:
    document = running.http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert document["security"] == [{"key": []}]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            if path in {"/healthz", "/readyz"}:
                assert operation["security"] == []
                continue
            if path == "/v1/downloads":  # whoever has a link needs no key
                assert operation["security"] == []
                continue
            if path == "/v1/chat/files/process":  # what it refuses, people read
                assert "text/plain" in operation["responses"]["422"]["content"]
                continue
            if path == "/v1/chat/completions":  # its errors have OpenAI's shape
                assert "application/json" in operation["responses"]["default"]["content"]
                continue
            for status in ("401", "403", "422", "429", "500"):
                content = operation["responses"][status]["content"]
                assert list(content) == ["application/problem+json"], (method, path, status)


def test_examples_are_what_their_schemas_describe(running: RunningService) -> None:
    document = running.http.get("/openapi.json").json()
    examples = list(examples_of(document["components"]["schemas"]))
    assert {"AnalyzeRequest", "AnalyzeResponse", "CorrectionBody", "ProblemDocument"} <= {name for name, _ in examples}
    for name, example in examples:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema_rs.validate(schema, example)


def test_examples_of_requests_are_answered(running: RunningService) -> None:
    schemas = running.http.get("/openapi.json").json()["components"]["schemas"]
    client = running.as_key(running.key())
    for name, path in (("AnalyzeRequest", "/v1/analyze"), ("CorrectionBody", "/v1/corrections")):
        for example in schemas[name]["examples"]:
            assert client.post(path, json=example).status_code in {200, 201}, json.dumps(example)


@pytest.mark.slow
def test_service_keeps_to_its_document(running: RunningService) -> None:
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    key = running.key("analyse", "chat", "admin")
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        open_to_all = operation.label in {"GET /healthz", "GET /readyz"}  # nothing can be wrong in such a request
        for mode in [GenerationMode.POSITIVE, *([] if open_to_all else [GenerationMode.NEGATIVE])]:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(max_examples=52, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            def check(case: schemathesis.Case) -> None:
                nonlocal asked
                asked += 1
                case.call_and_validate(timeout=30, headers=bearer(key), excluded_checks=unsuitable_checks(case))

            check()
    print(f"schemathesis: {asked} requests")
    assert asked > 2000


def unsuitable_checks(case: schemathesis.Case) -> list[Any]:
    names = []
    # Each asks twice more, without a key and with a wrong one: that once for what is right, not for what is wrong too.
    if case.meta and case.meta.generation.mode.is_negative:
        names.append("ignored_auth")
    if case.operation.label in UNSAID:
        names.append("positive_data_acceptance")
    # Headers and parameters that nobody asked for are not looked at, as everywhere in HTTP.
    body = case.meta.components.get(ParameterLocation.BODY) if case.meta else None
    # Nearly everything is a CSV file, whatever else it was meant to be.
    if body is None or not body.mode.is_negative or case.operation.label in FILES:
        names.append("negative_data_rejection")
    return schemathesis.checks.CHECKS.get_by_names(names)
