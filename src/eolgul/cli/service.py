"""The commands of the service: serve, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eolgul.cli.options import model_or_registry, refuse_given
from eolgul.cli.output import extra, say

app = typer.Typer()
_PANEL = "Service"


@app.command(rich_help_panel=_PANEL)
def serve(
    context: typer.Context,
    registry: Annotated[
        str, typer.Option(envvar="EOLGUL_REGISTRY", help="Registry whose production model is served.")
    ] = "",
    model: Annotated[
        Path | None, typer.Option(envvar="EOLGUL_MODEL", help="Folder of a ModelPackage, instead of a registry.")
    ] = None,
    redis_url: Annotated[
        str, typer.Option(envvar="EOLGUL_REDIS_URL", help="Redis that caches embeddings. Default: no cache.")
    ] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 3000,
    wait: Annotated[
        bool | None,
        typer.Option(
            envvar="EOLGUL_WAIT",
            help="Without a model, its store or the key files: wait for them with /readyz 503 and the reason, or end with one sentence. "
            "Default: wait, unless a person is at a terminal.",
        ),
    ] = None,
) -> None:
    """Serve the production model over HTTP (BentoML) until stopped."""
    with extra("serve"):
        from eolgul.serving import launch

    registry, model = model_or_registry(context, registry, model)
    raise typer.Exit(launch.serve(port=port, host=host, wait=wait, registry=registry, model=model, redis_url=redis_url))


@app.command(rich_help_panel=_PANEL)
def verify(
    context: typer.Context,
    image1: Annotated[Path, typer.Argument(help="An image of a face.")],
    image2: Annotated[Path, typer.Argument(help="Another image of a face.")],
    url: Annotated[str, typer.Option(help="Address of a running service. Default: load the model here.")] = "",
    registry: Annotated[
        str, typer.Option(envvar="EOLGUL_REGISTRY", help="Without --url: registry whose production model decides.")
    ] = "",
    model: Annotated[
        Path | None, typer.Option(envvar="EOLGUL_MODEL", help="Without --url: folder of a ModelPackage.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="With --url: file of the API key. Default: the key in EOLGUL_API_KEY.")
    ] = None,
) -> None:
    """Decide whether two images show the same person."""
    from eolgul.cli.verify import read_key, verify_here, verify_over_http

    if url:
        refuse_given(context, ("registry", "model"), "a verdict without --url; the service chooses its model")
        say(verify_over_http(url, image1, image2, api_key=read_key(key_file)))
    else:
        refuse_given(context, ("key_file",), "a verdict with --url")
        registry, model = model_or_registry(context, registry, model)
        say(verify_here(image1, image2, registry=registry, model=model))
