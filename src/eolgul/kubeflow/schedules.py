"""Recurring runs on Kubeflow: one at a time, and none for the times that were missed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import kfp_server_api as api

from eolgul.errors import InputError
from eolgul.kubeflow.connection import Connection
from eolgul.kubeflow.runs import Request, experiment_id, known, name_filter, source_of

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_FIELD = re.compile(r"[\w*?/,#\-]+")
_NAMED = re.compile(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly)")


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When runs begin: by a cron expression, or every so many seconds. Exactly one is set."""

    cron: str | None = None
    seconds: int | None = None

    @classmethod
    def read(cls, cron: str | None, every: str | None) -> Rhythm:
        """Read the two options of the command line.

        Raises:
            InputError: Not exactly one is given, or it cannot be read.
        """
        if (cron is None) == (every is None):
            raise InputError("expected --cron or --every: when a run begins")
        if every is not None:
            found = re.fullmatch(r"(\d{1,9})([smhd])", every)
            if not found or not int(found[1]):
                raise InputError(f"every {every!r}: expected a number with s, m, h or d, such as 12h")
            return cls(seconds=int(found[1]) * _UNITS[found[2]])
        assert cron is not None
        words = cron.split()
        if len(words) == 1 and _NAMED.fullmatch(words[0]):
            return cls(cron=words[0])
        if len(words) not in (5, 6) or not all(map(_FIELD.fullmatch, words)):
            raise InputError(
                f"cron {cron!r}: expected five fields such as '0 3 * * 1' (or six, with seconds before them)"
            )
        # KFP's cron has a field of seconds in front of the usual five.
        return cls(cron=" ".join(words if len(words) == 6 else ["0", *words]))

    def trigger(self) -> Any:
        """The rhythm as the API takes it."""
        if self.cron is not None:
            return api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=self.cron))
        return api.V2beta1Trigger(periodic_schedule=api.V2beta1PeriodicSchedule(interval_second=str(self.seconds)))


def schedule(
    connection: Connection,
    request: Request,
    rhythm: Rhythm,
    namespace: str | None,
    *,
    version: Mapping[str, str] | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Make a recurring run.

    Args:
        connection: The API.
        request: What is run.
        rhythm: When.
        namespace: The profile's namespace; None where Kubeflow has one user.
        version: An uploaded version to run in place of the pipeline's own text.
        replace: Remove the recurring runs of the same name in the experiment once the new one is there.

    Raises:
        InputError: The server refuses it, or has one of this name and `replace` is not set.
    """
    experiment = experiment_id(connection, request.experiment, namespace)
    listed = connection.ask(
        connection.recurring.recurring_run_service_list_recurring_runs,
        experiment_id=experiment, filter=name_filter(request.name), page_size=100,
    ).recurring_runs  # fmt: skip
    before = [known(one, "recurring_run_id", connection.host) for one in listed or ()]
    if before and not replace:
        raise InputError(
            f"{connection.host}: experiment {request.experiment} has a recurring run {request.name} ({before[0]}): "
            "--replace puts this one in its place, --run-name gives it another name"
        )
    made = connection.ask(
        connection.recurring.recurring_run_service_create_recurring_run,
        recurring_run=api.V2beta1RecurringRun(
            experiment_id=experiment,
            display_name=request.name,
            runtime_config=request.config(),
            service_account=request.service_account,
            namespace=namespace,
            trigger=rhythm.trigger(),
            mode="ENABLE",
            max_concurrency="1",
            no_catchup=True,
            **source_of(request, version),
        ),
    )
    recurring_id = known(made, "recurring_run_id", connection.host)
    for old in before:
        connection.ask(connection.recurring.recurring_run_service_delete_recurring_run, old)
    return {"recurring_run_id": recurring_id, "experiment_id": experiment, "name": request.name, "replaced": before,
            "link": connection.link(f"recurringrun/details/{recurring_id}")}  # fmt: skip
