"""What is drawn of each person, and how the images of all people become one output."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from eolgul.errors import InputError
from eolgul.formats.kface import Condition, write_annotation
from eolgul.formats.synthetic import SYNTHETIC_MARK
from eolgul.synth.crop import aligned_faces
from eolgul.synth.person import Person, generator
from eolgul.synth.population import Origins
from eolgul.synth.population import people as persons
from eolgul.synth.render import jpeg, render
from eolgul.synth.rig import camera, light
from eolgul.synth.scene import Sitter
from eolgul.synth.store import TRUTH, Shot, WorkFolder, produce_once, write_truth
from eolgul.synth.wild import photographs
from eolgul.workers import map_in_order

Progress = Callable[[int, int], None]

# The lights whose images K-FACE annotates; the other lights of a camera share the geometry.
_ANNOTATED_LIGHTS = ("L1", "L3", "L6", "L7")
_PHOTO_STREAM = 12


class Plan(Protocol):
    """Which images of a person are drawn."""

    def __len__(self) -> int:
        """The number of images."""
        ...

    def shots(self, person: Person, product: Path) -> list[Shot]:
        """Draw the images; images that are files of their own are written below `product`."""
        ...


@dataclass(frozen=True)
class Session:
    """K-FACE's images of a person under the given conditions."""

    conditions: tuple[Condition, ...]

    def __len__(self) -> int:
        return len(self.conditions)

    def shots(self, person: Person, product: Path) -> list[Shot]:
        """Draw the images into K-FACE's tree, with annotations where K-FACE has them."""
        sitter = Sitter(person)
        # One scene per expression and accessory.
        shared: dict[tuple[str, str], list[Condition]] = defaultdict(list)
        for condition in self.conditions:
            shared[condition.expression, condition.accessory].append(condition)
        shots = []
        for (expression, accessory), group in shared.items():
            scene = sitter.scene(expression, accessory)
            for condition in group:
                view = camera(condition.camera, condition.resolution)
                names = (condition.resolution, accessory, condition.light, expression, condition.camera)
                # The condition selects the random stream: an image does not depend on which others are drawn.
                number = int.from_bytes(hashlib.sha256("/".join(names).encode()).digest()[:8], "big")
                rng = generator(person.seed, person.index, 4, number)
                name = condition.path(person.identity)
                path = product / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(jpeg(render(scene, view, light(condition.light), rng)))
                if accessory == "S001" and condition.light in _ANNOTATED_LIGHTS:
                    write_annotation(path.with_suffix(".txt"), scene.points(view), scene.boxes(view, condition.camera))
                shots.append(Shot(name, b"", scene.truth(view)))
        return shots


@dataclass(frozen=True)
class Photographs:
    """Photos in the wild, one file per photo in the person's folder."""

    count: int

    def __len__(self) -> int:
        return self.count

    def shots(self, person: Person, product: Path) -> list[Shot]:
        """Draw the photos into the folder of the person's identity."""
        identity = f"drawn-{person.seed}-{person.index:06d}"
        (product / identity).mkdir(parents=True, exist_ok=True)
        shots = []
        for number, (data, truth) in enumerate(photographs(person, self.count, _PHOTO_STREAM, aligned=False)):
            name = f"{identity}/{number:04d}.jpg"
            (product / name).write_bytes(data)
            shots.append(Shot(name, b"", truth))
        return shots


@dataclass(frozen=True)
class Faces:
    """Aligned faces, kept in the person's record until the file that holds them is written.

    Attributes:
        style: "rig" or "wild".
        stream: number of the random stream; different uses of the same person take different streams.
        names: one name per image.
    """

    style: str
    stream: int
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def shots(self, person: Person, product: Path) -> list[Shot]:
        """Draw the faces; their bytes are in the shots."""
        if self.style == "wild":
            faces = photographs(person, len(self), self.stream, aligned=True)
        else:
            faces = aligned_faces(person, len(self), self.stream)
        return [Shot(name, data, truth) for name, (data, truth) in zip(self.names, faces, strict=True)]


@dataclass(frozen=True)
class _Job:
    folder: Path
    number: int
    person: Person
    plan: Plan


def _draw_one(job: _Job) -> int:
    """Draw one person's images and write their record; returns the number of images."""
    folder = WorkFolder(job.folder)
    folder.write(job.number, job.plan.shots(job.person, folder.product))
    return len(job.plan)


@dataclass(frozen=True)
class Drawing:
    """Who is drawn, and by how many processes.

    Attributes:
        people: number of people.
        first: number of the first person in the population.
        seed: which population.
        origins: shares of people by origin, see `population`.
        workers: number of processes.
        progress: called with (images done, images in all), or None.

    Raises:
        InputError: fewer than one person or worker, or a negative number.
    """

    people: int
    first: int
    seed: int
    origins: Origins
    workers: int
    progress: Progress | None

    def __post_init__(self) -> None:
        if self.people < 1 or self.workers < 1:
            raise InputError(f"{self.people} people with {self.workers} workers, expected at least one of each")
        if self.first < 0 or self.seed < 0:
            raise InputError(f"first person {self.first}, seed {self.seed}, expected numbers of at least 0")

    def recipe(self, kind: str) -> dict[str, Any]:
        """The part of the recipe that every kind of output shares."""
        return {"kind": kind, "people": self.people, "first": self.first, "seed": self.seed, "origins": self.origins}

    def draw(self, folder: WorkFolder, plans: Sequence[Plan]) -> None:
        """Draw everybody who has no record yet; one plan per person."""
        waiting = [number for number in range(self.people) if not folder.has(number)]
        total, missing = sum(map(len, plans)), sum(len(plans[number]) for number in waiting)
        done = total - missing

        def jobs() -> Iterator[_Job]:
            wanted = set(waiting)
            for number, person in enumerate(persons(self.seed, self.first, self.people, self.origins)):
                if number in wanted:
                    yield _Job(folder.path, number, person, plans[number])

        for count in map_in_order(_draw_one, jobs(), min(self.workers, max(1, len(waiting)))):
            done += count
            if self.progress:
                self.progress(done, total)

    def produce(
        self, out: Path, recipe: dict[str, Any], plans: Sequence[Plan], pack: Callable[[WorkFolder], None] | None = None
    ) -> dict[str, Any]:
        """Draw everybody and put the images, their truth and the card at `out`.

        Args:
            out: the folder to make.
            recipe: what the output depends on.
            plans: one plan per person.
            pack: writes the files of images that are only in the records.

        Returns:
            What `store.produce_once` returns.
        """

        def write(folder: WorkFolder) -> None:
            self.draw(folder, plans)
            if pack:
                pack(folder)
            truths = [(shot.name, shot.truth) for number in range(self.people) for shot in folder.read(number)]
            write_truth(folder.product / TRUTH, truths)

        counts = {"images": sum(map(len, plans)), "identities": self.people}
        return produce_once(out, out / SYNTHETIC_MARK, recipe, counts, write)
