"""The gallery's endpoints: enroll people, find who a photo shows, list, export, erase. Each tenant sees its own people."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse

from eolgul.errors import InputError
from eolgul.serving import metrics
from eolgul.serving.endpoints.body import Wanted
from eolgul.serving.endpoints.call import ONE, Call, answer, answers, call
from eolgul.serving.endpoints.schemas import Comparison, FaceFound, ModelAnswer, Threshold, request_body
from eolgul.serving.gallery.store import Gallery
from eolgul.serving.gallery.templates import Erased, NewTemplate, Template, checked_person
from eolgul.serving.problems import RejectionError

ENROLL = Wanted({"images": 10}, ("person",))
router = APIRouter(prefix="/v1")


class EnrollAnswer(ModelAnswer):
    """What was stored: a template (an embedding, sealed) for each image; the images themselves are not kept."""

    person: str
    templates: list[str] = Field(description="the images' templates, in their order")
    added: int = Field(description="how many of them are new: an image the person has already is not added again")
    templates_total: int = Field(description="how many the person has now")
    faces: list[FaceFound]


class Candidate(Comparison):
    person: str
    template: str = Field(description="the person's template that is most alike")


class IdentifyAnswer(Threshold, ModelAnswer):
    """Who of the tenant's people looks most like the face, best first. With n people searched, the chance that a
    stranger is taken for somebody is about n times the false match rate."""

    face: FaceFound
    candidates: list[Candidate]
    people: int = Field(description="people searched")
    templates_of_other_models: int = Field(description="templates that this model cannot compare: enroll those again")


class TemplateShown(BaseModel):
    template: str
    created_at: str
    model: str


class PersonAnswer(BaseModel):
    person: str
    templates: list[TemplateShown]


class PersonListed(BaseModel):
    person: str
    templates: int
    comparable: int = Field(description="templates that the served model made; 0: not found by it, enroll them again")
    created_at: str


class PeopleAnswer(BaseModel):
    people: list[PersonListed]
    next: str | None = Field(description="give it as `after` for the next page; null on the last one")
    total: int


class ErasedAnswer(BaseModel):
    person: str
    templates: int = Field(description="how many templates were erased")
    cache_cleared: bool = Field(
        description="whether the embedding cache has dropped their images too; false: it could not be asked, or an image "
        "is not known any more, and an embedding may stay, encrypted, until its time to live ends"
    )


class ExportedTemplate(BaseModel):
    """A line of the export."""

    person: str
    template: str
    created_at: str
    model: str
    embedding: list[float]
    quality: dict[str, float]


@router.post(
    "/enroll",
    responses=answers(EnrollAnswer, "missing_field", "gallery_full", "gallery_unavailable", "no_face"),
    openapi_extra=request_body(ENROLL),
)
async def enroll(request: Request) -> Response:
    """Add templates to a person, who is made if new. Either every image gives one or nothing is stored."""
    async with call(request, "enroll") as asked:
        gallery = _gallery(asked)
        body = await asked.read(ENROLL)
        person, images = checked_person(body.texts["person"]), body.images["images"]
        found = await asked.analyse_uncached([("images", data) for data in images])
        made = [
            NewTemplate(
                asked.model.digest, asked.model.contract_digest, one.embedding, asked.key(data).image, one.face.quality
            )
            for one, data in zip(found, images, strict=True)
        ]
        with _audited(asked, "enroll") as entry:
            stored = await gallery.enroll(asked.caller.tenant, person, made)
            entry.person, entry.templates = stored.pseudonym, stored.added
        return answer(
            EnrollAnswer(
                **asked.facts(),
                person=person,
                templates=[template.id for template in stored.templates],
                added=stored.added,
                templates_total=stored.total,
                faces=[FaceFound.of(one) for one in found],
            )
        )


@router.post(
    "/identify",
    responses=answers(IdentifyAnswer, "missing_field", "gallery_unavailable", "no_face"),
    openapi_extra=request_body(ONE),
)
async def identify(request: Request, k: int = Query(5, ge=1, le=100)) -> Response:
    """The `k` people most like the photo's face: an exact search over every template of the served model."""
    async with call(request, "identify") as asked:
        gallery = _gallery(asked)
        body = await asked.read(ONE)
        [(analysis, _)] = await asked.all_of([("image", body.one("image"))])
        with metrics.stage("search", asked.timings):
            found = await gallery.identify(asked.caller.tenant, asked.model.digest, analysis.embedding, k)
        metrics.GALLERY.labels("identify", "ok").inc()
        candidates = [
            Candidate(
                person=match.person, template=match.template, **Comparison.facts(asked.model.judge(match.similarity))
            )
            for match in found.matches
        ]
        return answer(
            IdentifyAnswer(
                **Threshold.facts_of(asked.model),
                **asked.facts(),
                face=FaceFound.of(analysis),
                candidates=candidates,
                people=found.people,
                templates_of_other_models=found.other_models,
            )
        )


@router.get("/people", responses=answers(PeopleAnswer, "gallery_unavailable", images=False))
async def people(
    request: Request, after: str = Query("", max_length=128), limit: int = Query(100, ge=1, le=1000)
) -> Response:
    """The tenant's people, a page at a time."""
    async with call(request, "gallery") as asked:
        page = await _gallery(asked).people(asked.caller.tenant, model=asked.model.digest, after=after, limit=limit)
        listed = [PersonListed(**asdict(one)) for one in page.people]
        return answer(PeopleAnswer(people=listed, next=page.next, total=page.total))


@router.get(
    "/people/{person}", responses=answers(PersonAnswer, "person_not_found", "gallery_unavailable", images=False)
)
async def one_person(request: Request, person: str) -> Response:
    """A person's templates, without the embeddings."""
    async with call(request, "gallery") as asked:
        found = await _gallery(asked).templates(asked.caller.tenant, person)
        return answer(PersonAnswer(person=checked_person(person), templates=[_shown(template) for template in found]))


@router.delete(
    "/people/{person}", responses=answers(ErasedAnswer, "person_not_found", "gallery_unavailable", images=False)
)
async def erase_person(request: Request, person: str) -> Response:
    """Erase a person: every template, and what the cache keeps of the images they were made from."""
    async with call(request, "enroll") as asked:
        with _audited(asked, "delete") as entry:
            erased = await _gallery(asked).delete_person(asked.caller.tenant, person)
            entry.person, entry.templates = erased.pseudonym, erased.templates
        return answer(await _cleared(asked, person, erased))


@router.delete(
    "/people/{person}/templates/{template}",
    responses=answers(ErasedAnswer, "person_not_found", "template_not_found", "gallery_unavailable", images=False),
)
async def erase_template(request: Request, person: str, template: str) -> Response:
    """Erase one template; a person's last one takes the person along."""
    async with call(request, "enroll") as asked:
        with _audited(asked, "delete_template") as entry:
            erased = await _gallery(asked).delete_template(asked.caller.tenant, person, template)
            entry.person, entry.templates = erased.pseudonym, erased.templates
        return answer(await _cleared(asked, person, erased))


class _Lines(StreamingResponse):
    media_type = "application/x-ndjson"


@router.get("/export", response_class=_Lines, responses=answers(ExportedTemplate, "gallery_unavailable", images=False))
async def export(request: Request) -> Response:
    """Every template of the tenant with its embedding, a line of JSON each (needs the scopes `gallery` and `embed`)."""
    async with call(request, "gallery", "embed") as asked:
        gallery, tenant = _gallery(asked), asked.caller.tenant
        with _audited(asked, "export"):
            await gallery.people(tenant, limit=1)  # unreachable is a problem document, not half a file
        return _Lines(_lines(asked, gallery))


async def _lines(asked: Call, gallery: Gallery) -> AsyncIterator[str]:
    """The export's lines. The audit log is told at the end how many templates left, and whether that was all of them."""
    entry, outcome = _Entry(), "cut"
    try:
        async for record in gallery.export(asked.caller.tenant):
            template = record.template
            line = ExportedTemplate(
                person=record.person,
                template=template.id,
                created_at=template.created_at,
                model=template.model,
                embedding=template.embedding.tolist(),
                quality=template.quality,
            )
            entry.templates += 1  # before it is sent: of a cut export, it is the most that left
            yield line.model_dump_json() + "\n"
        outcome = "ok"
    finally:
        _note(asked, "export_end", outcome, entry)


async def _cleared(asked: Call, person: str, erased: Erased) -> ErasedAnswer:
    """The answer to an erasure, once the cache was told to forget the images."""
    forgotten = await asked.state.cache.forget(asked.caller.tenant, erased.images)
    return ErasedAnswer(
        person=checked_person(person), templates=erased.templates, cache_cleared=forgotten and not erased.unknown_images
    )


def _shown(template: Template) -> TemplateShown:
    return TemplateShown(template=template.id, created_at=template.created_at, model=template.model)


def _gallery(asked: Call) -> Gallery:
    if asked.state.gallery is None:
        raise RejectionError("this service has no gallery (EOLGUL_GALLERY_URL is not set)", "gallery_unavailable")
    return asked.state.gallery


@dataclass(slots=True)
class _Entry:
    """What the audit log will say: the person's pseudonym, how many templates."""

    person: str | None = None
    templates: int = 0


@contextmanager
def _audited(asked: Call, action: str) -> Iterator[_Entry]:
    """Write what the block did to the audit log, refusals too; the block fills the entry."""
    entry = _Entry()
    outcome = "error"
    try:
        yield entry
        outcome = "ok"
    except InputError as error:
        outcome = error.code
        raise
    finally:
        _note(asked, action, outcome, entry)


def _note(asked: Call, action: str, outcome: str, entry: _Entry) -> None:
    """A line of the audit log, and a count of the metrics."""
    metrics.GALLERY.labels(action, outcome).inc()
    asked.state.audit.write(
        action,
        tenant=asked.caller.tenant,
        key_id=asked.caller.key_id,
        model=asked.model.digest,
        outcome=outcome,
        person=entry.person,
        templates=entry.templates,
    )
