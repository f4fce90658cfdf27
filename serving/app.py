"""The FastAPI application: the endpoints' routers and how their errors become problem documents.

`eolgul.serving.service` mounts it in BentoML.
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.responses import Response
from starlette.routing import Match, Route

from eolgul.errors import InputError
from eolgul.serving import metrics, problems
from eolgul.serving.endpoints import faces, gallery
from eolgul.serving.problems import RejectionError

ROUTERS = (faces.router, gallery.router)


def refused(request: Request, error: Exception) -> Response:
    """The problem document for an InputError that an endpoint raised."""
    assert isinstance(error, InputError)
    metrics.REJECTIONS.labels(problems.document(error.code, "")["code"]).inc()
    return problems.of(error)


def misunderstood(request: Request, error: Exception) -> Response:
    """The problem document for a query or path that FastAPI does not accept, which it says before an endpoint has asked
    for the key: who has none is told that and nothing else."""
    assert isinstance(error, RequestValidationError)
    try:
        request.app.state.eolgul.keys.authenticate(request.headers.get("authorization"))
    except RejectionError as refusal:
        return refused(request, refusal)
    first = error.errors()[0]
    metrics.REJECTIONS.labels("bad_request").inc()
    return problems.response("bad_request", f"{first['loc'][-1]}: {first['msg']}", field=str(first["loc"][-1]))


def other_method(request: Request, error: Exception) -> Response:
    """A 405 that names every method of its address (RFC 9110), where the framework names those of the first route that
    fits; `eolgul.serving.transport.middleware` makes it a problem document."""
    routes = [*request.app.routes, *(route for router in ROUTERS for route in router.routes)]
    fitting = [one for one in routes if isinstance(one, Route) and one.matches(request.scope)[0] is not Match.NONE]
    methods = {method for one in fitting for method in one.methods or ()} or {"GET", "HEAD"}  # of the pages' files
    return Response(status_code=405, headers={"Allow": ", ".join(sorted(methods))})


def application() -> FastAPI:
    """The API; `state.eolgul` must hold a State before the first request."""
    app = FastAPI(
        title="eolgul",
        version="1",
        description="Face verification: are two photos of one person? Errors are RFC 9457 problem documents with a "
        "stable `code`. Every answer names the model that gave it.",
        dependencies=[Security(HTTPBearer(auto_error=False, description="an API key, eolgul_…"))],
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(InputError, refused)
    app.add_exception_handler(RequestValidationError, misunderstood)
    app.add_exception_handler(405, other_method)
    return app
