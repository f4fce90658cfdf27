"""The client against a real HTTP server that is busy, rate-limits, drops connections and answers nonsense."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from eolgul.client import AsyncClient, Client, EolgulError, Retries
from eolgul.errors import InputError

FACE = {
    "box": [1, 2, 3, 4], "detection_score": 0.9, "landmarks": [[1, 2]] * 5, "count": 1, "size": [9, 8],
    "quality": {
        "sharpness": 0.5, "brightness": 90.0, "contrast": 20.0, "yaw": -3.0, "inter_eye_distance": 40.0, "a_later_field": 1,
    },
}  # fmt: skip
COMPARISON = {
    "verdict": "undecided", "same_at_threshold": False, "similarity": 0.3, "false_match_rate": 0.01,
    "false_match_rate_interval": [0.005, 0.02], "log_likelihood_ratio": None,
}  # fmt: skip
MODEL = {
    "threshold": 0.31, "threshold_interval": [0.3, 0.33], "false_match_rate_floor": 0.001, "model": "d" * 64,
    "synthetic": True,
}  # fmt: skip
VERIFICATION = {**COMPARISON, **MODEL, "faces": [FACE, FACE], "cached": [True, False], "timings_ms": {"total": 1.5}}
DROP = "drop"  # instead of an answer: close the connection
FAST = Retries(first_s=0.01, longest_s=0.05)


def problem(status: int, code: str, field: str | None = None, **headers: str) -> Response:
    body = {
        "type": f"urn:eolgul:problem:{code}",
        "title": code,
        "status": status,
        "detail": f"because {code}",
        "code": code,
    }
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse(body | ({"field": field} if field else {}), status, names, "application/problem+json")


class World:
    """The server: answers from a list, then well. Remembers what came."""

    def __init__(self) -> None:
        self.script: list[Response | str] = []
        self.seen: list[tuple[str, str, str | None]] = []
        self.times: list[float] = []
        self.forms: list[list[tuple[str, str | None, bytes]]] = []
        self.url = ""

    async def _next(self, request: Request, good: Callable[[], Awaitable[Response]]) -> Response:
        self.seen.append((request.method, request.url.path, request.headers.get("authorization")))
        self.times.append(time.monotonic())
        if request.headers.get("content-type", "").startswith("multipart/"):
            form = await request.form()
            parts = []
            for name, value in form.multi_items():
                content = value.encode() if isinstance(value, str) else await value.read()
                parts.append((name, None if isinstance(value, str) else value.filename, content))
            self.forms.append(parts)
        step = self.script.pop(0) if self.script else None
        if step == DROP:
            request.scope["drop"]()
        return step if isinstance(step, Response) else await good()

    def route(self, path: str, methods: list[str], answer: Callable[[Request], Any]) -> Route:
        async def endpoint(request: Request) -> Response:
            async def good() -> Response:
                value = answer(request)
                return value if isinstance(value, Response) else JSONResponse(value)

            return await self._next(request, good)

        return Route(path, endpoint, methods=methods)

    def people(self, request: Request) -> Any:
        first = int(request.query_params.get("after", "0"))
        names = [
            {"person": f"p{n}", "templates": n, "comparable": n, "created_at": "2030-01-01T00:00:00Z"}
            for n in range(first, min(first + 2, 5))
        ]
        return {"people": names, "next": str(first + 2) if first + 2 < 5 else None, "total": 5}

    def application(self) -> Starlette:
        facts = {"model": "m", "synthetic": True, "timings_ms": {}}
        embedding = {**facts, **FACE, "embedding": [0.6, 0.8], "face": FACE, "cached": False}
        found = {key: FACE[key] for key in ("box", "detection_score", "landmarks", "quality")} | {"chosen": True}
        many = {
            **MODEL, "face": FACE, "timings_ms": {},
            "results": [{"index": 0, "comparison": COMPARISON, "face": FACE},
                        {"index": 1, "problem": {"type": "t", "title": "No face", "status": 422, "code": "no_face", "detail": "none"}}],
        }  # fmt: skip
        candidate = {**COMPARISON, "person": "p1", "template": "t"}
        identified = {
            **MODEL, "timings_ms": {}, "face": FACE, "candidates": [candidate], "people": 3, "templates_of_other_models": 1,
        }  # fmt: skip
        enrolled = {**facts, "person": "p 1", "templates": ["t1"], "added": 1, "templates_total": 2, "faces": [FACE]}
        current = {
            "digest": "m", "backbone": "b", "embedding_size": 2, "contract": {}, "synthetic": True, "threshold": 0.3,
            "threshold_interval": [0.2, 0.4], "calibration": {}, "false_match_rate": 0.001,
            "false_match_rate_interval": None, "training": None, "sets": [], "card": None, "report": None,
        }  # fmt: skip
        erased = {"templates": 1, "cache_cleared": True}
        lines = "".join(json.dumps({"person": f"p{n}", "embedding": [n]}) + "\n" for n in range(3))
        return Starlette(routes=[
            self.route("/v1/verify", ["POST"], lambda _: VERIFICATION),
            self.route("/v1/verify/many", ["POST"], lambda _: many),
            self.route("/v1/embed", ["POST"], lambda _: embedding),
            self.route("/v1/detect", ["POST"], lambda _: {**facts, "faces": [found], "size": [9, 8]}),
            self.route("/v1/identify", ["POST"], lambda r: identified | {"people": int(r.query_params["k"])}),
            self.route("/v1/enroll", ["POST"], lambda _: enrolled),
            self.route("/v1/people", ["GET"], self.people),
            self.route("/v1/people/{p}", ["DELETE"], lambda r: erased | {"person": r.path_params["p"]}),
            self.route("/v1/people/{p}", ["GET"], lambda r: {"person": r.path_params["p"], "templates": [
                {"template": "t1", "created_at": "2030-01-01T00:00:00Z", "model": "m"}]}),
            self.route("/v1/people/{p}/templates/{t}", ["DELETE"], lambda r: erased | {"person": r.path_params["p"]}),
            self.route("/v1/export", ["GET"], lambda _: Response(lines, media_type="application/x-ndjson")),
            self.route("/v1/models/current", ["GET"], lambda _: current),
            self.route("/readyz", ["GET"], lambda _: {}),
        ])  # fmt: skip


class _Droppable(H11Protocol):
    """h11 over a transport that a request may cut off, before any byte of an answer."""

    def handle_events(self) -> None:
        super().handle_events()
        if self.scope is not None:
            cast(dict[str, Any], self.scope)["drop"] = self.transport.abort


@pytest.fixture(scope="module")
def running() -> Iterator[World]:
    world = World()
    listener = socket.create_server(("127.0.0.1", 0))
    world.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(world.application(), http=_Droppable, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield world
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def world(running: World) -> World:
    for kept in (running.script, running.seen, running.times, running.forms):
        kept.clear()
    return running


Ask = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, world: World) -> Ask:
    """Call a method of a client of either kind; what it iterates comes as a list."""

    def blocking(name: str, *arguments: Any, retries: Retries = FAST) -> Any:
        with Client(world.url, api_key="eolgul_id_secret", timeout_s=5, retries=retries) as client:
            value = getattr(client, name)(*arguments)
            return list(value) if name in ("people", "export") else value

    def through_asyncio(name: str, *arguments: Any, retries: Retries = FAST) -> Any:
        async def inside() -> Any:
            async with AsyncClient(world.url, api_key="eolgul_id_secret", timeout_s=5, retries=retries) as client:
                value = getattr(client, name)(*arguments)
                return [one async for one in value] if name in ("people", "export") else await value

        return asyncio.run(inside())

    return blocking if request.param == "sync" else through_asyncio


def test_every_call_is_typed(ask: Ask, world: World, tmp_path: Path) -> None:
    photo = tmp_path / "private name.jpg"
    photo.write_bytes(b"photo")
    answer = ask("verify", b"one", photo)
    assert (answer.verdict, answer.threshold_interval, answer.cached) == ("undecided", (0.3, 0.33), (True, False))
    assert answer.faces[1].quality.yaw == -3.0 and answer.faces[0].quality.brightness == 90.0
    assert world.forms[0] == [("image1", "image1", b"one"), ("image2", "image2", b"photo")]
    many = ask("verify_many", b"x", [b"y", photo])
    assert many.results[0].comparison.similarity == 0.3 and many.results[1].problem.code == "no_face"
    assert [part[0] for part in world.forms[1]] == ["image", "others", "others"]
    assert ask("embed", b"x").embedding == (0.6, 0.8)
    assert ask("detect", b"x").faces[0].chosen
    assert ask("identify", b"x", 7).people == 7
    assert ask("enroll", "p 1", [b"x", b"y"]).templates_total == 2
    assert world.forms[-1] == [("person", None, b"p 1"), ("images", "images", b"x"), ("images", "images", b"y")]
    assert [one.person for one in ask("people")] == ["p0", "p1", "p2", "p3", "p4"]
    assert ask("person", "김 하나").templates[0].template == "t1"
    assert ask("delete_person", "김 하나").person == "김 하나"
    assert ask("delete_template", "p", "t").templates == 1
    assert [record["embedding"] for record in ask("export")] == [[0], [1], [2]]
    assert ask("current_model").digest == "m"
    assert ask("ready") is True
    assert {header for _, _, header in world.seen} == {"Bearer eolgul_id_secret"}


def test_a_problem_document_is_an_error_with_its_code(ask: Ask, world: World) -> None:
    world.script = [problem(422, "no_face", "image2")]
    with pytest.raises(EolgulError) as caught:
        ask("verify", b"x", b"y")
    error = caught.value
    assert (error.code, error.detail, error.status, error.field) == ("no_face", "because no_face", 422, "image2")
    assert len(world.seen) == 1


@pytest.mark.parametrize("refusal", [(503, "busy"), (503, "model_not_ready"), (429, "rate_limited")])
@pytest.mark.parametrize("call", [("verify", b"x", b"y"), ("enroll", "p", [b"x"])])
def test_what_was_turned_away_is_sent_again(ask: Ask, world: World, refusal: tuple[int, str], call: Any) -> None:
    world.script = [problem(*refusal), problem(*refusal)]
    assert ask(*call).model
    assert len(world.seen) == 3 and len(world.forms) == 3 and world.forms[0] == world.forms[2]


def test_retry_after_is_honoured(ask: Ask, world: World) -> None:
    world.script = [problem(503, "busy", Retry_After="1")]
    ask("verify", b"x", b"y")
    assert 1.0 <= world.times[1] - world.times[0] < 3.0


def test_a_retry_after_that_is_too_long_is_raised_at_once(ask: Ask, world: World) -> None:
    world.script = [problem(429, "rate_limited", Retry_After="3600")]
    with pytest.raises(EolgulError) as caught:
        ask("verify", b"x", b"y")
    assert caught.value.retry_after == 3600 and len(world.seen) == 1


def test_it_gives_up_after_the_last_try(ask: Ask, world: World) -> None:
    world.script = [problem(503, "busy") for _ in range(9)]
    with pytest.raises(EolgulError) as caught:
        ask("verify", b"x", b"y", retries=Retries(attempts=3, first_s=0.01))
    assert caught.value.code == "busy" and len(world.seen) == 3


def test_a_lost_connection_is_tried_again(ask: Ask, world: World) -> None:
    world.script = [DROP, DROP]
    assert ask("verify", b"x", b"y").verdict == "undecided"
    assert len(world.seen) == 3


@pytest.mark.parametrize("trouble", [DROP, problem(503, "gallery_unavailable"), Response("proxy", 503)])
def test_enroll_is_not_sent_twice_when_it_may_have_worked(ask: Ask, world: World, trouble: Any) -> None:
    world.script = [trouble]
    with pytest.raises(EolgulError):
        ask("enroll", "p", [b"x"])
    assert len(world.seen) == 1


def test_nobody_listens(ask: Ask, world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
    before, world.url = world.url, closed
    try:
        assert ask("ready") is False
        with pytest.raises(EolgulError, match="no answer") as caught:
            ask("enroll", "p", [b"x"], retries=Retries(attempts=2, first_s=0.01))
        assert (caught.value.code, caught.value.status) == ("no_answer", None)
    finally:
        world.url = before


@pytest.mark.parametrize(
    "answer", [Response("<html>"), JSONResponse({"verdict": "maybe"}), Response("<html>", 502), JSONResponse([], 400)]
)
def test_an_answer_that_is_not_eolguls(ask: Ask, world: World, answer: Response) -> None:
    world.script = [answer]
    with pytest.raises(EolgulError) as caught:
        ask("verify", b"x", b"y")
    assert caught.value.code == "unexpected_answer" and "/v1/verify" in str(caught.value)
    assert len(world.seen) == 1


def test_bad_arguments_are_said_in_a_sentence(ask: Ask, world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        ask("embed", tmp_path / "none.jpg")
    assert world.seen == []
    for url in ("ftp://host", "host:3000", "http://", "http://h:port"):
        with pytest.raises(InputError, match="address of a service"):
            Client(url)
    with pytest.raises(InputError, match="API key"):
        Client(world.url, api_key="a\nb")


def test_the_client_needs_no_web_framework() -> None:
    code = "import sys, eolgul.client; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "eolgul" in loaded and not {"bentoml", "fastapi", "starlette", "redis", "onnxruntime", "torch"} & set(loaded)
