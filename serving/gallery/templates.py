"""What passes in and out of the gallery, and how a template is written."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eolgul.serving.problems import RejectionError


@dataclass(frozen=True, slots=True)
class NewTemplate:
    """To enroll: model package and embedding contract digests (hex), unit embedding (float32), sha256 of the encoded
    image (hex), quality of the face by name."""

    model: str
    contract: str
    embedding: NDArray[np.float32]
    image: str
    quality: dict[str, float]


@dataclass(frozen=True, slots=True)
class Template:
    """An enrolled face; `created_at` in ISO 8601 UTC, the rest as of `NewTemplate`."""

    id: str
    created_at: str
    model: str
    contract: str
    embedding: NDArray[np.float32]
    image: str
    quality: dict[str, float]

    @classmethod
    def of(cls, new: NewTemplate, template_id: str, created_at: str) -> Template:
        return cls(template_id, created_at, new.model, new.contract, new.embedding, new.image, new.quality)


@dataclass(frozen=True, slots=True)
class Record:
    """A template and whose it is."""

    person: str
    template: Template


@dataclass(frozen=True, slots=True)
class PersonEntry:
    """One of a list of people: id, number of templates, how many of them the model asked about made, when first enrolled."""

    person: str
    templates: int
    comparable: int
    created_at: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some people; `next` asks for those behind them, None where there are none; `total` in the gallery."""

    people: list[PersonEntry]
    next: str | None
    total: int


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The person's pseudonym, the templates asked for, how many of them are new, and how many the person has now."""

    pseudonym: str
    templates: list[Template]
    added: int
    total: int


@dataclass(frozen=True, slots=True)
class Erased:
    """The person's pseudonym, how many templates went, the sha256 of their images, and how many do not tell theirs."""

    pseudonym: str
    templates: int
    images: list[str]
    unknown_images: int


@dataclass(frozen=True, slots=True)
class Match:
    """A person, the best template, and its cosine similarity."""

    person: str
    template: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Identification:
    """Best first; how many people and templates were searched; how many templates are of other models."""

    matches: list[Match]
    people: int
    templates: int
    other_models: int


def pack(template: Template) -> bytes:
    """A line of JSON, then the embedding as little-endian float32."""
    facts = [template.id, template.created_at, template.model, template.contract, template.image, template.quality]
    return json.dumps(facts).encode() + b"\n" + template.embedding.astype("<f4").tobytes()


def unpack(body: bytes) -> Template:
    """What `pack` wrote."""
    line, _, vector = body.partition(b"\n")
    template_id, created_at, model, contract, image, quality = json.loads(line)
    embedding = np.frombuffer(vector, "<f4").astype(np.float32)
    return Template(template_id, created_at, model, contract, embedding, image, quality)


def checked_person(person: str) -> str:
    """The id in Unicode's NFC, so that one name is one person however it was typed. RejectionError `bad_request`.

    What an address could not name (a slash, `.` and `..`, which clients resolve) could be enrolled and never erased.
    """
    person = unicodedata.normalize("NFC", person)
    bad = any(unicodedata.category(letter) in ("Cc", "Cs") for letter in person)
    if bad or not 1 <= len(person) <= 128 or person != person.strip() or "/" in person or person in (".", ".."):
        raise RejectionError(
            "a person's id has 1 to 128 characters, no slash, no control characters, no space around it, and is not . or ..",
            "bad_request",
            "person",
        )
    return person
