"""What operators and pages see: figures, health, the API's description, CORS, feedback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from flock_ray.chain.keys import run_signer
from flock_ray.market.feedback import FeedbackStore
from tests.market.gateways import HELLO, SIZE, TEXT, World, account_of, error_of, gateway


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("gateway")
    with gateway(folder, feedback=FeedbackStore(folder / "feedback"), origins=("https://app.example",)) as world:
        yield world


def get(world: World, path: str, **headers: str) -> Any:
    return httpx2.get(f"{world.url}{path}", headers=headers)


def test_figures_name_no_key_and_no_account(world: World) -> None:
    assert world.ask().status_code == 200
    assert world.ask(model="x" * 200).status_code == 404
    page = get(world, "/metrics").text
    model = world.models[0].id
    assert f'flock_ray_requests_total{{model="{model}",route="/v1/chat/completions",status="200"}} 1.0' in page
    assert 'flock_ray_requests_total{model="",route="/v1/chat/completions",status="404"} 1.0' in page
    assert f'flock_ray_tokens_total{{kind="output",model="{model}"}} {SIZE:.1f}' in page
    assert f'flock_ray_first_token_seconds_count{{model="{model}"}} 1.0' in page
    for name in ("running", "waiting", "steps", "completion_tokens"):
        assert f"flock_ray_engine_{name} " in page
    assert world.key.id not in page and world.key.terms.account.hex() not in page and "xxxx" not in page
    get(world, "/" + "y" * 100)
    assert "yyyy" not in get(world, "/metrics").text


def test_health_tells_whether_the_engine_answers(tmp_path: Path) -> None:
    class Away:
        def __init__(self, inner: Any) -> None:
            self.inner, self.limits, self.reserved = inner, inner.limits, inner.reserved

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        async def stats(self) -> Any:
            raise ConnectionError("no engine")

    with gateway(tmp_path, wrap=Away) as world:  # type: ignore[arg-type]
        assert get(world, "/health").status_code == 503
        assert get(world, "/metrics").status_code == 200
    with gateway(tmp_path / "other") as world:
        assert get(world, "/health").json() == {"status": "ok", "models": 3}


def test_the_description_is_whole(world: World) -> None:
    schema = get(world, "/openapi.json").json()
    assert schema["openapi"].startswith("3.")
    paths = {
        "/v1/models", "/v1/models/{model}", "/v1/chat/completions", "/v1/completions", "/v1/usage", "/v1/receipts/{id}",
        "/v1/caps", "/v1/feedback", "/v1/knowledge", "/v1/knowledge/{id}", "/chat/conversational_rag_chat", "/metrics",
        "/health",
    }  # fmt: skip
    assert schema["paths"].keys() == paths
    chat = schema["paths"]["/v1/chat/completions"]["post"]
    body = schema["components"]["schemas"]["ChatRequest"]
    assert chat["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ChatRequest"}
    assert body["required"] == ["model", "messages"] and body["additionalProperties"] is False
    assert chat["responses"]["429"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")
    schemes = schema["components"]["securitySchemes"]
    assert {scheme.get("name", scheme.get("scheme")) for scheme in schemes.values()} == {
        "bearer", "x-api-key", "x-litellm-api-key",
    }  # fmt: skip
    assert chat["security"] and "security" not in schema["paths"]["/health"]["get"]
    assert all(operation["summary"] for path in schema["paths"].values() for operation in path.values())
    referenced = json.dumps(schema).split('"#/components/schemas/')[1:]
    assert {one.partition('"')[0] for one in referenced} <= schema["components"]["schemas"].keys()


def test_the_description_as_a_page_loads_nothing_from_elsewhere(world: World) -> None:
    page = get(world, "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "POST /v1/chat/completions" in page.text and "http" not in page.text.replace("httponly", "")


def test_only_listed_origins_may_call_from_a_page(world: World, tmp_path: Path) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}

    def preflight(url: str, origin: str) -> Any:
        return httpx2.options(f"{url}/v1/chat/completions", headers={"Origin": origin, **asked})

    allowed = preflight(world.url, "https://app.example")
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-origin" not in preflight(world.url, "https://evil.example").headers
    with gateway(tmp_path) as closed:
        assert "access-control-allow-origin" not in preflight(closed.url, "https://app.example").headers
        answer = httpx2.get(f"{closed.url}/health", headers={"Origin": "https://app.example"})
        assert "access-control-allow-origin" not in answer.headers


def said(world: World, **changes: Any) -> dict[str, Any]:
    answer = world.ask().json()
    body = {
        "request": answer["id"], "messages": HELLO, "answer": TEXT, "rating": -1, "correction": "Better.",
        "consent": True, "licence": "cc-by-4.0",
    }  # fmt: skip
    return {**body, **changes}


def test_feedback_of_an_answer_is_kept_sealed(world: World) -> None:
    body = said(world)
    first = world.ask("/v1/feedback", **body)
    assert first.status_code == 201 and first.json()["new"] is True
    assert world.ask("/v1/feedback", **{**body, "consent": False}).json()["new"] is False
    (kept,) = [one for one in FeedbackStore(world.folder / "feedback") if one.correction == "Better."]
    assert kept.consent is False and kept.model == world.models[0].adapter and kept.key == world.key.id
    assert not any(b"Better." in path.read_bytes() for path in (world.folder / "feedback").rglob("*") if path.is_file())


def test_feedback_of_answers_that_were_never_given_is_refused(world: World) -> None:
    before = len(list(FeedbackStore(world.folder / "feedback")))
    for change, status in (
        ({"answer": "something else"}, 400),
        ({"messages": [{"role": "user", "content": "another question"}]}, 400),
        ({"request": "chatcmpl-" + "0" * 64}, 404),
        ({"request": "x"}, 404),
        ({"rating": 5}, 400),
        ({"rating": 0, "correction": ""}, 400),
        ({"licence": "a licence\n"}, 400),
    ):
        answer = world.ask("/v1/feedback", **said(world, **change))
        assert answer.status_code == status, (change, answer.text)
        error_of(answer)
    _, secret = world.new_key(account=account_of(run_signer(1, "another user")))
    assert world.ask("/v1/feedback", secret=secret, **said(world)).status_code == 404
    assert len(list(FeedbackStore(world.folder / "feedback"))) == before


def test_feedback_of_a_completion_is_taken_too(world: World) -> None:
    answer = world.ask("/v1/completions", model="latest", prompt="abc").json()
    body = {"request": answer["id"], "messages": [{"role": "user", "content": "abc"}], "answer": "abc", "rating": 1}
    assert world.ask("/v1/feedback", consent=True, **body).status_code == 201


def test_a_flood_of_feedback_is_429(tmp_path: Path) -> None:
    with gateway(tmp_path, feedback=FeedbackStore(tmp_path / "f", per_day=2)) as world:
        statuses = [world.ask("/v1/feedback", **said(world)).status_code for _ in range(3)]
        assert statuses == [201, 201, 429]


def test_routes_that_are_off_are_not_there(tmp_path: Path) -> None:
    with gateway(tmp_path, knowledge=None) as world:
        for path in ("/v1/feedback", "/v1/knowledge", "/chat/conversational_rag_chat"):
            assert error_of(world.ask(path))["code"] == "unknown_url"
