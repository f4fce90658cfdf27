"""Pipelines and their versions on Kubeflow: upload one under a name that says from which source it was compiled."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import kfp_server_api as api

from eolgul import __version__
from eolgul.errors import InputError
from eolgul.kubeflow.connection import Connection
from eolgul.kubeflow.runs import Compiled, known, name_filter

_SOURCE = Path(__file__).resolve().parent


def revision(folder: Path = _SOURCE) -> str:
    """The git revision of the source that runs, with `-dirty` for changes; the package's version outside a clone."""
    try:
        said = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return __version__
    return said.stdout.strip() if said.returncode == 0 and said.stdout.strip() else __version__


def upload(
    connection: Connection, pipeline: Compiled, namespace: str | None, *, version_name: str, name: str | None = None
) -> dict[str, Any]:
    """Upload a version of the pipeline; the pipeline is made where there is none of its name.

    A version of the same name and content is not uploaded again, so that the same source may be uploaded twice.

    Args:
        connection: The API.
        pipeline: The compiled pipeline.
        namespace: The profile's namespace; None where Kubeflow has one user.
        version_name: The name of the version.
        name: The pipeline's name. Default: the one in its text.

    Returns:
        `pipeline_id`, `pipeline_version_id`, both names, and whether something was `uploaded`.

    Raises:
        InputError: The server refuses it, or has another version of this name.
    """
    name = name or pipeline.name
    scope = {"namespace": namespace} if namespace else {}
    listed = connection.ask(
        connection.pipelines.pipeline_service_list_pipelines, filter=name_filter(name), **scope
    ).pipelines
    existing = next(iter(listed or ()), None)
    if existing is None:
        made = connection.ask(
            connection.pipelines.pipeline_service_create_pipeline,
            pipeline=api.V2beta1Pipeline(display_name=name, name=name, namespace=namespace),
        )
        pipeline_id = known(made, "pipeline_id", connection.host)
        try:
            version_id = _upload(connection, pipeline, pipeline_id, version_name)
        except InputError:
            # A pipeline without a version cannot be run or looked at.
            connection.ask(connection.pipelines.pipeline_service_delete_pipeline, pipeline_id)
            raise
        return _facts(connection, name, version_name, pipeline_id, version_id, uploaded=True)
    pipeline_id = known(existing, "pipeline_id", connection.host)
    same_name = connection.ask(
        connection.pipelines.pipeline_service_list_pipeline_versions, pipeline_id, filter=name_filter(version_name)
    ).pipeline_versions
    for version in same_name or ():
        if _parts(version.pipeline_spec) != pipeline.spec():
            raise InputError(
                f"{connection.host}: pipeline {name} has another version {version_name}: give a name with --version-name"
            )
        version_id = known(version, "pipeline_version_id", connection.host)
        return _facts(connection, name, version_name, pipeline_id, version_id, uploaded=False)
    version_id = _upload(connection, pipeline, pipeline_id, version_name)
    return _facts(connection, name, version_name, pipeline_id, version_id, uploaded=True)


def _upload(connection: Connection, pipeline: Compiled, pipeline_id: str, version_name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        file.write_text(pipeline.text(), encoding="utf-8")
        made = connection.ask(
            connection.uploads.upload_pipeline_version, str(file), name=version_name, pipelineid=pipeline_id
        )
    return known(made, "pipeline_version_id", connection.host)


def _parts(spec: Any) -> Any:
    """A version's text as the server gives it back: the pipeline alone, or pipeline and platform."""
    if isinstance(spec, dict) and "pipeline_spec" in spec:
        return {key: value for key, value in spec.items() if value}
    return {"pipeline_spec": spec}


def _facts(
    connection: Connection, name: str, version_name: str, pipeline_id: str, version_id: str, *, uploaded: bool
) -> dict[str, Any]:
    return {
        "pipeline": name,
        "version": version_name,
        "pipeline_id": pipeline_id,
        "pipeline_version_id": version_id,
        "uploaded": uploaded,
        "link": connection.link(f"pipelines/details/{pipeline_id}/version/{version_id}"),
    }
