"""Submitting a run and following it, against a server that checks every request with kfp-server-api's models."""

from __future__ import annotations

from typing import Any

import pytest
from support.kubeflow import Kubeflow

from eolgul.errors import InputError
from eolgul.kubeflow.access import Access
from eolgul.kubeflow.connection import Connection
from eolgul.kubeflow.logs import last_sentence
from eolgul.kubeflow.runs import Request, follow, submit


def test_a_run_is_made_in_its_experiment(server: Kubeflow, connection: Connection, request_: Request) -> None:
    said = submit(connection, request_, None)
    assert said == {
        "run_id": "r-1",
        "experiment_id": "e-1",
        "name": "first",
        "link": f"{server.address}/#/runs/details/r-1",
    }
    run = server.runs["r-1"]
    assert run["runtime_config"] == {"parameters": {"number": 4, "words": ["x", "y"]}}
    assert run["pipeline_spec"].keys() == {"pipeline_spec", "platform_spec"}
    assert "service_account" not in run
    submit(connection, request_, None)
    assert len(server.experiments) == 1  # the second run finds the first one's experiment


def test_options_of_a_run_reach_the_server(server: Kubeflow, connection: Connection, request_: Request) -> None:
    server.multi_user = True
    request = Request(request_.pipeline, {}, "n", "e", service_account="trainer", pipeline_root="s3://b/root")
    submit(connection, request, "mine")
    assert server.experiments["e-1"]["namespace"] == "mine"
    assert server.runs["r-1"]["service_account"] == "trainer"
    assert server.runs["r-1"]["runtime_config"] == {"parameters": {}, "pipeline_root": "s3://b/root"}
    submit(connection, request, "mine", {"pipeline_id": "p", "pipeline_version_id": "v"})
    assert server.runs["r-2"]["pipeline_version_reference"] == {"pipeline_id": "p", "pipeline_version_id": "v"}
    assert "pipeline_spec" not in server.runs["r-2"]


def test_an_archived_experiment_is_not_used(server: Kubeflow, connection: Connection, request_: Request) -> None:
    server.experiments["e-1"] = {"experiment_id": "e-1", "display_name": "eolgul", "storage_state": "ARCHIVED"}
    assert submit(connection, request_, None)["experiment_id"] == "e-2"


def followed(connection: Connection, **options: Any) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    ended = follow(
        connection, "r-1", say=lines.append, sleep=lambda _: None, **({"seconds": 60.0, "every": 0.0} | options)
    )
    return ended, lines


def test_a_run_is_followed_to_its_end(server: Kubeflow, connection: Connection, request_: Request) -> None:
    submit(connection, request_, None)
    ended, lines = followed(connection)
    assert ended["state"] == "SUCCEEDED" and "error" not in ended
    assert lines == [
        "root: pending", "extract-driver: succeeded", "extract: running", "run: pending", "root: running",
        "run: running", "root: succeeded", "extract: succeeded", "run: succeeded",
    ]  # fmt: skip


def test_a_failed_run_says_what_the_task_said(server: Kubeflow, connection: Connection, request_: Request) -> None:
    server.states = ["RUNNING", "FAILED"]
    submit(connection, request_, None)
    ended, _ = followed(connection)
    assert ended["state"] == "FAILED"
    assert ended["error"] == "extract: s3://nope/raw/orl: NoSuchBucket, the bucket does not exist"
    (log,) = server.of("GET", "/log")
    assert log.path == "/apis/v1alpha1/runs/r-1/nodes/face-recognition-x7-impl-99/log"


def test_without_a_log_the_servers_message(server: Kubeflow, connection: Connection, request_: Request) -> None:
    server.states, server.log = ["FAILED"], None
    submit(connection, request_, None)
    assert followed(connection)[0]["error"] == "extract: main: Error (exit code 1)"


def test_a_cancelled_run_is_no_success(server: Kubeflow, connection: Connection, request_: Request) -> None:
    server.states = ["CANCELED"]
    submit(connection, request_, None)
    assert followed(connection)[0]["error"] == "the run is canceled"


def test_the_wait_has_an_end(server: Kubeflow, connection: Connection, request_: Request) -> None:
    server.states = ["RUNNING"]
    submit(connection, request_, None)
    ended, _ = followed(connection, seconds=5.0, every=6.0)
    assert ended["state"] == "RUNNING" and "still running after 5 s" in ended["error"]


@pytest.mark.parametrize("mode", ["503", "reset", "hang"])
def test_a_server_that_is_away_for_a_while_does_not_end_the_wait(
    server: Kubeflow, request_: Request, mode: str
) -> None:
    connection = Connection(Access(host=server.address, timeout=0.4))
    submit(connection, request_, None)
    looks = 0
    lines: list[str] = []

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        server.mode = mode if looks == 1 else "ok"

    ended = follow(connection, "r-1", seconds=60, every=0, say=lines.append, sleep=sleep)
    assert ended["state"] == "SUCCEEDED"
    assert sum("asking again" in line for line in lines) == 1


def test_a_server_that_stays_away_ends_the_wait(server: Kubeflow, connection: Connection, request_: Request) -> None:
    submit(connection, request_, None)
    server.mode = "503"
    with pytest.raises(InputError, match="upstream connect error"):
        followed(connection, patience=0.0)


@pytest.mark.parametrize(("mode", "says"), [("401", "give a token"), ("403", "forbids"), ("dex", "login")])
def test_a_refusal_ends_the_wait_at_once(
    server: Kubeflow, connection: Connection, request_: Request, mode: str, says: str
) -> None:
    submit(connection, request_, None)
    server.mode = mode
    with pytest.raises(InputError, match=says):
        followed(connection)


def test_a_run_that_nobody_knows(server: Kubeflow, connection: Connection) -> None:
    with pytest.raises(InputError, match="Run r-1 not found"):
        followed(connection)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["x", "eolgul.errors.InputError: the bucket is not there"], "the bucket is not there"),
        (["torch.cuda.OutOfMemoryError: CUDA out of memory", "F1128 main.go: exit"], "torch.cuda.OutOfMemoryError: CUDA out of memory"),
        (["Killed", "time=2026 level=error msg=gone", ""], "Killed"),
        (["eolgul.errors.InputError: a", "subprocess.CalledProcessError: Command died"], "a"),
        ([], ""),
    ],
)  # fmt: skip
def test_the_sentence_in_a_log(lines: list[str], sentence: str) -> None:
    assert last_sentence(lines) == sentence
