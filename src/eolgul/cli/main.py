"""The command line. Facts go to stdout as one JSON line, everything else to stderr.

Exit codes: 0 when the artifact is whole, 2 on bad input (with one sentence), 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from eolgul import __version__
from eolgul.cli import data, gallery, keys, models, pipeline, service
from eolgul.cli.options import refuse_given
from eolgul.cli.output import missing, print_line
from eolgul.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for commands in (data, models, service):
    app.add_typer(commands.app)
app.add_typer(pipeline.app, name="pipeline", rich_help_panel="Whole runs")
app.add_typer(keys.app, name="key", rich_help_panel="Service")
app.add_typer(gallery.app, name="gallery", rich_help_panel="Service")
app.add_typer(keys.signing_app, name="signing-key", rich_help_panel="Models")


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Face verification from raw data to a served model. `eolgul COMMAND --help` explains a command."""


def main() -> None:
    """Run the command line, turning bad input into one sentence and exit code 2."""
    # A stop of either kind unwinds the blocks that remove half-made artifacts and end what was started. SIGINT is set
    # too, since a shell starts background jobs with it ignored.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["PYTHONSAFEPATH"] = "1"  # the processes that commands start import nothing from the working directory
    try:
        app()
    except InputError as error:
        print_line(f"eolgul: {error}")
        sys.exit(2)
    except OSError as error:  # a disk that fails, a file that was removed: no step has a sentence for it
        place = f"{error.filename}: " if error.filename else ""
        print_line(f"eolgul: {place}{error.strerror or type(error).__name__}")
        sys.exit(2)
    except ModuleNotFoundError as error:  # of an extra that is not installed: each image has those of its step only
        if (sentence := missing(error)) is None:
            raise
        print_line(f"eolgul: {sentence}")
        sys.exit(2)


def _leave(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)


@app.command(rich_help_panel="Whole runs")
def demo(
    context: typer.Context,
    source: Annotated[
        Path | None,
        typer.Option(help="Folder of your own photos, <identity>/<image>. Default: draw people who do not exist."),
    ] = None,
    work: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service running at the end, until Ctrl-C.")] = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="The longer run: more images, and MobileFaceNet instead of a smaller network."),
    ] = False,
    people: Annotated[
        int | None, typer.Option(help="Drawn people in the K-FACE tree. Only without --source. Default: 60.", min=12)
    ] = None,
    rec_people: Annotated[
        int | None,
        typer.Option(help="Drawn people in train.rec. Only without --source. Default: 150.", min=12),
    ] = None,
    min_images: Annotated[int, typer.Option(help="With --source: leave out identities with fewer images.", min=2)] = 4,
    max_identities: Annotated[
        int, typer.Option(help="With --source: take at most this many identities.", min=12)
    ] = 200,
    which: Annotated[
        str,
        typer.Option(help="Which face of several counts. Default: largest, with --source center."),
    ] = "",
    recipe: Annotated[
        str,
        typer.Option(
            help="Training recipe: a .toml file or a name, as for train. Default: demo, with --full demo-full."
        ),
    ] = "",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Recipe key to change, as key=value. Repeatable.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the service.")] = 3000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON on a terminal, too.")] = False,
) -> None:
    """Run everything on this machine: raw data, pipeline, registry, service, verdicts."""
    if source:
        refuse_given(context, ("people", "rec_people"), "drawn people, not for a --source")
        if full and recipe:
            raise InputError(
                f"--full and --recipe {recipe}: with a --source, --full only chooses the recipe; expected one"
            )
    else:
        refuse_given(context, ("min_images", "max_identities"), "photos from a --source")
    from eolgul.demo import DemoOptions
    from eolgul.demo import run as run_demo

    run_demo(
        DemoOptions(
            source=source,
            work=work.absolute(),
            full=full,
            keep=keep,
            people=people,
            rec_people=rec_people,
            min_images=min_images,
            max_identities=max_identities,
            # Collections of single people (LFW among them) put the person they name in the middle.
            which=which or ("center" if source else "largest"),
            recipe=recipe,
            overrides=tuple(overrides or ()),
            port=port,
            json=as_json,
        )
    )
