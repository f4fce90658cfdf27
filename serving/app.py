"""The FastAPI application: the routers of the endpoints, and the handlers that turn errors into problem documents.

`eolgul.serving.service` mounts it in BentoML.
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.responses import Response
from starlette.routing import Match, Route

from eolgul.errors import InputError
from eolgul.serving import metrics, openapi, problems
from eolgul.serving.endpoints import faces, gallery, keys, known
from eolgul.serving.problems import RejectionError

ROUTERS = (faces.router, known.router, gallery.router, keys.router)


def answer_refusal(request: Request, error: Exception) -> Response:
    """Answer an InputError of an endpoint with its problem document."""
    assert isinstance(error, InputError)
    metrics.REJECTIONS.labels(problems.document(error.code, "")["code"]).inc()
    return problems.from_error(error)


def answer_invalid_request(request: Request, error: Exception) -> Response:
    """Answer a query or path that FastAPI does not accept with a problem document.

    FastAPI validates before the endpoint authenticates, so the key is checked here: without one, nothing else is told.
    """
    assert isinstance(error, RequestValidationError)
    try:
        request.app.state.eolgul.keys.authenticate(request.headers.get("authorization"))
    except RejectionError as refusal:
        return answer_refusal(request, refusal)
    first = error.errors()[0]
    metrics.REJECTIONS.labels("bad_request").inc()
    return problems.response("bad_request", f"{first['loc'][-1]}: {first['msg']}", field=str(first["loc"][-1]))


def answer_wrong_method(request: Request, error: Exception) -> Response:
    """Answer 405 with every method of the path in `Allow` (RFC 9110).

    The framework names only the methods of the first route that matches. `eolgul.serving.transport.middleware` turns the
    answer into a problem document.
    """
    routes = [*request.app.routes, *(route for router in ROUTERS for route in router.routes)]
    matches = [
        route for route in routes if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
    ]
    methods = {method for route in matches for method in route.methods or ()} or {"GET", "HEAD"}  # the pages' files
    return Response(status_code=405, headers={"Allow": ", ".join(sorted(methods))})


def application() -> FastAPI:
    """Create the API; `state.eolgul` must hold a `State` before the first request."""
    app = FastAPI(
        title="eolgul",
        version="1",
        description="Face verification: do two photos show the same person? Errors are RFC 9457 problem documents with a "
        "stable `code`. Every answer of a model names that model.",
        dependencies=[Security(HTTPBearer(auto_error=False, description="an API key, eolgul_…"))],
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=openapi.operation_name,
    )
    openapi.install(app)
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(InputError, answer_refusal)
    app.add_exception_handler(RequestValidationError, answer_invalid_request)
    app.add_exception_handler(405, answer_wrong_method)
    return app
