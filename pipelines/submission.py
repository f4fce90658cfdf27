"""Submit the pipeline to Kubeflow."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kfp import Client
from kfp_server_api import ApiException
from urllib3.exceptions import HTTPError

from eolgul.errors import InputError
from eolgul.pipelines.compiled import compile_to


def submit(arguments: dict[str, Any], *, host: str, experiment: str, run_name: str | None) -> dict[str, Any]:
    """Submit the pipeline to a Kubeflow Pipelines API and return the run's id.

    Raises:
        InputError: When the API cannot be reached or refuses the run.
    """
    with TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"
        compile_to(package)
        try:
            run = Client(host=host).create_run_from_pipeline_package(
                str(package), arguments=arguments, experiment_name=experiment, run_name=run_name
            )
        except (HTTPError, ApiException, OSError) as error:
            reason = str(getattr(error, "reason", None) or error).strip().splitlines()[0]
            raise InputError(f"{host}: Kubeflow Pipelines did not accept the run ({reason})") from error
    return {"run_id": run.run_id}
