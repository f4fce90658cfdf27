"""Recurring runs: the rhythm, one at a time, none for missed times, and no second one by accident."""

from __future__ import annotations

import pytest
from support.kubeflow import Kubeflow

from eolgul.errors import InputError
from eolgul.kubeflow.connection import Connection
from eolgul.kubeflow.runs import Request
from eolgul.kubeflow.schedules import Rhythm, schedule


@pytest.mark.parametrize(
    ("cron", "every", "rhythm"),
    [
        ("0 3 * * 1", None, Rhythm(cron="0 0 3 * * 1")),
        ("30 0 3 * * MON-FRI", None, Rhythm(cron="30 0 3 * * MON-FRI")),
        ("@daily", None, Rhythm(cron="@daily")),
        (None, "12h", Rhythm(seconds=43200)),
        (None, "90s", Rhythm(seconds=90)),
    ],
)
def test_rhythms(cron: str | None, every: str | None, rhythm: Rhythm) -> None:
    assert Rhythm.read(cron, every) == rhythm


@pytest.mark.parametrize(
    ("cron", "every", "says"),
    [
        (None, None, "expected --cron or --every"),
        ("* * * * *", "1h", "expected --cron or --every"),
        ("* * *", None, "five fields"),
        ("rm -rf / ; x", None, "five fields"),
        ("@never", None, "five fields"),
        (None, "0h", "such as 12h"),
        (None, "1.5h", "such as 12h"),
        (None, "12", "such as 12h"),
    ],
)
def test_rhythms_that_are_none(cron: str | None, every: str | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Rhythm.read(cron, every)


def test_a_schedule_runs_one_at_a_time_and_catches_up_nothing(
    server: Kubeflow, connection: Connection, request_: Request
) -> None:
    said = schedule(connection, request_, Rhythm(cron="0 0 3 * * *"), None)
    assert said["recurring_run_id"] == "s-1" and said["replaced"] == []
    made = server.recurring["s-1"]
    assert (made["max_concurrency"], made["no_catchup"], made["mode"]) == ("1", True, "ENABLE")
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
    assert made["runtime_config"]["parameters"] == {"number": 4, "words": ["x", "y"]}
    assert made["pipeline_spec"].keys() == {"pipeline_spec", "platform_spec"}


def test_an_interval_and_an_uploaded_version(server: Kubeflow, connection: Connection, request_: Request) -> None:
    version = {"pipeline_id": "p", "pipeline_version_id": "v"}
    schedule(connection, request_, Rhythm(seconds=3600), "mine", version=version)
    made = server.recurring["s-1"]
    assert made["trigger"] == {"periodic_schedule": {"interval_second": "3600"}}
    assert made["pipeline_version_reference"] == version and made["namespace"] == "mine"


def test_the_same_name_again_is_refused_or_replaces(
    server: Kubeflow, connection: Connection, request_: Request
) -> None:
    schedule(connection, request_, Rhythm(seconds=3600), None)
    with pytest.raises(InputError, match=r"has a recurring run first \(s-1\): --replace"):
        schedule(connection, request_, Rhythm(seconds=60), None)
    assert list(server.recurring) == ["s-1"]
    server.mode = "run:400"
    with pytest.raises(InputError, match="unknown template"):
        schedule(connection, request_, Rhythm(seconds=60), None, replace=True)
    assert list(server.recurring) == ["s-1"]  # a refused successor leaves the old one
    server.mode = "ok"
    assert schedule(connection, request_, Rhythm(seconds=60), None, replace=True)["replaced"] == ["s-1"]
    assert [one["trigger"]["periodic_schedule"]["interval_second"] for one in server.recurring.values()] == ["60"]
