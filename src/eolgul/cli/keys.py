"""The commands for keys: API keys of the service, and keys that sign published models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eolgul.cli.output import extra, say
from eolgul.errors import InputError

if TYPE_CHECKING:
    from eolgul.client import Client

app = typer.Typer(no_args_is_help=True, help="API keys of the service.")
signing_app = typer.Typer(no_args_is_help=True, help="Keys that sign published models.")

KeysFile = Annotated[
    Path | None,
    typer.Option("--file", envvar="EOLGUL_API_KEYS_FILE", help="The file of API keys (it holds their hashes)."),
]
Url = Annotated[
    str | None,
    typer.Option(
        help="Address of a running service, http://… or https://…, instead of a file: the keys of its caller's tenant."
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(help="With --url: file with an API key that has the scope `admin` (default: EOLGUL_API_KEY)."),
]


@app.command("new")
def key_new(
    scope: Annotated[
        list[str], typer.Option(help="verify, detect, embed, identify, enroll, gallery or admin (repeatable).")
    ],
    file: KeysFile = None,
    url: Url = None,
    key_file: KeyFile = None,
    tenant: Annotated[
        str | None, typer.Option(help="Owner of the key; each tenant has its own gallery and cache. Not with --url.")
    ] = None,
    days: Annotated[float | None, typer.Option(help="Days until the key expires (default: never).", min=0)] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(help="Rate limit of this key (default: that of the service).", min=1)
    ] = None,
    note: Annotated[str, typer.Option(help="Note for readers of the file.")] = "",
) -> None:
    """Create an API key. It is printed once and stored nowhere; the file, or the service, holds its hash."""
    from datetime import UTC, datetime, timedelta

    expires = None if days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    if url is not None:
        if tenant is not None:
            raise InputError("--tenant with --url: the key belongs to the tenant of the key that asks")
        with _service(url, key_file) as client:
            made = client.make_api_key(scope, expires=expires, requests_per_minute=requests_per_minute, note=note)
        say({"key": made.key, **made.entry.model_dump(mode="json")})
        return
    if tenant is None:
        raise InputError("--tenant is missing: whose the key is")
    with extra("serve"):
        from eolgul.serving.access.keys import new_key

    text, entry = new_key(
        _file(file, key_file),
        tenant=tenant,
        scopes=scope,
        expires=expires,
        requests_per_minute=requests_per_minute,
        note=note,
    )
    say({"key": text, **entry.model_dump(mode="json", exclude={"sha256"})})


@app.command("list")
def key_list(file: KeysFile = None, url: Url = None, key_file: KeyFile = None) -> None:
    """List the keys of the file, or of a running service's tenant, without their hashes."""
    if url is not None:
        with _service(url, key_file) as client:
            say(client.api_keys().model_dump(mode="json"))
        return
    with extra("serve"):
        from eolgul.serving.access.keys import read_keys

    say({"keys": [key.model_dump(mode="json", exclude={"sha256"}) for key in read_keys(_file(file, key_file))]})


@app.command("revoke")
def key_revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID")],
    file: KeysFile = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Remove a key from the file, or from a running service; services refuse it within seconds."""
    if url is not None:
        with _service(url, key_file) as client:
            gone = client.revoke_api_key(key_id).revoked
        say({"revoked": gone.id, "tenant": gone.tenant})
        return
    with extra("serve"):
        from eolgul.serving.access.keys import revoke_key

    revoked = revoke_key(_file(file, key_file), key_id)
    say({"revoked": revoked.id, "tenant": revoked.tenant})


def _file(file: Path | None, key_file: Path | None) -> Path:
    """The file of API keys, where no service was named."""
    if key_file is not None:
        raise InputError(f"--key-file {key_file}: is only for --url")
    if file is None:
        raise InputError("--file or --url is missing: the file of API keys, or a running service")
    return file


def _service(url: str, key_file: Path | None) -> Client:
    from eolgul.cli.verify import read_key
    from eolgul.client import Client

    return Client(url, api_key=read_key(key_file))


@signing_app.command("new")
def signing_key_new(
    file: Annotated[
        Path, typer.Argument(help="File for the private key (mode 0600); the public key is written to FILE.pub.")
    ],
) -> None:
    """Create an Ed25519 key. `promote --signing-key FILE` signs with it; the service trusts the keys in EOLGUL_TRUSTED_KEYS_FILE."""
    from eolgul.registry.signing import SigningKey, public_file

    key = SigningKey.new(file)
    say({"key_id": key.key_id, "private": str(file), "public": str(public_file(file))})
