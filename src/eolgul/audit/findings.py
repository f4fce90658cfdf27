"""What an audit finds: per face of the benchmark and training person, the nearest training image and how it was found."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from eolgul.audit.faces import Faces
from eolgul.audit.nearest import HASH_BITS, thumbnail
from eolgul.audit.schema import KINDS, AuditResult, ImageFinding, Kind, PersonFinding


@dataclass(slots=True)
class Match:
    """How one face of the benchmark was found in one training person; `image` is the training face."""

    image: int
    kinds: set[Kind]
    similarity: float | None = None
    distance: int | None = None
    mirrored: bool = False

    @property
    def score(self) -> tuple[int, float]:
        """Sorts the surest first: by the kind, then by how near."""
        rank = min(KINDS.index(kind) for kind in self.kinds)
        near = -(self.distance or 0) / HASH_BITS if self.similarity is None else self.similarity
        return -rank, near


class Findings:
    """What was found so far: per face of the benchmark and training person, the nearest training image."""

    def __init__(self, faces: Faces, train: Faces) -> None:
        self.faces, self.train = faces, train
        self.matches: dict[tuple[int, int], Match] = {}

    def add(
        self,
        face: int,
        image: int,
        kind: Kind,
        *,
        similarity: float | None = None,
        distance: int | None = None,
        mirrored: bool = False,
    ) -> None:
        """Add what one way of comparing found; an image that is surer or nearer replaces the one named so far."""
        new = Match(image, {kind}, similarity, distance, mirrored)
        old = self.matches.setdefault((face, int(self.train.person[image])), new)
        if old is new:
            return
        if old.image != image and new.score > old.score:
            old.image, old.mirrored = image, mirrored
        if kind == "hash" and old.image == image:
            old.mirrored = mirrored
        old.kinds.add(kind)
        old.similarity = max((value for value in (old.similarity, similarity) if value is not None), default=None)
        old.distance = min((value for value in (old.distance, distance) if value is not None), default=None)

    def images(self) -> list[ImageFinding]:
        """All findings, the worst first."""
        made = []
        for (face, _), match in sorted(self.matches.items(), key=lambda item: (_negative(item[1].score), item[0])):
            part, train_part = self.faces.part_of(face)[0], self.train.part_of(match.image)[0]
            made.append(
                ImageFinding(
                    against_set=part.name,
                    against_image=self.faces.image_id(face),
                    against_identity=self.faces.names[face],
                    train_set=train_part.name,
                    train_image=self.train.image_id(match.image),
                    train_identity=self.train.names[match.image] or self.train.image_id(match.image),
                    kinds=[kind for kind in KINDS if kind in match.kinds],
                    similarity=match.similarity,
                    hash_distance=match.distance,
                    mirrored=match.mirrored,
                )
            )
        return made

    def people(self, named: dict[tuple[str, str], tuple[str, str]]) -> list[PersonFinding]:
        """The people found, the worst first.

        Args:
            named: Who was found by name: {(identity, training identity): (set, training set)}.
        """
        groups: dict[tuple[str, str | None, str, str], list[Match]] = defaultdict(list)
        for (face, _), match in self.matches.items():
            key = (
                self.faces.part_of(face)[0].name,
                self.faces.names[face],
                self.train.part_of(match.image)[0].name,
                self.train.names[match.image] or self.train.image_id(match.image),
            )
            groups[key].append(match)
        for (name, train_name), (set_name, train_set) in named.items():
            groups[set_name, name, train_set, train_name].extend([])
        made = []
        for (part, identity, train_part, train_identity), matches in groups.items():
            kinds = {kind for match in matches for kind in match.kinds}
            if identity is not None and (identity, train_identity) in named:
                kinds.add("name")
            near = [match.similarity for match in matches if match.similarity is not None]
            made.append(
                PersonFinding(
                    against_set=part,
                    against_identity=identity,
                    train_set=train_part,
                    train_identity=train_identity,
                    kinds=[kind for kind in KINDS if kind in kinds],
                    similarity=max(near, default=None),
                    images=len(matches),
                )
            )
        made.sort(key=lambda item: (KINDS.index(item.kinds[0]), -(item.similarity or 0), -item.images,
                                    item.against_identity or "", item.train_identity))  # fmt: skip
        return made

    def pictures(self, result: AuditResult, shown: int) -> dict[str, bytes]:
        """Thumbnails of the images that the report shows: by "against/<set>/<id>" and "train/<set>/<id>"."""
        wanted = {f"against/{item.against_set}/{item.against_image}" for item in result.images[:shown]}
        wanted |= {f"train/{item.train_set}/{item.train_image}" for item in result.images[:shown]}
        if result.labels is not None:
            wanted |= {f"train/{item.set}/{item.image}" for item in result.labels.far[:shown]}
        made = {}
        for side, faces in (("against", self.faces), ("train", self.train)):
            for part in faces.parts:
                ids = part.dataset.arrow("image_id").take(part.rows.tolist()).to_pylist()
                for row, image_id in zip(part.rows, ids, strict=True):
                    key = f"{side}/{part.name}/{image_id}"
                    if key in wanted:
                        made[key] = thumbnail(part.dataset.read(int(row)))
        return made


def _negative(score: tuple[int, float]) -> tuple[int, float]:
    return -score[0], -score[1]
