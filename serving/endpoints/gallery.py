"""The gallery's endpoints: enroll, identify, list, export and erase people. Each tenant sees only its own people."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from eolgul.client.answers import (
    Candidate,
    EnrollAnswer,
    ErasedAnswer,
    ExportedTemplate,
    IdentifyAnswer,
    PeopleAnswer,
    PersonAnswer,
    PersonListed,
    TemplateShown,
)
from eolgul.errors import InputError
from eolgul.serving import metrics
from eolgul.serving.endpoints.answers import comparison_fields, threshold_fields, used_face
from eolgul.serving.endpoints.body import ExpectedBody
from eolgul.serving.endpoints.call import ONE_IMAGE, Call, admitted_call, json_response, openapi_answers
from eolgul.serving.gallery.store import Gallery
from eolgul.serving.gallery.templates import Erased, NewTemplate, normalize_person
from eolgul.serving.inference.model import Analysis, Face
from eolgul.serving.openapi import JSON_LINES
from eolgul.serving.problems import RejectionError

PERSON_AND_IMAGES = ExpectedBody({"images": 10}, ("person",))
router = APIRouter(prefix="/v1", tags=["gallery"])


@router.post(
    "/enroll",
    responses=openapi_answers(
        EnrollAnswer, "missing_field", "gallery_full", "gallery_unavailable", "no_face", "low_quality"
    ),
    openapi_extra=PERSON_AND_IMAGES.openapi(),
)
async def enroll(
    request: Request,
    any_quality: bool = Query(
        False, description="enroll photos that are too poor for a verdict, too; comparisons with them stay `undecided`"
    ),
) -> Response:
    """Add templates to a person, who is created if new. Either every image gives a template or nothing is stored.

    A photo that is too poor for a verdict is refused (`low_quality`), since every later comparison with it would be.
    """
    async with admitted_call(request, "enroll") as call:
        gallery = _gallery(call)
        body = await call.read_body(PERSON_AND_IMAGES)
        person, images = normalize_person(body.texts["person"]), body.images["images"]
        analyses = await call.analyse_uncached([("images", data) for data in images])
        if not any_quality:
            _check_quality(analyses)
        model, contract = call.model.digest, call.model.contract_digest
        templates = [
            NewTemplate(model, contract, analysis.embedding, call.cache_key(data).image, _stored_quality(analysis.face))
            for analysis, data in zip(analyses, images, strict=True)
        ]
        with _audited(call, "enroll") as entry:
            enrolled = await gallery.enroll(call.caller.tenant, person, templates)
            entry.person, entry.templates = enrolled.pseudonym, enrolled.added
        return json_response(
            EnrollAnswer(
                **call.answer_fields(),
                person=person,
                templates=tuple(template.id for template in enrolled.templates),
                added=enrolled.added,
                templates_total=enrolled.total,
                faces=tuple(used_face(analysis) for analysis in analyses),
            )
        )


@router.post(
    "/identify",
    responses=openapi_answers(IdentifyAnswer, "missing_field", "gallery_unavailable", "no_face"),
    openapi_extra=ONE_IMAGE.openapi(),
)
async def identify(request: Request, k: int = Query(5, ge=1, le=100)) -> Response:
    """Find the `k` people most like the photo's face: an exact search over every template of the served model."""
    async with admitted_call(request, "identify") as call:
        gallery = _gallery(call)
        body = await call.read_body(ONE_IMAGE)
        [(analysis, _)] = await call.analyse([("image", body.image("image"))])
        with metrics.stage("search", call.timings):
            result = await gallery.identify(call.caller.tenant, call.model.digest, analysis.embedding, k)
        metrics.GALLERY.labels("identify", "ok").inc()
        candidates = []
        for match in result.matches:
            reasons = {"image": analysis.face.reasons, "template": call.model.reasons(match.quality)}
            verdict = call.model.judge(match.similarity, reasons)
            candidates.append(Candidate(person=match.person, template=match.template, **comparison_fields(verdict)))
        if analysis.face.reasons:
            metrics.LOW_QUALITY.labels(analysis.face.reasons[0]).inc()
        return json_response(
            IdentifyAnswer(
                **threshold_fields(call.model),
                **call.answer_fields(),
                face=used_face(analysis),
                candidates=tuple(candidates),
                people=result.people,
                templates_of_other_models=result.other_models,
            )
        )


def _check_quality(analyses: Sequence[Analysis]) -> None:
    """Raise RejectionError `low_quality` for the first photo that is too poor for a verdict."""
    for number, analysis in enumerate(analyses, 1):
        if reasons := analysis.face.reasons:
            raise RejectionError(
                f"photo {number} of {len(analyses)} is too poor for a verdict ({', '.join(reasons)}); take another one, or enroll "
                "it all the same with any_quality=true: comparisons with it stay undecided",
                "low_quality",
                "images",
                reasons,
            )


def _stored_quality(face: Face) -> dict[str, float]:
    """The quality that a template keeps, by which later comparisons with it are judged."""
    return face.quality | {"detection_score": face.detection_score}


@router.get("/people", responses=openapi_answers(PeopleAnswer, "gallery_unavailable", images=False))
async def list_people(
    request: Request, after: str = Query("", max_length=128), limit: int = Query(100, ge=1, le=1000)
) -> Response:
    """List the tenant's people, one page at a time."""
    async with admitted_call(request, "gallery") as call:
        page = await _gallery(call).people(call.caller.tenant, model=call.model.digest, after=after, limit=limit)
        people = [PersonListed(**asdict(entry)) for entry in page.people]
        return json_response(PeopleAnswer(people=tuple(people), next=page.next, total=page.total))


@router.get(
    "/people/{person}", responses=openapi_answers(PersonAnswer, "person_not_found", "gallery_unavailable", images=False)
)
async def get_person(request: Request, person: str) -> Response:
    """List a person's templates, without the embeddings."""
    async with admitted_call(request, "gallery") as call:
        templates = [
            TemplateShown(template=template.id, created_at=template.created_at, model=template.model)
            for template in await _gallery(call).templates(call.caller.tenant, person)
        ]
        return json_response(PersonAnswer(person=normalize_person(person), templates=tuple(templates)))


@router.delete(
    "/people/{person}",
    responses=openapi_answers(ErasedAnswer, "person_not_found", "gallery_unavailable", images=False),
)
async def erase_person(request: Request, person: str) -> Response:
    """Erase a person: every template, and the cached embeddings of the images that the templates were made from."""
    async with admitted_call(request, "enroll") as call:
        with _audited(call, "delete") as entry:
            erased = await _gallery(call).delete_person(call.caller.tenant, person)
            entry.person, entry.templates = erased.pseudonym, erased.templates
        return json_response(await _clear_cache(call, person, erased))


@router.delete(
    "/people/{person}/templates/{template}",
    responses=openapi_answers(
        ErasedAnswer, "person_not_found", "template_not_found", "gallery_unavailable", images=False
    ),
)
async def erase_template(request: Request, person: str, template: str) -> Response:
    """Erase one template; erasing a person's last template erases the person."""
    async with admitted_call(request, "enroll") as call:
        with _audited(call, "delete_template") as entry:
            erased = await _gallery(call).delete_template(call.caller.tenant, person, template)
            entry.person, entry.templates = erased.pseudonym, erased.templates
        return json_response(await _clear_cache(call, person, erased))


class _JsonLines(StreamingResponse):
    media_type = JSON_LINES


@router.get(
    "/export",
    response_class=_JsonLines,
    responses=openapi_answers(ExportedTemplate, "gallery_unavailable", images=False),
)
async def export_gallery(request: Request) -> Response:
    """Every template of the tenant with its embedding, one JSON object per line; needs the scopes `gallery` and `embed`."""
    async with admitted_call(request, "gallery", "embed") as call:
        gallery, tenant = _gallery(call), call.caller.tenant
        with _audited(call, "export"):
            await gallery.people(tenant, limit=1)  # an unreachable gallery gives a problem document, not half a file
        return _JsonLines(_export_lines(call, gallery))


async def _export_lines(call: Call, gallery: Gallery) -> AsyncIterator[str]:
    """The lines of the export; at its end the audit log gets the number of templates and whether all were sent."""
    entry, outcome = _AuditEntry(), "cut"
    try:
        async for record in gallery.export(call.caller.tenant):
            template = record.template
            line = ExportedTemplate(
                person=record.person,
                template=template.id,
                created_at=template.created_at,
                model=template.model,
                embedding=template.embedding.tolist(),
                quality=template.quality,
            )
            entry.templates += 1  # counted before it is sent: an upper bound if the export is cut short
            yield line.model_dump_json() + "\n"
        outcome = "ok"
    finally:
        _audit(call, "export_end", outcome, entry)


async def _clear_cache(call: Call, person: str, erased: Erased) -> ErasedAnswer:
    """Drop the erased templates' images from the cache, and answer."""
    cleared = await call.state.cache.forget(call.caller.tenant, erased.images)
    return ErasedAnswer(
        person=normalize_person(person),
        templates=erased.templates,
        cache_cleared=cleared and not erased.unknown_images,
    )


def _gallery(call: Call) -> Gallery:
    if call.state.gallery is None:
        raise RejectionError("this service has no gallery (EOLGUL_GALLERY_URL is not set)", "gallery_unavailable")
    return call.state.gallery


@dataclass(slots=True)
class _AuditEntry:
    """The person's pseudonym and the number of templates, for the audit log."""

    person: str | None = None
    templates: int = 0


@contextmanager
def _audited(call: Call, action: str) -> Iterator[_AuditEntry]:
    """Write the block's action and outcome, refusals included, to the audit log; the block fills the entry."""
    entry = _AuditEntry()
    outcome = "error"
    try:
        yield entry
        outcome = "ok"
    except InputError as error:
        outcome = error.code
        raise
    finally:
        _audit(call, action, outcome, entry)


def _audit(call: Call, action: str, outcome: str, entry: _AuditEntry) -> None:
    """Write one line to the audit log, and count the action in the metrics."""
    metrics.GALLERY.labels(action, outcome).inc()
    call.state.audit.write(
        action,
        tenant=call.caller.tenant,
        key_id=call.caller.key_id,
        model=call.model.digest,
        outcome=outcome,
        person=entry.person,
        templates=entry.templates,
    )
