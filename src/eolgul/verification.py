"""`eolgul verify`: ask a running service, or load the model here and do what the service would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from eolgul.checkout import room
from eolgul.errors import InputError

_TIMEOUT_S = 30.0


def verify_over_http(url: str, image1: Path, image2: Path) -> dict[str, Any]:
    """POST both files to `/v1/verify`. InputError carries the service's own sentence and code when it refuses."""
    files = {"image1": ("image1", _read(image1)), "image2": ("image2", _read(image2))}
    try:
        response = httpx.post(f"{url.rstrip('/')}/v1/verify", files=files, timeout=_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InputError(f"{url}: no answer ({error})") from error
    try:
        answer: dict[str, Any] = response.json()
        if response.is_success:
            return answer
        raise InputError(f"{url}: {answer['detail']} ({answer['code']})", answer["code"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{url}: HTTP status {response.status_code}, and not what eolgul answers") from error


def verify_here(image1: Path, image2: Path, *, registry: str, model: Path | None) -> dict[str, Any]:
    """The verdict without a service, by the service's own code."""
    settings = room("serving.settings").Settings(registry=registry, model=model)
    module = room("serving.model")
    served = module.ServedModel(module.open_package(settings), settings)
    analyses = []
    for path in (image1, image2):
        try:
            analyses.append(served.analyse(_read(path))[0])
        except InputError as error:
            raise InputError(f"{path}: {error}", error.code) from error
    verdict = served.compare(*analyses)
    return {
        "verdict": verdict.word,
        "similarity": verdict.similarity,
        "threshold": verdict.threshold,
        "false_match_rate": verdict.false_match_rate,
        "model": served.digest,
        "synthetic": served.synthetic,
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
