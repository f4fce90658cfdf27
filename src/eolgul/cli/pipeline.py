"""The commands about the Kubeflow pipelines."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eolgul.cli.options import options_of
from eolgul.cli.output import extra, print_line, say
from eolgul.kubeflow.access import Access

if TYPE_CHECKING:
    from eolgul.kubeflow.connection import Connection
    from eolgul.kubeflow.runs import Compiled, Request

app = typer.Typer(no_args_is_help=True, help="The Kubeflow pipelines of the six steps.")

_EXPERIMENT = "eolgul"
_DEFAULT = "face-recognition"

Name = Annotated[
    str,
    typer.Option(
        "--pipeline",
        help="The pipeline: face-recognition, evaluate-only (a model on benchmarks), retrain (with new people), promote or "
        "roll-back.",
    ),
]
Parameters = Annotated[
    list[str] | None, typer.Option("--param", help="A pipeline parameter as name=value; JSON for lists. Repeatable.")
]
Experiment = Annotated[
    str,
    typer.Option(
        envvar="KF_PIPELINES_DEFAULT_EXPERIMENT_NAME",
        help="Experiment that the run belongs to. KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME goes before it.",
    ),
]
ServiceAccount = Annotated[str | None, typer.Option(help="Service account of the run's pods. Default: Kubeflow's own.")]
PipelineRoot = Annotated[
    str | None, typer.Option(help="Where KFP keeps reports and figures. Default: Kubeflow's own place.")
]
Upload = Annotated[
    bool, typer.Option("--upload", help="Upload the pipeline as `upload` does, and run that version of it.")
]
VersionName = Annotated[
    str | None, typer.Option(help="Name of an uploaded version. Default: the git revision of the source.")
]
AnyVersion = Annotated[bool, typer.Option("--any-version", help="Do not ask whether KFP is recent enough.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything here and ask the server nothing.")]
Hours = Annotated[float, typer.Option(help="Hours to wait for the run's end at most.", min=0)]


@app.command("compile")
def pipeline_compile(
    out: Annotated[
        Path | None, typer.Argument(help="The YAML file to write. Default: the pipeline's name with .yaml.")
    ] = None,
    pipeline: Name = _DEFAULT,
) -> None:
    """Write a pipeline as the YAML file that Kubeflow reads."""
    with extra("pipeline"):
        from eolgul.pipelines import compiled

    out = out or Path(f"{pipeline}.yaml")
    compiled.compile_to(out, pipeline)
    say({"artifact": str(out), "pipeline": pipeline})


@app.command("run")
def pipeline_run(
    pipeline: Name = _DEFAULT,
    param: Parameters = None,
    root: Annotated[Path, typer.Option(help="Where KFP's local runner keeps its outputs.")] = Path("local_outputs"),
) -> None:
    """Run a pipeline on this machine, with KFP's local runner."""
    with extra("pipeline"):
        from eolgul.pipelines import arguments, local_run

    say(local_run.run_local(arguments.parameters(param or [], pipeline), root, pipeline))


@app.command("submit")
@options_of(Access, parameter="access")
def pipeline_submit(
    access: Access,
    pipeline: Name = _DEFAULT,
    param: Parameters = None,
    experiment: Experiment = _EXPERIMENT,
    run_name: Annotated[
        str | None, typer.Option(help="Name of the run. Default: the pipeline's with the time.")
    ] = None,
    service_account: ServiceAccount = None,
    pipeline_root: PipelineRoot = None,
    upload: Upload = False,
    version_name: VersionName = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run; exit with 1 when it fails.")] = False,
    hours: Hours = 168.0,
    any_version: AnyVersion = False,
    dry_run: DryRun = False,
) -> None:
    """Submit a pipeline to a Kubeflow cluster. Exits with 2 when it is not accepted, with 1 when a followed run fails."""
    with extra("pipeline"):
        from eolgul.kubeflow import runs
        from eolgul.kubeflow.connection import Connection

    request = _request(pipeline, param, experiment, run_name, service_account, pipeline_root)
    connection = Connection(access)
    if dry_run:
        say({"dry_run": True, "host": connection.host, "namespace": access.namespace, **_told(request)})
        return
    namespace, facts = _greet(connection, any_version)
    version = _version(connection, request.pipeline, namespace, version_name, facts) if upload else None
    facts |= runs.submit(connection, request, namespace, version)
    if wait:
        print_line(f"submitted: {facts['link']}")
        _follow(connection, facts["run_id"], hours, facts)
    else:
        say(facts)


@app.command("wait")
@options_of(Access, parameter="access")
def pipeline_wait(
    access: Access,
    run_id: Annotated[str, typer.Argument(help="The run_id that submit printed.")],
    hours: Hours = 168.0,
) -> None:
    """Follow a run to its end. Exits with 1 when it fails, with the failed task's message."""
    with extra("pipeline"):
        from eolgul.kubeflow.connection import Connection

    connection = Connection(access)
    _follow(connection, run_id, hours, {"run_id": run_id, "link": connection.link(f"runs/details/{run_id}")})


@app.command("upload")
@options_of(Access, parameter="access")
def pipeline_upload(
    access: Access,
    pipeline: Name = _DEFAULT,
    pipeline_name: Annotated[str | None, typer.Option(help="Name of the pipeline. Default: its own.")] = None,
    version_name: VersionName = None,
    any_version: AnyVersion = False,
    dry_run: DryRun = False,
) -> None:
    """Upload a pipeline to Kubeflow, or a new version of it, named after the source that it was compiled from."""
    with extra("pipeline"):
        from eolgul.kubeflow.connection import Connection
        from eolgul.kubeflow.versions import revision

    compiled = _pipeline(pipeline)
    connection = Connection(access)
    version_name = version_name or revision()
    if dry_run:
        say({"dry_run": True, "host": connection.host, "namespace": access.namespace,
             "pipeline": pipeline_name or compiled.name, "version": version_name, "images": compiled.images})  # fmt: skip
        return
    namespace, facts = _greet(connection, any_version)
    _version(connection, compiled, namespace, version_name, facts, pipeline_name)
    say(facts)


@app.command("schedule")
@options_of(Access, parameter="access")
def pipeline_schedule(
    access: Access,
    pipeline: Name = _DEFAULT,
    param: Parameters = None,
    cron: Annotated[
        str | None, typer.Option(help="When runs begin: five fields such as '0 3 * * 1', or six with seconds first.")
    ] = None,
    every: Annotated[str | None, typer.Option(help="Time between two runs' beginnings, such as 12h or 7d.")] = None,
    experiment: Experiment = _EXPERIMENT,
    run_name: Annotated[str | None, typer.Option(help="Name of the recurring run. Default: the pipeline's.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove the recurring run of this name once the new one is there.")
    ] = False,
    service_account: ServiceAccount = None,
    pipeline_root: PipelineRoot = None,
    upload: Upload = False,
    version_name: VersionName = None,
    any_version: AnyVersion = False,
    dry_run: DryRun = False,
) -> None:
    """Run a pipeline again and again: one run at a time, and none for the times that were missed."""
    with extra("pipeline"):
        from eolgul.kubeflow import schedules
        from eolgul.kubeflow.connection import Connection

    rhythm = schedules.Rhythm.read(cron, every)
    request = _request(pipeline, param, experiment, run_name or "", service_account, pipeline_root)
    connection = Connection(access)
    if dry_run:
        when = {"cron": rhythm.cron} if rhythm.cron else {"seconds": rhythm.seconds}
        say({"dry_run": True, "host": connection.host, "namespace": access.namespace, **_told(request), **when})
        return
    namespace, facts = _greet(connection, any_version)
    version = _version(connection, request.pipeline, namespace, version_name, facts) if upload else None
    say(facts | schedules.schedule(connection, request, rhythm, namespace, version=version, replace=replace))


def _pipeline(name: str) -> Compiled:
    from eolgul.kubeflow.runs import Compiled
    from eolgul.pipelines import compiled

    return Compiled(compiled.compiled(name))


def _request(
    which: str, param: list[str] | None, experiment: str, name: str | None, account: str | None, root: str | None
) -> Request:
    """What is to be run of the pipeline `which`. Name: None for one with the time, "" for the pipeline's own."""
    from eolgul.kubeflow.runs import Request
    from eolgul.pipelines import arguments

    parameters = arguments.parameters(param or [], which)
    pipeline = _pipeline(which)
    if name is None:
        name = f"{pipeline.name} {time.strftime('%Y-%m-%d %H-%M-%S')}"
    experiment = os.environ.get("KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME") or experiment
    return Request(pipeline, parameters, name or pipeline.name, experiment, account, root)


def _told(request: Request) -> dict[str, Any]:
    """What a dry run says of a request."""
    return {
        "pipeline": request.pipeline.name,
        "name": request.name,
        "experiment": request.experiment,
        "parameters": dict(request.parameters),
        "images": request.pipeline.images,
    }


def _greet(connection: Connection, any_version: bool) -> tuple[str | None, dict[str, Any]]:
    """Ask who answers: the namespace to use, and the first facts of the JSON line."""
    health = connection.health()
    if not any_version:
        health.check(connection.host)
        if not health.version:
            print_line(f"{connection.host} does not say which KFP it is; the pipeline needs 2.14 or later")
    namespace = connection.namespace(health)
    return namespace, {"host": connection.host, "namespace": namespace, "kfp": health.version or None}


def _version(
    connection: Connection,
    pipeline: Compiled,
    namespace: str | None,
    version_name: str | None,
    facts: dict[str, Any],
    name: str | None = None,
) -> Mapping[str, str]:
    """Upload the pipeline, add that to the facts, and return the version's ids."""
    from eolgul.kubeflow import versions

    done = versions.upload(connection, pipeline, namespace, version_name=version_name or versions.revision(), name=name)
    facts |= done
    return {key: str(done[key]) for key in ("pipeline_id", "pipeline_version_id")}


def _follow(connection: Connection, run_id: str, hours: float, facts: dict[str, Any]) -> None:
    """Wait for a run's end, say the facts, and exit with 1 when it did not succeed."""
    from eolgul.kubeflow.runs import follow

    ended = follow(connection, run_id, seconds=hours * 3600, say=print_line)
    say(facts | ended)
    if "error" in ended:
        print_line(f"eolgul: {ended['error']}")
        raise typer.Exit(1)
