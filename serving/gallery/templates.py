"""The data classes of the gallery, and the stored format of a template."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eolgul.serving.problems import RejectionError

MAX_METADATA = 4096  # bytes of JSON


@dataclass(frozen=True, slots=True)
class NewTemplate:
    """A template to enroll.

    Attributes:
        model: Digest of the model package (hex).
        contract: Digest of its embedding contract (hex).
        embedding: Unit embedding (float32).
        image: SHA-256 of the encoded image (hex).
        quality: Quality of the face, by name.
    """

    model: str
    contract: str
    embedding: NDArray[np.float32]
    image: str
    quality: dict[str, float]


@dataclass(frozen=True, slots=True)
class Template:
    """An enrolled template; `created_at` is ISO 8601 in UTC, the other fields are as in `NewTemplate`."""

    id: str
    created_at: str
    model: str
    contract: str
    embedding: NDArray[np.float32]
    image: str
    quality: dict[str, float]

    @classmethod
    def from_new(cls, new: NewTemplate, template_id: str, created_at: str) -> Template:
        """Give a new template an id and a time."""
        return cls(template_id, created_at, new.model, new.contract, new.embedding, new.image, new.quality)


@dataclass(frozen=True, slots=True)
class Identity:
    """What is sealed of a person beside the templates.

    Attributes:
        created_at: Time of the first enrolment, ISO 8601 in UTC.
        person: The person's id.
        metadata: What the tenant keeps beside it.
    """

    created_at: str
    person: str
    metadata: dict[str, str] = field(default_factory=dict)

    def pack(self) -> bytes:
        """Serialize: time, metadata as JSON if there is any, line break, id. Versions without metadata read it as part of the time."""
        kept = f" {json.dumps(self.metadata)}" if self.metadata else ""
        return f"{self.created_at}{kept}\n{self.person}".encode()

    @classmethod
    def unpack(cls, body: bytes) -> Identity:
        """Read what `pack` wrote."""
        head, _, person = body.decode().partition("\n")
        created, _, kept = head.partition(" ")
        return cls(created, person, json.loads(kept) if kept else {})


@dataclass(frozen=True, slots=True)
class Person:
    """A person with all templates, oldest first."""

    identity: Identity
    templates: list[Template]


@dataclass(frozen=True, slots=True)
class Changed:
    """A changed person, the pseudonym before the change, and the new one if the person was renamed."""

    pseudonym: str
    renamed_to: str | None
    person: Person


@dataclass(frozen=True, slots=True)
class Record:
    """A template and its person."""

    person: str
    template: Template
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class PersonEntry:
    """An entry of a list of people: id, number of templates, number of those made by the model in question, first enrolment, metadata."""

    person: str
    templates: int
    comparable: int
    created_at: str
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of people. `next` is the `after` of the next page, None on the last; `total` counts the whole gallery."""

    people: list[PersonEntry]
    next: str | None
    total: int


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The person's pseudonym, the templates of the request, the number of new ones, and the person's total."""

    pseudonym: str
    templates: list[Template]
    added: int
    total: int


@dataclass(frozen=True, slots=True)
class Erased:
    """The person's pseudonym, the number of erased templates, the SHA-256 of their images, and the number of unknown ones."""

    pseudonym: str
    templates: int
    images: list[str]
    unknown_images: int


@dataclass(frozen=True, slots=True)
class Match:
    """A person, the person's best template, its cosine similarity, and the quality of the template's face."""

    person: str
    template: str
    similarity: float
    quality: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Identification:
    """Matches, best first; the number of people and templates searched, and of templates of other models."""

    matches: list[Match]
    people: int
    templates: int
    other_models: int


def pack(template: Template) -> bytes:
    """Serialize: one line of JSON, then the embedding as little-endian float32."""
    facts = [template.id, template.created_at, template.model, template.contract, template.image, template.quality]
    return json.dumps(facts).encode() + b"\n" + template.embedding.astype("<f4").tobytes()


def unpack(body: bytes) -> Template:
    """Read what `pack` wrote."""
    line, _, vector = body.partition(b"\n")
    template_id, created_at, model, contract, image, quality = json.loads(line)
    embedding = np.frombuffer(vector, "<f4").astype(np.float32)
    return Template(template_id, created_at, model, contract, embedding, image, quality)


def normalize_person(person: str) -> str:
    """Convert a person's id to Unicode NFC, so that one name is one person however it was typed.

    Raises:
        RejectionError: `bad_request` if the id is not valid. A URL cannot name a slash, `.` or `..` (clients resolve
            them), so a person with such an id could be enrolled but not erased.
    """
    person = unicodedata.normalize("NFC", person)
    bad = any(unicodedata.category(letter) in ("Cc", "Cs") for letter in person)
    if bad or not 1 <= len(person) <= 128 or person != person.strip() or "/" in person or person in (".", ".."):
        raise RejectionError(
            "the person's id is not valid, expected 1 to 128 characters, no slash, no control characters, no space at either end, "
            "and not . or ..",
            "bad_request",
            "person",
        )
    return person


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raise RejectionError `bad_request` if metadata is too long, or has characters that are none."""
    if any(unicodedata.category(letter) == "Cs" for text in (*metadata, *metadata.values()) for letter in text):
        raise RejectionError("the metadata has half of a surrogate pair", "bad_request", "metadata")
    size = len(json.dumps(metadata, ensure_ascii=False).encode())
    if size > MAX_METADATA:
        raise RejectionError(
            f"the metadata has {size} bytes, expected at most {MAX_METADATA}", "bad_request", "metadata"
        )
