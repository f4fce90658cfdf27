"""`eolgul verify`: ask a running service, or load the model here and do what the service would do."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter
from typing import Any

from eolgul.cli.output import extra
from eolgul.client import Client, EolgulError
from eolgul.client.calls import read
from eolgul.errors import InputError


def verify_over_http(url: str, image1: Path, image2: Path, *, api_key: str | None = None) -> dict[str, Any]:
    """What `/v1/verify` answers. InputError carries the service's own sentence and code when it refuses."""
    with Client(url, api_key=api_key) as client:
        try:
            return client.verify(image1, image2).model_dump(mode="json")
        except EolgulError as error:
            detail = error.detail
            if error.status is not None and error.code != "unexpected_answer":
                which = {"image1": f"{image1}: ", "image2": f"{image2}: "}.get(error.field or "", "")
                detail = f"{url}: {which}{detail}"
            raise InputError(f"{detail} ({error.code})", error.code) from error


def read_key(file: Path | None) -> str | None:
    """The API key: the file's content, else EOLGUL_API_KEY, else none. Never an argument: those are seen by others."""
    if file is None:
        return os.environ.get("EOLGUL_API_KEY", "").strip() or None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise InputError(f"{file}: {reason}, expected a file that holds an API key") from error


def verify_here(image1: Path, image2: Path, *, registry: str, model: Path | None) -> dict[str, Any]:
    """The same answer without a service, by the service's own code."""
    with extra("serve"):
        from eolgul.serving.endpoints import schemas
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
    answer: dict[str, Any] = schemas.VerifyAnswer(
        **schemas.Comparison.facts(served.compare(*(analysis.embedding for analysis in analyses))),
        **schemas.Threshold.facts_of(served),
        model=served.digest,
        synthetic=served.synthetic,
        faces=[schemas.FaceFound.of(analysis) for analysis in analyses],
        cached=[False, False],
        timings_ms={name: round(milliseconds, 3) for name, milliseconds in timings.items()},
    ).model_dump(mode="json")
    return answer
