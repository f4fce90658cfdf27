"""`audit.json` as typed models. Similarities are cosines; what was not compared is None, which is not the same as zero."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

AUDIT_FORMAT: Final = 1
Kind = Literal["bytes", "hash", "embedding", "name"]
KINDS: tuple[Kind, ...] = ("bytes", "hash", "embedding", "name")  # the surest first

Count = Annotated[int, Field(ge=0)]
Cosine = Annotated[float, Field(ge=-1.01, le=1.01)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class AuditedSet(_Closed):
    """A set that was compared. `split`: which split of an assembled dataset; `people`: None where they are not known."""

    name: str
    digest: str
    split: str | None
    images: Count
    people: Count | None
    embedded: Count | None


class AuditModel(_Closed):
    """The model whose embeddings were compared."""

    digest: str
    kind: str
    backbone: str


class Coinciding(_Closed):
    """Two names that may be one person: how similar they are says where they are listed."""

    first: str
    second: str
    similarity: Cosine


class Threshold(_Closed):
    """The similarity from which two faces count as one person.

    `fmr`: the share of `comparisons` of different people in the benchmark that reach it, at most; None for a threshold
    that was given. `fmr_requested`: the rate that was asked for, directly or by the false findings that are allowed.
    `extrapolated`: the rate is finer than the pairs of people can show, and read from the tail of their comparisons.
    `false_findings`: how many comparisons of strangers would reach it among all that were made.
    `means`: the same for the mean embeddings of two people, None where no two people of the benchmark are named.
    `copies`: pairs of people of the benchmark who have copies of one image, and so are not known to differ. `alike`: people
    of the benchmark who are more alike than strangers are by any chance: perhaps one person with two names, and so not
    counted as different either; with the greatest similarity of their images.
    """

    similarity: float
    fmr_requested: float | None
    fmr: float | None
    comparisons: Count
    person_pairs: Count
    false_findings: float | None
    means: float | None
    copies: Count
    alike: list[Coinciding]
    extrapolated: bool


class ImageFinding(_Closed):
    """An image of the benchmark and the nearest image of one training identity, with how it was found."""

    against_set: str
    against_image: str
    against_identity: str | None
    train_set: str
    train_image: str
    train_identity: str
    kinds: list[Kind]
    similarity: Cosine | None
    hash_distance: Count | None
    mirrored: bool


class PersonFinding(_Closed):
    """A person of the benchmark who is a training identity; `images`: how many of their images were found there."""

    against_set: str
    against_identity: str | None
    train_set: str
    train_identity: str
    kinds: list[Kind]
    similarity: Cosine | None
    images: Count


class KindCount(_Closed):
    """How many images and people of the benchmark one way of comparing found; `reason` says why it was not tried."""

    images: Count | None
    people: Count | None
    reason: str | None


class FarImage(_Closed):
    """A training image and its similarity to the mean of its identity's other images."""

    set: str
    image: str
    identity: str
    similarity: Cosine


class LabelNoise(_Closed):
    """What looks mislabelled in the training data; nothing is removed for it.

    `below`: images that are less similar to their identity's other images than the threshold, of `measured`.
    """

    measured: Count
    below: Count
    far: list[FarImage]
    coinciding_pairs: Count
    coinciding: list[Coinciding]


class AuditResult(_Closed):
    """All that an audit found, the worst first. `exclude`: the training identities (`<source>.<name>`) found."""

    format: Literal[1]
    synthetic: bool
    options: dict[str, Any]
    model: AuditModel | None
    threshold: Threshold | None
    train: list[AuditedSet]
    against: list[AuditedSet]
    found: dict[Kind, KindCount]
    people: list[PersonFinding]
    images: list[ImageFinding]
    labels: LabelNoise | None
    exclude: list[str]
