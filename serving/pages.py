"""What is not an inference: the web page, the report of the served model, what model that is, and the metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from eolgul.errors import InputError
from serving import metrics, problems
from serving.loader import Loader
from serving.model import ServedModel

STATIC = Path(__file__).parent / "static"
# The report is one self-contained file: its own styles, scripts and plots, and nothing from anywhere else.
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; font-src data:"
)


def describe(model: ServedModel) -> dict[str, Any]:
    """What `GET /v1/models/current` says."""
    package = model.package
    return {
        "digest": model.digest,
        "backbone": package.backbone,
        "embedding_size": package.embedding_size,
        "contract": package.contract.to_json(),
        "synthetic": model.synthetic,
        "threshold": model.calibration.threshold,
        "calibration": model.calibration.summary(),
        "report": "/ui/report.html" if _report(model).is_file() else None,
    }


def application() -> Starlette:
    """The pages as an ASGI application; the service puts its Loader into `app.state.loader` before the first request."""
    return Starlette(
        routes=[
            Route("/", lambda request: RedirectResponse("/ui/")),
            Route("/v1/models/current", _current),
            Route("/metrics", _metrics),
            Route("/report", lambda request: RedirectResponse("/ui/report.html")),
            Route("/ui/report.html", _report_page),
            Route("/ui", lambda request: RedirectResponse("/ui/")),
            Mount("/ui", StaticFiles(directory=STATIC, html=True)),
        ]
    )


def _loader(request: Request) -> Loader:
    loader: Loader = request.app.state.loader
    return loader


async def _current(request: Request) -> Response:
    try:
        return JSONResponse(describe(_loader(request).model))
    except InputError as error:
        return problems.of(error)


def _metrics(request: Request) -> Response:  # not async: reading every worker's file is work for a thread
    return Response(metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _report_page(request: Request) -> Response:
    try:
        report = _report(_loader(request).model)
    except InputError as error:
        return problems.of(error)
    if not report.is_file():
        return problems.response("not_found", "the served model has no evaluation report")
    return FileResponse(report, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})


def _report(model: ServedModel) -> Path:
    return model.package.path / "evaluation" / "report.html"
