"""Verify a photo against what is known of a person: an embedding that the caller kept, or the templates of the gallery."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from starlette.responses import Response

from eolgul.client.answers import KnownEmbedding, VerifyEmbeddingAnswer, VerifyPersonAnswer
from eolgul.model.region import Reason
from eolgul.serving.endpoints.answers import comparison_fields, counted, threshold_fields, used_face
from eolgul.serving.endpoints.body import ExpectedBody, as_model
from eolgul.serving.endpoints.call import OneFaceQuery, admitted_call, json_response, openapi_answers
from eolgul.serving.endpoints.gallery import gallery_of
from eolgul.serving.gallery.templates import normalize_person
from eolgul.serving.inference.model import Analysis, ServedModel
from eolgul.serving.openapi import json_body
from eolgul.serving.problems import RejectionError

_UNIT = 1e-3  # how far from 1 the length of an embedding may be: more than rounding to 4 digits gives
EMBEDDINGS = ExpectedBody(
    {"image": 1}, objects=("embedding1", "embedding2"), optional=frozenset({"image", "embedding2"})
)
IMAGE_AND_PERSON = ExpectedBody({"image": 1}, ("person", "template"), optional=frozenset({"template"}))
_EMBEDDINGS_SHAPE = {
    "type": "object",
    "properties": {
        "embedding1": {"$ref": "#/components/schemas/KnownEmbedding"},
        "image": {"type": "string", "contentEncoding": "base64", "description": "a photo, as base64"},
        "embedding2": {"$ref": "#/components/schemas/KnownEmbedding"},
    },
    "required": ["embedding1"],
}
router = APIRouter(prefix="/v1", tags=["faces"])


@router.post(
    "/verify/embedding",
    responses=openapi_answers(
        VerifyEmbeddingAnswer, "no_face", "several_faces", "missing_field", "bad_embedding", "model_mismatch"
    ),
    openapi_extra=json_body(
        _EMBEDDINGS_SHAPE,
        "`embedding1` with either `image` or `embedding2`. The same fields are taken as a form, embeddings as JSON.",
    ),
)
async def verify_embedding(request: Request, which: OneFaceQuery = None) -> Response:
    """Compare an embedding that you keep with a photo, or with another one. Needs the scopes `verify` and `embed`.

    The embedding must be one of the served model: of its length, finite, of unit length. Send the `face` of the answer of `embed` with
    it, whose quality says whether the false match rate holds.
    """
    # Both scopes, because comparing a photo with 512 chosen vectors tells its embedding.
    async with admitted_call(request, "verify", "embed") as call:
        body = await call.read_body(EMBEDDINGS)
        if ("image" in body.images) == ("embedding2" in body.objects):
            raise RejectionError("the request needs either image or embedding2", "missing_field", "image")
        known = [_Known(name, value, call.model) for name, value in body.objects.items()]
        analysis: Analysis | None = None
        cached = False
        if "image" in body.images:
            [(analysis, cached)] = await call.analyse([("image", body.image("image"))], which)
        other = known[1].embedding if analysis is None else analysis.embedding
        reasons = {one.name: one.reasons for one in known}
        if analysis is not None:
            reasons["image"] = analysis.face.reasons
        unknown = tuple(one.name for one in known if not one.quality_known)
        similarity = float(np.clip(known[0].embedding @ other, -1.0, 1.0))
        verdict = counted(call.model.judge(similarity, reasons, known=not unknown))
        return json_response(
            VerifyEmbeddingAnswer(
                **comparison_fields(verdict),
                **threshold_fields(call.model),
                **call.answer_fields(),
                face=None if analysis is None else used_face(analysis),
                cached=cached,
                unknown_quality=unknown,
            )
        )


class _Known:
    """An embedding of a request, checked, with what is known of the quality of its face."""

    def __init__(self, name: str, value: dict[str, Any], model: ServedModel) -> None:
        """Check it. RejectionError `bad_request`, `model_mismatch` or `bad_embedding`."""
        self.name = name
        given = as_model(value, KnownEmbedding, name)
        if given.model != model.digest:
            raise RejectionError(
                f"{name} was made by another model than the one that answers; embed the photo again",
                "model_mismatch",
                name,
            )
        self.embedding = self._checked(given, model.package.embedding_size)
        quality = {} if given.face is None else given.face.quality.model_dump(exclude_none=True)
        if given.face is not None:
            quality["detection_score"] = given.face.detection_score
        self.quality_known = model.knows(quality)
        self.reasons: tuple[Reason, ...] = model.reasons(quality)

    def _checked(self, given: KnownEmbedding, size: int) -> NDArray[np.float32]:
        if len(given.embedding) != size:
            raise RejectionError(
                f"{self.name} has {len(given.embedding)} numbers, expected {size}", "bad_embedding", self.name
            )
        vector = np.array(given.embedding, np.float64)
        length = float(np.linalg.norm(vector)) if np.isfinite(vector).all() else np.nan
        if not abs(length - 1) <= _UNIT:  # not a number, too
            raise RejectionError(
                f"{self.name} has the length {length:.4g}, expected finite numbers of length 1 as `embed` answers them",
                "bad_embedding",
                self.name,
            )
        return (vector / length).astype(np.float32)


@router.post(
    "/verify/person",
    responses=openapi_answers(
        VerifyPersonAnswer, "no_face", "several_faces", "missing_field", "person_not_found", "template_not_found",
        "model_mismatch", "gallery_unavailable",
    ),
    openapi_extra=IMAGE_AND_PERSON.openapi(),
)  # fmt: skip
async def verify_person(request: Request, which: OneFaceQuery = None) -> Response:
    """Compare a photo with a person of the gallery, or with one `template` of theirs. Needs the scope `identify`.

    The comparison is that with the most similar template. Among n templates of a stranger, the chance that one is as similar is up to
    n times the false match rate.
    """
    async with admitted_call(request, "identify") as call:
        gallery = gallery_of(call)
        body = await call.read_body(IMAGE_AND_PERSON)
        person, wanted = normalize_person(body.texts["person"]), body.texts.get("template")
        held = (await gallery.person(call.caller.tenant, person)).templates
        if wanted:
            held = [template for template in held if template.id == wanted]
            if not held:
                raise RejectionError("the person has no such template", "template_not_found", "template")
        own = [template for template in held if template.model == call.model.digest]
        if not own:
            raise RejectionError(
                "the person was enrolled with another model than the one that answers; enroll again",
                "model_mismatch",
                "person",
            )
        [(analysis, cached)] = await call.analyse([("image", body.image("image"))], which)
        verdicts = []
        for template in own:
            similarity = float(np.clip(template.embedding @ analysis.embedding, -1.0, 1.0))
            reasons = {"image": analysis.face.reasons, "template": call.model.reasons(template.quality)}
            verdicts.append((call.model.judge(similarity, reasons), template.id))
        verdicts.sort(key=lambda one: (bool(one[0].reasons), -one[0].similarity))
        verdict, best = verdicts[0]
        return json_response(
            VerifyPersonAnswer(
                **comparison_fields(counted(verdict)),
                **threshold_fields(call.model),
                **call.answer_fields(),
                person=person,
                template=best,
                templates=len(own),
                templates_of_other_models=len(held) - len(own),
                face=used_face(analysis),
                cached=cached,
            )
        )
