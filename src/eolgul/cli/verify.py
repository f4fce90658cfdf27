"""`eolgul verify`: ask a running service, or load the model in this process and compute the same answer."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter
from typing import Any

from eolgul.cli.output import extra
from eolgul.client import Client, EolgulError
from eolgul.client.answers import VerifyAnswer
from eolgul.client.calls import read
from eolgul.errors import InputError


def verify_over_http(url: str, image1: Path, image2: Path, *, api_key: str | None = None) -> dict[str, Any]:
    """The answer of `/v1/verify`. If the service refuses, the InputError has its sentence and code."""
    with Client(url, api_key=api_key) as client:
        try:
            return client.verify(image1, image2).model_dump(mode="json")
        except EolgulError as error:
            detail = error.detail
            if error.status is not None and error.code != "unexpected_answer":
                image = {"image1": f"{image1}: ", "image2": f"{image2}: "}.get(error.field or "", "")
                detail = f"{url}: {image}{detail}"
            raise InputError(f"{detail} ({error.code})", error.code) from error


def read_key(file: Path | None) -> str | None:
    """Read the API key from the file, or from EOLGUL_API_KEY; None without either.

    It is never an argument of the command, since other users can see those.
    """
    if file is None:
        return os.environ.get("EOLGUL_API_KEY", "").strip() or None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise InputError(f"{file}: {reason}, expected a file that holds an API key") from error


def verify_here(image1: Path, image2: Path, *, registry: str, model: Path | None) -> dict[str, Any]:
    """Compute the same answer without a service, with the service's own code."""
    with extra("serve"):
        from eolgul.serving.endpoints.answers import comparison_fields, threshold_fields, used_face
        from eolgul.serving.inference.model import ServedModel, open_package
        from eolgul.serving.settings import Settings

    settings = Settings(registry=registry, model=model)
    served = ServedModel(open_package(settings), settings)
    start = perf_counter()
    analyses = []
    timings: dict[str, float] = {}
    for path in (image1, image2):
        data = read(path)
        try:
            analysis, stages = served.analyse(data)
        except InputError as error:
            raise InputError(f"{path}: {error}", error.code) from error
        analyses.append(analysis)
        for name, milliseconds in stages.items():
            timings[name] = timings.get(name, 0.0) + milliseconds
    timings["total"] = (perf_counter() - start) * 1000
    answer = VerifyAnswer(
        **comparison_fields(served.verify(analyses[0], analyses[1])),
        **threshold_fields(served),
        model=served.digest,
        synthetic=served.synthetic,
        faces=tuple(used_face(analysis) for analysis in analyses),
        cached=(False, False),
        timings_ms={name: round(milliseconds, 3) for name, milliseconds in timings.items()},
    )
    return answer.model_dump(mode="json")
