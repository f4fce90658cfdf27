"""The commands for the service's gallery: its encryption key, its backup, the people to enroll again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from eolgul.cli.output import extra, say
from eolgul.errors import InputError

app = typer.Typer(no_args_is_help=True, help="The people enrolled in the service.")
GalleryUrl = Annotated[
    str | None, typer.Option(envvar="EOLGUL_GALLERY_URL", help="Redis of the gallery, redis://host:port/db.")
]
EncryptionKeys = Annotated[
    Path | None, typer.Option(envvar="EOLGUL_ENCRYPTION_KEYS_FILE", help="The file of encryption keys.")
]
Tenants = Annotated[
    list[str] | None, typer.Option(help="Only this tenant (repeatable; default: all tenants that have an API key).")
]


@app.command("new-key")
def new_key(
    file: Annotated[Path, typer.Option(envvar="EOLGUL_ENCRYPTION_KEYS_FILE", help="The file of encryption keys.")],
    key_id: Annotated[str | None, typer.Option("--id", help="Id of the new key (default: random).")] = None,
) -> None:
    """Insert a new encryption key as the first one of the file, which is created if absent. Then restart the service and `reseal`."""
    with extra("serve"):
        from eolgul.serving.keyring import add_key

    say({"active": add_key(file, key_id), "file": str(file)})


@app.command()
def reseal(
    url: GalleryUrl = None,
    file: Annotated[
        Path | None,
        typer.Option(envvar="EOLGUL_ENCRYPTION_KEYS_FILE", help="The file of encryption keys, the new one first."),
    ] = None,
    tenant: Tenants = None,
) -> None:
    """Seal again, with the first encryption key, every value that an older key sealed.

    If `resealed` is 0, the older keys may be removed. User, password and certificate authorities of Redis, and the file of
    API keys, are the settings of the service (EOLGUL_REDIS_…, EOLGUL_API_KEYS_FILE). The embeddings do not change.
    """
    with extra("serve"):
        from eolgul.serving.gallery.reseal import reseal as step

    settings = _settings(url, file)
    active, counts = step(settings, tenant or ())
    say({"active": active, "resealed": sum(counts.values()), "tenants": counts})


@app.command()
def backup(
    out: Annotated[Path, typer.Argument(help="The file to write; its values stay sealed.")],
    url: GalleryUrl = None,
    file: EncryptionKeys = None,
    tenant: Tenants = None,
) -> None:
    """Write the gallery to a file while the service runs. It opens only with the encryption keys of its time: keep these elsewhere.

    `unreadable` counts the values that the file of encryption keys does not open. Redis' user and password are the settings
    of the service (EOLGUL_REDIS_…).
    """
    with extra("serve"):
        from eolgul.serving.gallery.backup import backup as step

    say({"backup": str(out), **step(_settings(url, file), out, tenant or ())})


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(help="A file that `backup` wrote.")],
    url: GalleryUrl = None,
    file: EncryptionKeys = None,
) -> None:
    """Put the people of a backup into an empty gallery, and print how many are there afterwards.

    A restore that was interrupted is started again. People erased since the backup come back: erase them again (audit log).
    """
    with extra("serve"):
        from eolgul.serving.gallery.backup import restore as step

    say(step(_settings(url, file), source))


def _settings(url: str | None, file: Path | None) -> Any:
    """The settings of the service; what is given here comes before its variables."""
    from pydantic import ValidationError

    with extra("serve"):
        from eolgul.serving.settings import Settings

    options: dict[str, Any] = {"gallery_url": url, "encryption_keys_file": file}
    try:
        return Settings(**{name: value for name, value in options.items() if value})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"EOLGUL_{str(first['loc'][0]).upper()}: {first['input']!r}, {first['msg']}") from error


Url = Annotated[str, typer.Option(help="Address of the service, http://… or https://….")]
KeyFile = Annotated[
    Path | None,
    typer.Option(help="File with an API key that has the scope `gallery` (default: EOLGUL_API_KEY)."),
]


@app.command("people")
def list_people(
    url: Url,
    key_file: KeyFile = None,
    search: Annotated[str, typer.Option(help="Only people whose id contains this, in any letter case.")] = "",
    prefix: Annotated[str, typer.Option(help="Only people whose id begins with this, in any letter case.")] = "",
) -> None:
    """List people: one line per person, with metadata."""
    from eolgul.cli.verify import read_key
    from eolgul.client import Client

    with Client(url, api_key=read_key(key_file)) as client:
        for person in client.people(search=search, prefix=prefix):
            say(person.model_dump(mode="json"))


@app.command("rename")
def rename_person(
    person: Annotated[str, typer.Argument(help="The person's id.")],
    new: Annotated[str, typer.Argument(help="The new id.")],
    url: Url,
    key_file: KeyFile = None,
) -> None:
    """Rename a person, who keeps templates and metadata. The key needs the scope `enroll`, too."""
    from eolgul.cli.verify import read_key
    from eolgul.client import Client

    with Client(url, api_key=read_key(key_file)) as client:
        say(client.rename_person(person, new).model_dump(mode="json"))


@app.command("outdated")
def list_outdated(url: Url, key_file: KeyFile = None) -> None:
    """List the people without a template of the served model: one line per person, then one with the counts.

    The served model cannot find them until they are enrolled again: templates of another model cannot be compared, and no
    photo is kept from which new ones could be made.
    """
    from eolgul.cli.verify import read_key
    from eolgul.client import Client

    people = outdated = 0
    with Client(url, api_key=read_key(key_file)) as client:
        for person in client.people():
            people += 1
            if not person.comparable:
                outdated += 1
                say({"person": person.person, "templates": person.templates})
    say({"people": people, "outdated": outdated})
