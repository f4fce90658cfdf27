"""One file that holds everything a run needs to go on as if it had never stopped."""

from __future__ import annotations

import io
from typing import Any

import torch

from eolgul import storage
from eolgul.errors import InputError


def save(uri: str, state: dict[str, Any]) -> None:
    """Replace the checkpoint at `uri` (a local path or an `s3://` object) in one step."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    storage.write_bytes(uri, buffer.getvalue())


def load(uri: str, *, recipe: str) -> dict[str, Any] | None:
    """The checkpoint at `uri`, None when there is none. InputError when it is broken or of another recipe digest."""
    data = storage.read_bytes(uri)
    if data is None:
        return None
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on a broken file
        raise InputError(
            f"{uri}: not a readable checkpoint ({type(error).__name__}); delete it to start afresh"
        ) from error
    if state.get("recipe") != recipe:
        raise InputError(f"{uri}: belongs to another recipe or dataset; delete it or name another place")
    return state
