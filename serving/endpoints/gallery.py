"""The gallery's endpoints: enroll, identify, list, change, export and erase people. Each tenant sees only its own people."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from eolgul.client.gallery_answers import (
    Candidate,
    EnrollAnswer,
    ErasedAnswer,
    ExportedTemplate,
    IdentifiedFace,
    IdentifyAnswer,
    PeopleAnswer,
    PersonAnswer,
    PersonChange,
    PersonListed,
    TemplateShown,
)
from eolgul.serving import metrics
from eolgul.serving.endpoints.answers import comparison_fields, threshold_fields, used_face
from eolgul.serving.endpoints.audited import AuditEntry, audited
from eolgul.serving.endpoints.audited import write as audited_end
from eolgul.serving.endpoints.body import ExpectedBody, read_object
from eolgul.serving.endpoints.call import (
    ONE_IMAGE,
    Call,
    OneFaceQuery,
    WhichQuery,
    admitted_call,
    json_response,
    openapi_answers,
)
from eolgul.serving.gallery.store import Gallery
from eolgul.serving.gallery.templates import Erased, Match, NewTemplate, Person, normalize_person
from eolgul.serving.inference.model import Analysis, Face
from eolgul.serving.openapi import JSON_LINES, json_body
from eolgul.serving.problems import RejectionError

PERSON_AND_IMAGES = ExpectedBody({"images": 10}, ("person",))
router = APIRouter(prefix="/v1", tags=["gallery"])


@router.post(
    "/enroll",
    responses=openapi_answers(
        EnrollAnswer, "missing_field", "gallery_full", "gallery_unavailable", "no_face", "several_faces", "low_quality"
    ),
    openapi_extra=PERSON_AND_IMAGES.openapi(),
)
async def enroll(
    request: Request,
    any_quality: bool = Query(
        False, description="enroll photos that are too poor for a verdict, too; comparisons with them stay `undecided`"
    ),
    which: OneFaceQuery = None,
) -> Response:
    """Add templates to a person, who is created if new. Either every image gives a template or nothing is stored.

    A photo that is too poor for a verdict is refused (`low_quality`), since every later comparison with it would be.
    """
    async with admitted_call(request, "enroll") as call:
        gallery = gallery_of(call)
        body = await call.read_body(PERSON_AND_IMAGES)
        person, images = normalize_person(body.texts["person"]), body.images["images"]
        analyses = await call.analyse_uncached([("images", data) for data in images], which)
        if not any_quality:
            _check_quality(analyses)
        model, contract = call.model.digest, call.model.contract_digest
        templates = [
            NewTemplate(model, contract, analysis.embedding, call.cache_key(data).image, _stored_quality(analysis.face))
            for analysis, data in zip(analyses, images, strict=True)
        ]
        with audited(call, "enroll") as entry:
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
    responses=openapi_answers(
        IdentifyAnswer, "missing_field", "gallery_unavailable", "no_face", "several_faces", "too_many_faces"
    ),
    openapi_extra=ONE_IMAGE.openapi(),
)
async def identify(
    request: Request,
    k: int = Query(5, ge=1, le=100),
    which: WhichQuery = None,
) -> Response:
    """Find the `k` people most like the photo's face: an exact search over every template of the served model."""
    async with admitted_call(request, "identify") as call:
        gallery = gallery_of(call)
        body = await call.read_body(ONE_IMAGE)
        image = ("image", body.image("image"))
        if which == "all":
            [analyses] = await call.analyse_faces([image])
        else:
            [(analysis, _)] = await call.analyse([image], which)
            analyses = (analysis,)
        faces = []
        for analysis in analyses:
            with metrics.stage("search", call.timings):
                result = await gallery.identify(call.caller.tenant, call.model.digest, analysis.embedding, k)
            if analysis.face.reasons:
                metrics.LOW_QUALITY.labels(analysis.face.reasons[0]).inc()
            candidates = tuple(_candidate(call, analysis, match) for match in result.matches)
            faces.append(IdentifiedFace(face=used_face(analysis), candidates=candidates))
        metrics.GALLERY.labels("identify", "ok").inc()
        return json_response(
            IdentifyAnswer(
                **threshold_fields(call.model),
                **call.answer_fields(),
                face=faces[0].face,
                candidates=faces[0].candidates,
                faces=tuple(faces) if which == "all" else (),
                people=result.people,
                templates_of_other_models=result.other_models,
            )
        )


def _candidate(call: Call, analysis: Analysis, match: Match) -> Candidate:
    reasons = {"image": analysis.face.reasons, "template": call.model.reasons(match.quality)}
    verdict = call.model.judge(match.similarity, reasons)
    return Candidate(person=match.person, template=match.template, **comparison_fields(verdict))


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
    request: Request,
    after: str = Query("", max_length=128),
    limit: int = Query(100, ge=1, le=1000),
    search: str = Query("", max_length=128, description="only people whose id contains this, in any letter case"),
    prefix: str = Query("", max_length=128, description="only people whose id begins with this, in any letter case"),
) -> Response:
    """List the tenant's people, one page at a time.

    Ids are stored encrypted, so a search opens them one by one, at most 20,000 for a page: a page may have fewer people than `limit`, or
    none, and still name a next one.
    """
    async with admitted_call(request, "gallery") as call:
        page = await gallery_of(call).people(
            call.caller.tenant, model=call.model.digest, after=after, limit=limit, matches=_matches(search, prefix)
        )
        people = [PersonListed(**asdict(entry)) for entry in page.people]
        return json_response(PeopleAnswer(people=tuple(people), next=page.next, total=page.total))


def _matches(search: str, prefix: str) -> Callable[[str], bool] | None:
    """Whether a person's id is searched for; None if everybody is."""
    part, start = _folded(search), _folded(prefix)
    if not part and not start:
        return None

    def matches(person: str) -> bool:
        text = _folded(person)
        return part in text and text.startswith(start)

    return matches


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


@router.get(
    "/people/{person}", responses=openapi_answers(PersonAnswer, "person_not_found", "gallery_unavailable", images=False)
)
async def get_person(request: Request, person: str) -> Response:
    """A person's metadata and templates, without the embeddings."""
    async with admitted_call(request, "gallery") as call:
        return json_response(_shown(await gallery_of(call).person(call.caller.tenant, person)))


def _shown(person: Person) -> PersonAnswer:
    templates = [
        TemplateShown(template=template.id, created_at=template.created_at, model=template.model)
        for template in person.templates
    ]
    return PersonAnswer(
        person=person.identity.person,
        created_at=person.identity.created_at,
        metadata=person.identity.metadata,
        templates=tuple(templates),
    )


@router.patch(
    "/people/{person}",
    responses=openapi_answers(
        PersonAnswer,
        "person_not_found",
        "person_exists",
        "gallery_unavailable",
        "too_large",
        "unsupported_format",
        images=False,
    ),
    openapi_extra=json_body(PersonChange, "the new id, the new metadata, or both, as JSON"),
)
async def update_person(request: Request, person: str) -> Response:
    """Rename a person, replace their metadata, or both at once; the templates stay. Needs the scopes `enroll` and `gallery`."""
    async with admitted_call(request, "enroll", "gallery") as call:
        gallery = gallery_of(call)
        change = await read_object(request, call.memory, PersonChange)
        if change.person is None and change.metadata is None:
            raise RejectionError("nothing to change, expected person or metadata", "bad_request")
        with audited(call, "metadata" if change.person is None else "rename") as entry:
            changed = await gallery.update(call.caller.tenant, person, change.person, change.metadata)
            entry.person, entry.templates = changed.pseudonym, len(changed.person.templates)
            entry.target = changed.renamed_to
        return json_response(_shown(changed.person))


@router.delete(
    "/people/{person}",
    responses=openapi_answers(ErasedAnswer, "person_not_found", "gallery_unavailable", images=False),
)
async def erase_person(request: Request, person: str) -> Response:
    """Erase a person: every template, and the cached embeddings of the images that the templates were made from."""
    async with admitted_call(request, "enroll") as call:
        with audited(call, "delete") as entry:
            erased = await gallery_of(call).delete_person(call.caller.tenant, person)
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
        with audited(call, "delete_template") as entry:
            erased = await gallery_of(call).delete_template(call.caller.tenant, person, template)
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
        gallery, tenant = gallery_of(call), call.caller.tenant
        with audited(call, "export"):
            await gallery.people(tenant, limit=1)  # an unreachable gallery gives a problem document, not half a file
        return _JsonLines(_export_lines(call, gallery))


async def _export_lines(call: Call, gallery: Gallery) -> AsyncIterator[str]:
    """The lines of the export; at its end the audit log gets the number of templates and whether all were sent."""
    entry, outcome = AuditEntry(), "cut"
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
                metadata=record.metadata,
            )
            entry.templates += 1  # counted before it is sent: an upper bound if the export is cut short
            yield line.model_dump_json() + "\n"
        outcome = "ok"
    finally:
        audited_end(call, "export_end", outcome, entry)


async def _clear_cache(call: Call, person: str, erased: Erased) -> ErasedAnswer:
    """Drop the erased templates' images from the cache, and answer."""
    cleared = await call.state.cache.forget(call.caller.tenant, erased.images)
    return ErasedAnswer(
        person=normalize_person(person),
        templates=erased.templates,
        cache_cleared=cleared and not erased.unknown_images,
    )


def gallery_of(call: Call) -> Gallery:
    """The gallery. RejectionError `gallery_unavailable` if the service has none."""
    if call.state.gallery is None:
        raise RejectionError("this service has no gallery (EOLGUL_GALLERY_URL is not set)", "gallery_unavailable")
    return call.state.gallery
