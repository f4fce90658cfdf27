"""The commands for keys: API keys of the service, and keys that sign published models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eolgul.cli.output import extra, say

app = typer.Typer(no_args_is_help=True, help="API keys of the service.")
signing_app = typer.Typer(no_args_is_help=True, help="Keys that sign published models.")

KeysFile = Annotated[
    Path, typer.Option("--file", envvar="EOLGUL_API_KEYS_FILE", help="The file of API keys (it holds their hashes).")
]


@app.command("new")
def key_new(
    file: KeysFile,
    tenant: Annotated[str, typer.Option(help="Owner of the key; each tenant has its own gallery and cache.")],
    scope: Annotated[list[str], typer.Option(help="verify, detect, embed, identify, enroll or gallery (repeatable).")],
    days: Annotated[float | None, typer.Option(help="Days until the key expires (default: never).", min=0)] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(help="Rate limit of this key (default: that of the service).", min=1)
    ] = None,
    note: Annotated[str, typer.Option(help="Note for readers of the file.")] = "",
) -> None:
    """Create an API key. It is printed once and stored nowhere; the file holds its hash."""
    from datetime import UTC, datetime, timedelta

    with extra("serve"):
        from eolgul.serving.access.keys import new_key

    expires = None if days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    text, entry = new_key(
        file, tenant=tenant, scopes=scope, expires=expires, requests_per_minute=requests_per_minute, note=note
    )
    say({"key": text, **entry.model_dump(mode="json", exclude={"sha256"})})


@app.command("list")
def key_list(file: KeysFile) -> None:
    """List the keys of the file, without their hashes."""
    with extra("serve"):
        from eolgul.serving.access.keys import read_keys

    keys = read_keys(file)
    say({"keys": [key.model_dump(mode="json", exclude={"sha256"}) for key in keys]})


@app.command("revoke")
def key_revoke(key_id: Annotated[str, typer.Argument(metavar="ID")], file: KeysFile) -> None:
    """Remove a key from the file; running services refuse it within seconds."""
    with extra("serve"):
        from eolgul.serving.access.keys import revoke_key

    revoked = revoke_key(file, key_id)
    say({"revoked": revoked.id, "tenant": revoked.tenant})


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
