"""The endpoints without inference: the web pages, the served model with its report and card, and the metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from eolgul.client.answers import CurrentModel
from eolgul.serving import metrics, problems
from eolgul.serving.access.keys import TICKET_S
from eolgul.serving.endpoints.call import State, openapi_problems
from eolgul.serving.inference import model_card
from eolgul.serving.inference.model import ServedModel

_WEB = Path(__file__).parent.parent / "web"
STATIC = _WEB / "static"
_VIEWS = Environment(
    loader=FileSystemLoader(_WEB / "views"),
    autoescape=True,
    trim_blocks=True,
    undefined=StrictUndefined,
)
# Only these pages may use the camera. Their scripts submit every form, so the browser itself may submit none.
_PAGE_HEADERS = {
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
}
_PAGES = {"/ui/": "compare", "/ui/gallery": "gallery", "/ui/model": "model", "/ui/api": "api"}
_CARD, _REPORT, _TICKET, _COOKIE = "/ui/card.html", "/ui/report.html", "/ui/ticket", "eolgul_report"
# The report is one self-contained file: styles, scripts and plots are inside it, and it may load nothing else.
_REPORT_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "font-src data:",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def describe(model: ServedModel) -> CurrentModel:
    """The answer of `GET /v1/models/current`."""
    package, calibration = model.package, model.calibration
    training = model_card.training(package.path, model.digest)
    return CurrentModel(
        digest=model.digest,
        backbone=package.backbone,
        embedding_size=package.embedding_size,
        contract=package.contract.to_json(),
        synthetic=model.synthetic,
        threshold=calibration.threshold,
        threshold_interval=calibration.threshold_interval,
        calibration=calibration.summary(),
        quality_rule=model.quality_rule,
        false_match_rate=calibration.fmr_at(calibration.threshold),
        false_match_rate_interval=calibration.fmr_interval_at(calibration.threshold),
        training=None if training is None else training.model_dump(),
        sets=tuple(figures.model_dump() for figures in model_card.figures(package.path, model.digest)),
        card=_CARD if model_card.html(package.path, model.digest) else None,
        report=_REPORT if _report_file(model).is_file() else None,
    )


def add_to(app: FastAPI) -> None:
    """Add the pages to the application of the API; they use its `state.eolgul`."""
    app.add_api_route(
        "/v1/models/current",
        current_model,
        methods=["GET"],
        summary="The model that answers now",
        tags=["model"],
        responses={200: {"model": CurrentModel}, **openapi_problems("unauthorized", "internal", "model_not_ready")},
    )
    app.router.routes += [
        # Relative, since a proxy may have taken a prefix off the path.
        Route("/", lambda request: RedirectResponse("ui/")),
        Route("/metrics", _metrics),
        Route("/report", lambda request: RedirectResponse("ui/report.html")),
        Route(_REPORT, _report_page),
        Route(_CARD, _card),
        Route(_TICKET, _ticket),
        Route("/ui", lambda request: RedirectResponse("ui/")),
        Route("/ui/api.html", lambda request: RedirectResponse("api")),
        *(Route(path, _page(name)) for path, name in _PAGES.items()),
        Mount("/ui", StaticFiles(directory=STATIC)),
    ]


def _page(name: str) -> Callable[[Request], Response]:
    """The endpoint of one page; rendered once, since everything that varies comes through the API."""
    html = _VIEWS.get_template(f"{name}.html").render(page=name)
    return lambda request: HTMLResponse(html, headers=_PAGE_HEADERS)


async def current_model(request: Request) -> Response:
    """Digest, contract, calibration, training data and figures of the served model; any valid key may read it."""
    state: State = request.app.state.eolgul
    state.keys.authenticate(request.headers.get("authorization"))
    return JSONResponse(describe(state.loader.model).model_dump(mode="json"))


async def _ticket(request: Request) -> Response:
    """Set a cookie that opens the report for five minutes, for any valid key: a link in a browser sends no API key.

    The cookie has no path, so that it is for the folder of this address as the browser knows it, with a proxy's prefix.
    """
    state: State = request.app.state.eolgul
    caller = state.keys.authenticate(request.headers.get("authorization"))
    response = Response(status_code=204)
    if ticket := state.keys.report_ticket(caller.key_id):
        response.set_cookie(_COOKIE, ticket, max_age=TICKET_S, path=None, httponly=True, samesite="strict")
    return response


def _metrics(request: Request) -> Response:  # not async: it reads a file per worker, so it runs in a thread
    text, media_type = metrics.exposition(request.headers.get("accept", ""))
    return Response(text, headers={"Content-Type": media_type, "Vary": "Accept"})


async def _card(request: Request) -> Response:
    """The model card as an HTML fragment, for any valid key."""
    state: State = request.app.state.eolgul
    state.keys.authenticate(request.headers.get("authorization"))
    model = state.loader.model
    html = model_card.html(model.package.path, model.digest)
    return HTMLResponse(html) if html else problems.response("not_found", "the served model has no card")


async def _report_page(request: Request) -> Response:
    state: State = request.app.state.eolgul
    if header := request.headers.get("authorization"):
        state.keys.authenticate(header)
    else:
        state.keys.check_ticket(request.cookies.get(_COOKIE))
    report = _report_file(state.loader.model)
    if not report.is_file():
        return problems.response("not_found", "the served model has no evaluation report")
    return FileResponse(report, media_type="text/html", headers=_REPORT_HEADERS)


def _report_file(model: ServedModel) -> Path:
    return model.package.path / "evaluation" / "report.html"
