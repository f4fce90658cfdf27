"""The commands about the Kubeflow pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eolgul.cli_output import say

app = typer.Typer(no_args_is_help=True, help="The Kubeflow pipeline of the six steps.")


@app.command("compile")
def pipeline_compile(
    out: Annotated[Path, typer.Argument(help="The YAML file to write.")] = Path("face-recognition.yaml"),
) -> None:
    """Compile the pipeline to the YAML that Kubeflow takes."""
    from eolgul.checkout import room

    room("pipelines.face_recognition").compile_to(out)
    say({"artifact": str(out)})


Parameters = Annotated[
    list[str] | None, typer.Option("--param", help="A pipeline parameter: name=value, JSON for lists.")
]


@app.command("run")
def pipeline_run(
    param: Parameters = None,
    root: Annotated[Path, typer.Option(help="Where KFP's local runner keeps its outputs.")] = Path("local_outputs"),
) -> None:
    """Run the pipeline here, with KFP's local runner."""
    from eolgul.checkout import room

    module = room("pipelines.face_recognition")
    say(module.run_local(module.parameters(param or []), root))


@app.command("submit")
def pipeline_submit(
    host: Annotated[str, typer.Option(envvar="KFP_HOST", help="Address of the Kubeflow Pipelines API.")],
    param: Parameters = None,
    experiment: str = "eolgul",
    run_name: str | None = None,
) -> None:
    """Submit the pipeline to a Kubeflow cluster."""
    from eolgul.checkout import room

    module = room("pipelines.face_recognition")
    say(module.submit(module.parameters(param or []), host=host, experiment=experiment, run_name=run_name))
