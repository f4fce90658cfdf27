"""The answers of the API about the gallery and the API keys, and the bodies of their requests, as in `eolgul.client.answers`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from eolgul.client.answers import Answer, Comparison, FaceFound, ModelAnswer, Threshold


class EnrollAnswer(ModelAnswer):
    """The templates (sealed embeddings) of the enrolled images; the images themselves are not kept."""

    person: str
    templates: tuple[str, ...] = Field(description="ids of the images' templates, in the order of the images")
    added: int = Field(description="number of new templates; an image that the person already has is not added again")
    templates_total: int = Field(description="number of templates that the person has now")
    faces: tuple[FaceFound, ...]


class Candidate(Comparison):
    """A person of the gallery who may be the one in the photo; with `reasons` nothing says whether it is."""

    person: str
    template: str = Field(description="the person's template with the highest similarity")


class IdentifiedFace(Answer):
    """One face of a photo, and the people who look most like it, best first."""

    face: FaceFound
    candidates: tuple[Candidate, ...]


class IdentifyAnswer(Threshold, ModelAnswer):
    """The tenant's people who look most like the face, best first.

    With n people searched, the chance that a stranger is taken for one of them is about n times the false match rate.
    """

    face: FaceFound
    candidates: tuple[Candidate, ...]
    faces: tuple[IdentifiedFace, ...] = Field(
        default=(), description="with `which=all`, every face, largest first; the first is the one above"
    )
    people: int = Field(description="number of people searched")
    templates_of_other_models: int = Field(
        description="templates made by other models, which this one cannot compare; enroll those people again"
    )


_METADATA = "what the tenant keeps beside the person, encrypted like the templates"


class TemplateShown(Answer):
    """One template of a person, without its embedding."""

    template: str
    created_at: str
    model: str


class PersonAnswer(Answer):
    """A person and their templates."""

    person: str
    created_at: str = Field(default="", description="first enrolment")
    metadata: dict[str, str] = Field(default_factory=dict, description=_METADATA)
    templates: tuple[TemplateShown, ...]


class PersonListed(Answer):
    """One entry of the list of people."""

    person: str
    templates: int
    comparable: int = Field(
        description="number of templates made by the served model; with 0 it cannot find the person, who must be enrolled "
        "again"
    )
    created_at: str
    metadata: dict[str, str] = Field(default_factory=dict, description=_METADATA)


class PeopleAnswer(Answer):
    """One page of the tenant's people."""

    people: tuple[PersonListed, ...]
    next: str | None = Field(description="the value of `after` for the next page; null on the last page")
    total: int = Field(description="number of people in the gallery, whatever is searched for")


class PersonChange(Answer):
    """What to change of a person; what is absent stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    person: str | None = Field(default=None, max_length=128, description="the new id")
    metadata: (
        dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=1024)]] | None
    ) = Field(default=None, max_length=16, description="the new metadata, all of it; at most 4 kB")


class ErasedAnswer(Answer):
    """What was erased."""

    person: str
    templates: int = Field(description="number of erased templates")
    cache_cleared: bool = Field(
        description="whether the embedding cache dropped the images too; if false, the cache could not be reached or an "
        "image is no longer known, and an encrypted embedding may remain until its time to live ends"
    )


class ExportedTemplate(Answer):
    """One line of the export."""

    person: str
    template: str
    created_at: str
    model: str
    embedding: tuple[float, ...]
    quality: dict[str, float]
    metadata: dict[str, str] = Field(default_factory=dict, description="of the person")


CallerScope = Literal["verify", "detect", "embed", "identify", "enroll", "gallery"]


class NewKey(Answer):
    """An API key to make, of the caller's own tenant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scopes: tuple[CallerScope, ...] = Field(
        min_length=1, max_length=6, description="what the key may do; never `admin`"
    )
    expires: AwareDatetime | None = Field(default=None, description="with a time zone; null: never")
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="its rate limit, at most that of the caller's key; null: as that of the caller's key",
    )
    note: str = Field(default="", max_length=200, description="for those who list the keys")


class KeyShown(Answer):
    """An API key without its secret."""

    id: str
    tenant: str
    scopes: tuple[str, ...]
    expires: AwareDatetime | None
    requests_per_minute: int | None = Field(description="null: the service's default")
    note: str
    source: Literal["file", "http"] = Field(description="where it was made: only keys made over HTTP are revoked there")


class KeysAnswer(Answer):
    """The API keys of the caller's tenant."""

    keys: tuple[KeyShown, ...]


class KeyMade(Answer):
    """A new API key. This answer is the only place where it is shown."""

    key: str = Field(description="send it as `Authorization: Bearer …`")
    entry: KeyShown
    valid_within_s: float = Field(description="seconds after which every worker and replica takes it")


class KeyRevoked(Answer):
    """The API key that was revoked."""

    revoked: KeyShown
    refused_within_s: float = Field(description="seconds after which every worker and replica refuses it")
