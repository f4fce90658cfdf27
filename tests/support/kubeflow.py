"""A Kubeflow Pipelines API in this process: checks requests with kfp-server-api's models, answers as real servers do.

Shapes of the answers: backend/src/apiserver (main.go's healthz, pipeline_upload_server.go's errors), grpc-gateway's error
JSON, and what dex, oauth2-proxy and Envoy send in front of it.
"""

from __future__ import annotations

import email
import email.policy
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from support.http_server import http_server

DEX_PAGE = (
    "<!DOCTYPE html><html><head><title>dex</title></head><body>Log in to Your Account <form></form></body></html>"
)
LOG_OF_A_FAILURE = """\
Traceback (most recent call last):
  File "/opt/venv/lib/python3.11/site-packages/eolgul/storage/s3.py", line 12, in fetch
    raise InputError(f"{place}: NoSuchBucket")
eolgul.errors.InputError: \x1b[91ms3://nope/raw/orl: NoSuchBucket, the bucket does not exist\x1b[0m
I1128 21:12:33.125000      14 launcher_v2.go:193] publish success.
F1128 21:12:33.130000      14 main.go:57] failed to execute component: exit status 1
"""


@dataclass
class Seen:
    """One request.

    Attributes:
        method: GET, POST or DELETE.
        path: Without the query.
        query: Its parameters.
        headers: Its headers, names in lower case.
        body: The JSON, or the uploaded file's documents.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any = None


@dataclass
class Kubeflow:
    """What the server does, and what it was asked.

    Attributes:
        address: Its address.
        mode: "ok", or how it misbehaves: see `_Handler.misbehave`.
        version: KFP's version that healthz says.
        multi_user: Whether healthz says that it has several users.
        ui: Whether healthz is the UI server's.
        states: The states that a run has, one per look; the last one stays.
        log: The log of the failed task's pod; None: 404.
        token: The token that requests must have; "" for any.
        seen: The requests.
    """

    address: str = ""
    mode: str = "ok"
    version: str = "2.15.0"
    multi_user: bool = False
    ui: bool = False
    states: list[str] = field(default_factory=lambda: ["PENDING", "RUNNING", "SUCCEEDED"])
    log: str | None = LOG_OF_A_FAILURE
    token: str = ""
    seen: list[Seen] = field(default_factory=list)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    recurring: dict[str, dict[str, Any]] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def of(self, method: str, ending: str) -> list[Seen]:
        """The requests of a method whose path ends so."""
        return [one for one in self.seen if one.method == method and one.path.endswith(ending)]


@contextmanager
def kubeflow(certificate: Path | None = None) -> Iterator[Kubeflow]:
    """Serve on a port of 127.0.0.1; with a file of key and certificate over TLS."""
    state = Kubeflow()
    with http_server(type("Handler", (_Handler,), {"state": state}), certificate) as state.address:
        try:
            yield state
        finally:
            state.mode = "ok"
    assert not state.complaints, state.complaints


class _Client(api.ApiClient):  # type: ignore[misc]
    """The generated client's reader of JSON into models."""

    def model(self, data: Any, name: str) -> Any:
        return self.deserialize(type("Answer", (), {"data": json.dumps(data)})(), name)


class _Handler(BaseHTTPRequestHandler):
    state: Kubeflow
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer("GET")

    def do_POST(self) -> None:
        self.answer("POST")

    def do_DELETE(self) -> None:
        self.answer("DELETE")

    def answer(self, method: str) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        raw = self.rfile.read(int(headers.get("content-length", "0")))
        seen = Seen(method, parts.path, query, headers, self.body(raw, headers))
        self.state.seen.append(seen)
        if not self.misbehave(seen):
            self.behave(seen)

    def body(self, raw: bytes, headers: dict[str, str]) -> Any:
        kind = headers.get("content-type", "")
        if raw and "json" in kind:
            return json.loads(raw)
        if raw and "multipart" in kind:
            message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + raw, policy=email.policy.HTTP)
            (part,) = [one for one in message.iter_parts() if one.get_filename()]  # type: ignore[attr-defined]
            assert part.get_param("name", header="content-disposition") == "uploadfile"
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            return list(yaml.load_all(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        return None

    def misbehave(self, seen: Seen) -> bool:
        """Answer as another kind of server, by `mode`; a mode with `run:` before it does so only when a run is made."""
        only, _, mode = self.state.mode.rpartition(":")
        if mode == "ok" or (
            only == "run" and not (seen.method == "POST" and seen.path.endswith(("/runs", "recurringruns")))
        ):
            return False
        if mode == "dex":  # oauth2-proxy and dex: the request without a session is sent to the login
            if seen.path.startswith("/dex"):
                return self.page(200, DEX_PAGE)
            return self.page(302, "", location=f"/dex/auth?client_id=kubeflow-oidc-authservice&state={seen.path}")
        if mode == "login-page":  # a proxy that answers with the login at once
            return self.page(200, DEX_PAGE)
        if mode == "some-page":
            return self.page(200, "<html><body>It works!</body></html>")
        if mode == "to-https":
            return self.page(301, "", location="https://" + self.headers["Host"] + self.path)
        if mode == "401":  # Istio's RequestAuthentication
            return self.send(401, b"Jwt is missing", "text/plain")
        if mode == "401-json":
            return self.error(401, 16, "Request header error: there is no user identity header.")
        if mode == "403":
            return self.error(
                403, 7, "User 'somebody' is not authorized with reason: (request: create runs in kubeflow-user)"
            )
        if mode == "403-istio":
            return self.send(403, b"RBAC: access denied", "text/plain")
        if mode == "404":
            return self.send(404, b"404 page not found\n", "text/plain")
        if mode == "404-html":
            return self.page(404, "<html><body><h1>Not Found</h1></body></html>")
        if mode == "502":
            return self.page(502, "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>")
        if mode == "503":
            return self.send(503, b"upstream connect error or disconnect/reset before headers", "text/plain")
        if mode == "400":
            return self.error(400, 3, "Failed to create a new run: InvalidInputError: unknown template\nwith two lines")
        if mode == "empty":
            return self.json({})
        if mode == "list":
            return self.json([1, 2])
        if mode == "not-json":
            return self.send(200, b"pong", "application/json")
        if mode == "odd-model":
            return self.json({"run_id": "r", "created_at": "yesterday", "tag_name": "2.15.0"})
        if mode == "hang":
            while self.state.mode.endswith("hang"):
                time.sleep(0.02)
            return True
        if mode == "drip":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "100000")
            self.end_headers()
            while self.state.mode.endswith("drip"):
                try:
                    self.wfile.write(b" ")
                except OSError:
                    break
                time.sleep(0.05)
            return True
        if mode == "reset":
            self.close_connection = True
            return True
        raise AssertionError(mode)

    def send(self, status: int, data: bytes, kind: str, location: str = "") -> bool:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(data)
        return True

    def page(self, status: int, text: str, location: str = "") -> bool:
        return self.send(status, text.encode(), "text/html; charset=utf-8", location)

    def json(self, data: Any, status: int = 200) -> bool:
        return self.send(status, json.dumps(data).encode(), "application/json")

    def error(self, status: int, code: int, message: str) -> bool:
        return self.json({"error": message, "code": code, "message": message, "details": []}, status)

    def checked(self, seen: Seen, model: str) -> dict[str, Any]:
        """The body, which must be exactly what the generated model holds: no unknown and no wrong field."""
        client = _Client()
        again = client.sanitize_for_serialization(client.model(seen.body, model))
        if again != seen.body:
            self.state.complaints.append(f"{seen.path}: {seen.body} is not a {model}: {again}")
        body: dict[str, Any] = dict(seen.body)
        if "pipeline_spec" in body:
            self.spec(body["pipeline_spec"])
        return body

    def spec(self, spec: dict[str, Any]) -> None:
        """A pipeline as the back end reads it: protojson that refuses unknown fields."""
        json_format.ParseDict(spec["pipeline_spec"], pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(spec.get("platform_spec", {}), pipeline_spec_pb2.PlatformSpec())

    def behave(self, seen: Seen) -> bool:
        state, path = self.state, seen.path.removeprefix("/pipeline")
        if path.endswith("/healthz"):
            if state.ui:
                return self.json({"apiServerTagName": state.version, "apiServerMultiUser": state.multi_user,
                                  "apiServerReady": True, "frontendTagName": state.version})  # fmt: skip
            return self.json({"commit_sha": "1a2b3c", "tag_name": state.version, "multi_user": state.multi_user,
                              "pipeline_store": "database"})  # fmt: skip
        if state.token and seen.headers.get("authorization") != f"Bearer {state.token}":
            return self.error(401, 16, "Unauthenticated")
        if path.startswith("/apis/v1alpha1/runs/"):
            if state.log is None:
                return self.error(404, 5, "log not found")
            return self.send(200, state.log.encode(), "text/plain")
        kind, _, rest = path.removeprefix("/apis/v2beta1/").partition("/")
        return getattr(self, f"{seen.method.lower()}_{kind}")(seen, rest)  # type: ignore[no-any-return]

    def named(self, seen: Seen, all_of: Any) -> list[Any]:
        """What a list request with a filter by name finds, which must be in a namespace where there are several users."""
        if self.state.multi_user and not seen.query.get("namespace"):
            self.state.complaints.append(f"{seen.path}: no namespace")
        (predicate,) = json.loads(seen.query["filter"])["predicates"]
        assert predicate["operation"] == "EQUALS" and predicate["key"] == "display_name"
        return [one for one in all_of if one["display_name"] == predicate["stringValue"]]

    def get_experiments(self, seen: Seen, rest: str) -> bool:
        return self.json({"experiments": self.named(seen, self.state.experiments.values())})

    def post_experiments(self, seen: Seen, rest: str) -> bool:
        body = self.checked(seen, "V2beta1Experiment")
        if self.state.multi_user and not body.get("namespace"):
            return self.error(400, 3, "InvalidInputError: namespace is empty")
        made = body | {"experiment_id": f"e-{len(self.state.experiments) + 1}", "storage_state": "AVAILABLE"}
        self.state.experiments[made["experiment_id"]] = made
        return self.json(made)

    def post_runs(self, seen: Seen, rest: str) -> bool:
        body = self.checked(seen, "V2beta1Run")
        if body.get("experiment_id") not in self.state.experiments:
            return self.error(404, 5, "experiment not found")
        made = body | {"run_id": f"r-{len(self.state.runs) + 1}", "state": "PENDING"}
        self.state.runs[made["run_id"]] = made
        return self.json(made)

    def get_runs(self, seen: Seen, rest: str) -> bool:
        if rest not in self.state.runs:
            return self.error(404, 5, f"ResourceNotFoundError: Run {rest} not found")
        now = self.state.states.pop(0) if len(self.state.states) > 1 else self.state.states[0]
        return self.json({"run_id": rest, "state": now, "run_details": {"task_details": self.tasks(now)}})

    def tasks(self, now: str) -> list[dict[str, Any]]:
        failed = "FAILED" if now == "FAILED" else "SUCCEEDED" if now == "SUCCEEDED" else "RUNNING"
        return [
            {"task_id": "t0", "display_name": "root", "state": now},
            {"task_id": "t1", "display_name": "extract-driver", "state": "SUCCEEDED"},
            {"task_id": "t2", "display_name": "extract", "state": failed, "error": {"code": 2, "message": "main: Error (exit code 1)"},
             "child_tasks": [{"pod_name": "face-recognition-x7-impl-99"}]},
        ]  # fmt: skip

    def post_recurringruns(self, seen: Seen, rest: str) -> bool:
        body = self.checked(seen, "V2beta1RecurringRun")
        if not body.get("trigger"):
            return self.error(400, 3, "InvalidInputError: trigger is missing")
        made = body | {"recurring_run_id": f"s-{len(self.state.of('POST', '/recurringruns'))}", "status": "ENABLED"}
        self.state.recurring[made["recurring_run_id"]] = made
        return self.json(made)

    def get_recurringruns(self, seen: Seen, rest: str) -> bool:
        (predicate,) = json.loads(seen.query["filter"])["predicates"]
        found = [
            one
            for one in self.state.recurring.values()
            if one["experiment_id"] == seen.query["experiment_id"] and one["display_name"] == predicate["stringValue"]
        ]
        return self.json({"recurringRuns": found})

    def delete_recurringruns(self, seen: Seen, rest: str) -> bool:
        return self.json({}, 200 if self.state.recurring.pop(rest, None) else 404)

    def get_pipelines(self, seen: Seen, rest: str) -> bool:
        if rest.endswith("/versions"):
            (predicate,) = json.loads(seen.query["filter"])["predicates"]
            found = [
                one
                for one in self.state.versions
                if one["pipeline_id"] == rest.partition("/")[0] and one["display_name"] == predicate["stringValue"]
            ]
            return self.json({"pipeline_versions": found})
        return self.json({"pipelines": self.named(seen, self.state.pipelines.values())})

    def post_pipelines(self, seen: Seen, rest: str) -> bool:
        if rest == "upload_version":
            spec, *platform = seen.body
            whole = {"pipeline_spec": spec} | ({"platform_spec": platform[0]} if platform else {})
            self.spec(whole)
            if seen.query["pipelineid"] not in self.state.pipelines:
                return self.json({"error_message": "Failed to create a pipeline version", "error_details": "…"}, 400)
            if seen.query["name"] == "refused":
                return self.json({"error_message": "shared pipeline upload denied: permission is required"}, 400)
            # The server keeps a Struct: numbers come back as floats.
            made = {"pipeline_id": seen.query["pipelineid"], "pipeline_version_id": f"v-{len(self.state.versions) + 1}",
                    "display_name": seen.query["name"], "pipeline_spec": _floats(whole)}  # fmt: skip
            self.state.versions.append(made)
            return self.json(made)
        body = self.checked(seen, "V2beta1Pipeline")
        made = body | {"pipeline_id": f"p-{len(self.state.pipelines) + 1}"}
        self.state.pipelines[made["pipeline_id"]] = made
        return self.json(made)

    def delete_pipelines(self, seen: Seen, rest: str) -> bool:
        return self.json({}, 200 if self.state.pipelines.pop(rest, None) else 404)


def _floats(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _floats(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_floats(value) for value in data]
    return float(data) if isinstance(data, int) and not isinstance(data, bool) else data
