"""The commands about the Kubeflow pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eolgul.cli.output import extra, say

app = typer.Typer(no_args_is_help=True, help="The Kubeflow pipeline of the six steps.")


@app.command("compile")
def pipeline_compile(
    out: Annotated[Path, typer.Argument(help="The YAML file to write.")] = Path("face-recognition.yaml"),
) -> None:
    """Write the pipeline as the YAML file that Kubeflow reads."""
    with extra("pipeline"):
        from eolgul.pipelines import compiled

    compiled.compile_to(out)
    say({"artifact": str(out)})


Parameters = Annotated[
    list[str] | None, typer.Option("--param", help="A pipeline parameter as name=value; JSON for lists. Repeatable.")
]


@app.command("run")
def pipeline_run(
    param: Parameters = None,
    root: Annotated[Path, typer.Option(help="Where KFP's local runner keeps its outputs.")] = Path("local_outputs"),
) -> None:
    """Run the pipeline on this machine, with KFP's local runner."""
    with extra("pipeline"):
        from eolgul.pipelines import arguments, local_run

    say(local_run.run_local(arguments.parameters(param or []), root))


@app.command("submit")
def pipeline_submit(
    host: Annotated[str, typer.Option(envvar="KFP_HOST", help="Address of the Kubeflow Pipelines API.")],
    param: Parameters = None,
    experiment: Annotated[str, typer.Option(help="Experiment that the run belongs to.")] = "eolgul",
    run_name: Annotated[str | None, typer.Option(help="Name of the run. Default: Kubeflow chooses one.")] = None,
) -> None:
    """Submit the pipeline to a Kubeflow cluster."""
    with extra("pipeline"):
        from eolgul.pipelines import arguments, submission

    given = arguments.parameters(param or [])
    say(submission.submit(given, host=host, experiment=experiment, run_name=run_name))
