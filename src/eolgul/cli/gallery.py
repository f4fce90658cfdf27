"""The commands about the service's gallery: rotating its encryption key, and who must be enrolled again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from eolgul.cli.output import extra, say
from eolgul.errors import InputError

app = typer.Typer(no_args_is_help=True, help="The people enrolled in the service.")


@app.command("new-key")
def new_key(
    file: Annotated[Path, typer.Option(envvar="EOLGUL_ENCRYPTION_KEYS_FILE", help="The file of encryption keys.")],
    key_id: Annotated[str | None, typer.Option("--id", help="Name of the key. Default: a random one.")] = None,
) -> None:
    """Add a new encryption key at the top of the file, which is created if missing. Then restart the service and `reseal`."""
    with extra("serve"):
        from eolgul.serving.keyring import add_key

    say({"active": add_key(file, key_id), "file": str(file)})


@app.command()
def reseal(
    url: Annotated[str | None, typer.Option(envvar="EOLGUL_GALLERY_URL", help="The gallery's Redis.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(envvar="EOLGUL_ENCRYPTION_KEYS_FILE", help="The encryption keys, the new one first."),
    ] = None,
    tenant: Annotated[
        list[str] | None, typer.Option(help="Only this tenant (repeatable; default: all that have an API key).")
    ] = None,
) -> None:
    """Encrypt again, with the first key, what older keys encrypted. Once `resealed` is 0, the older keys can be removed.

    User, password and authorities of Redis, and the file of API keys, are the service's settings (EOLGUL_REDIS_…,
    EOLGUL_API_KEYS_FILE). The embeddings stay what they are: another model needs the photos, which nobody keeps.
    """
    from pydantic import ValidationError

    with extra("serve"):
        from eolgul.serving.gallery.reseal import reseal as step
        from eolgul.serving.settings import Settings

    given: dict[str, Any] = {"gallery_url": url, "encryption_keys_file": file}
    try:
        settings = Settings(**{name: value for name, value in given.items() if value})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"EOLGUL_{str(first['loc'][0]).upper()}: {first['input']!r}, {first['msg']}") from error
    active, counts = step(settings, tenant or ())
    say({"active": active, "resealed": sum(counts.values()), "tenants": counts})


@app.command()
def outdated(
    url: Annotated[str, typer.Option(help="The service.")],
    key_file: Annotated[
        Path | None,
        typer.Option(help="A file that holds an API key with the scope `gallery` (or EOLGUL_API_KEY holds it)."),
    ] = None,
) -> None:
    """List the people who must be enrolled again, one JSON line per person, and then the counts.

    They have no template of the served model: templates of another model cannot be compared, and no photo is kept to
    make new ones from.
    """
    from eolgul.cli.verify import read_key
    from eolgul.client import Client

    people = unfound = 0
    with Client(url, api_key=read_key(key_file)) as client:
        for one in client.people():
            people += 1
            if one.comparable is None:
                raise InputError(f"{url}: this service does not say which model made a template; it is an older one")
            if not one.comparable:
                unfound += 1
                say({"person": one.person, "templates": one.templates})
    say({"people": people, "outdated": unfound})
