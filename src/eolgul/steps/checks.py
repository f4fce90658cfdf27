"""What can be known to go wrong before hours of work: options, places, rights, sizes. Seconds, and nothing is fetched."""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eolgul import storage
from eolgul.align.config import AlignConfig
from eolgul.assemble.config import AssembleConfig
from eolgul.config import Config
from eolgul.errors import InputError
from eolgul.evaluate.config import EvaluateConfig
from eolgul.extract.config import ExtractConfig
from eolgul.promote.config import PromoteConfig
from eolgul.steps.figures import cell
from eolgul.steps.places import find_card, place_of
from eolgul.steps.registry import signing_key_file
from eolgul.steps.tasks import recipe_name
from eolgul.train.config import TrainConfig
from eolgul.train.recipe import Recipe

_STEPS: dict[str, type[Config]] = {
    "extract": ExtractConfig,
    "align": AlignConfig,
    "assemble": AssembleConfig,
    "evaluate": EvaluateConfig,
    "promote": PromoteConfig,
}
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_BATCH_BYTES = 3 * 112 * 112  # a face as training's workers hand it over
_AHEAD = 3  # batches per worker, as `eolgul.train.loader`
_FACE = 25_000  # bytes of an aligned face as PNG
_IN_RECORD = 8_000  # bytes of a face in a .rec
_CHECK = re.compile(r"check-(\d+)-[0-9a-f]{32}")  # an object that a check writes: the second it began
_LEFT = 3600  # seconds after which such an object is that of a check that was killed: one takes seconds
# Images a second, rough: two cores of a cloud machine, and one data-centre GPU (docs/measured.md).
_RATES = {"extract": 2_000.0, "align": 20.0, "assemble": 5_000.0}
_TRAIN_GPU = {"irse50": 1_500.0, "mobilefacenet": 6_000.0, "iresnet50": 2_500.0}


@dataclass
class Checked:
    """What the check found: lines for people, the sentences of what is wrong, and what the next tasks take.

    Attributes:
        lines: One per check.
        wrong: What is wrong.
        sources: What to learn from.
        model: The reference of the model that the run is about; "" without one.
    """

    lines: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    model: str = ""

    def attempt(self, what: str, check: Callable[[], str]) -> None:
        """Run one check: its answer becomes a line, its InputError a sentence."""
        try:
            self.lines.append(f"| {cell(what)} | {cell(check())} |")
        except InputError as error:
            if str(error) not in self.wrong:
                self.wrong.append(str(error))
            self.lines.append(f"| {cell(what)} | **{cell(str(error))}** |")

    def options(self, step: str, config: type[Config], options: Mapping[str, Mapping[str, Any]]) -> None:
        """Check the options of a step."""
        self.attempt(f"options of {step}", lambda: _options(config, options[step]))

    def places(self, places: Sequence[str], sizes: dict[str, tuple[int, int]]) -> None:
        """Count what is at some sources; `sizes` gets the images and bytes of each."""
        for place in places:
            self.attempt(place, lambda place=place: _source(place, sizes))  # type: ignore[misc]

    def markdown(self) -> str:
        """All lines as a table, what is wrong first."""
        count = f"{len(self.wrong)} things are" if len(self.wrong) > 1 else "1 thing is"
        head = f"## {count} wrong\n\n" if self.wrong else "## What will run\n\n"
        head += "".join(f"- {cell(sentence)}\n" for sentence in self.wrong)
        return "\n".join([head, "| what | found |", "|---|---|", *self.lines, ""])


def check_run(
    options: Mapping[str, Mapping[str, Any]],
    *,
    workspace: str,
    registry: str,
    sources: Sequence[str],
    benchmarks: Sequence[str],
    recipes: Sequence[str],
    shared_memory: int,
    scratch: int,
) -> Checked:
    """Check the parameters of a whole run.

    Args:
        options: The parameters of each step by their component's names: extract, align, assemble, train, evaluate, promote.
        workspace: Where the artifacts go.
        registry: The model registry.
        sources: What to learn from.
        benchmarks: The benchmarks.
        recipes: The candidates' recipes.
        shared_memory: Bytes of /dev/shm that a training pod has; 0 when that is not known.
        scratch: Bytes of the scratch volume of a pod; 0 when that is not known.
    """
    checked = Checked()
    for step, config in _STEPS.items():
        checked.options(step, config, options)
    loaded: dict[str, Recipe] = {}
    checked.attempt("recipes", lambda: _recipes(recipes, options["train"], loaded))
    checked.attempt(f"workspace {workspace}", lambda: rights(workspace))
    checked.attempt(f"registry {registry}", lambda: in_registry(registry))
    checked.attempt("signing key", signing)
    sizes: dict[str, tuple[int, int]] = {}
    checked.places((*sources, *benchmarks), sizes)
    for place in _files(options):
        checked.attempt(place, lambda place=place: there(place))  # type: ignore[misc]
    workers = int(options["train"].get("workers", 0))
    for name, recipe in loaded.items():
        checked.attempt(
            f"shared memory of {name}",
            lambda recipe=recipe: _shared(recipe, workers, shared_memory),  # type: ignore[misc]
        )
    images = sum(count for source, (count, _) in sizes.items() if source in sources)
    checked.attempt("disk of a pod", lambda: disk(sizes, images, scratch))
    for line in _estimate(images, loaded):
        checked.lines.append(line)
    return checked


def _options(config: type[Config], given: Mapping[str, Any]) -> str:
    config.from_parameters(given)
    return "accepted"


def _recipes(recipes: Sequence[str], given: Mapping[str, Any], loaded: dict[str, Recipe]) -> str:
    if not recipes:
        raise InputError("train_recipes: names no recipe, expected one or more")
    names = [recipe_name(recipe) for recipe in recipes]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"train_recipes: {name} is named twice; a candidate is known by its recipe's name")
    for recipe, name in zip(recipes, names, strict=True):
        config = TrainConfig.from_parameters({**given, "recipe": recipe})
        loaded[name] = config.load_recipe()
    return ", ".join(
        f"{name} ({recipe.backbone}, {recipe.epochs} epochs, batch {recipe.batch_size})"
        for name, recipe in loaded.items()
    )


def rights(workspace: str) -> str:
    """Write, read, write if absent, and remove: what a run does there."""
    folder, now = storage.join(workspace, "making"), int(time.time())
    place = storage.join(folder, f"check-{now}-{uuid.uuid4().hex}")
    first, second = b"first", b"second"
    try:
        if storage.put_if_absent(place, first) != first or storage.read_bytes(place) != first:
            raise InputError(f"{workspace}: what is written there is not what is read")
        if storage.put_if_absent(place, second) != first:
            raise InputError(
                f"{workspace}: this S3 replaces an object in spite of If-None-Match; runs that share a workspace need it "
                "(MinIO, SeaweedFS and AWS have it)"
            )
        storage.write_bytes(place, second)
        if storage.read_bytes(place) != second:
            raise InputError(f"{workspace}: what is written there is not what is read")
    finally:
        storage.remove_object(place)
    for name in storage.list_names(folder):
        left = _CHECK.fullmatch(name)
        if left and now - int(left[1]) > _LEFT:
            storage.remove_object(storage.join(folder, name))
    return "read, write and write-if-absent work"


def pod_gpus(train: Mapping[str, Any]) -> int:
    """GPUs that a training pod asks for: none where it only follows the machines of a TrainJob, or trains without one."""
    return 0 if int(train["nodes"]) > 1 or train["device"] == "cpu" else int(train["gpus"])


def in_registry(registry: str) -> str:
    """Say which model is in production; InputError for a registry that cannot be read."""
    from eolgul.registry.store import read_production

    production = read_production(registry)
    return "no model in production yet" if production is None else f"in production: {production.digest[:12]}"


def signing() -> str:
    """Say which key signs; InputError for one that cannot be read."""
    from eolgul.registry.signing import SigningKey

    file = signing_key_file()
    return f"signs with {SigningKey.read(file).key_id}" if file else "none: a promoted model is not signed"


def _files(options: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The files that options name."""
    extract, train = options["extract"], options["train"]
    named = [extract.get(key) for key in ("identities", "without_identities", "root", "benchmark_identities")]
    named += [*extract.get("benchmark_pairs", ()), *options["assemble"].get("exclude", ()), train.get("init")]
    return [str(place) for place in named if place]


def there(place: str) -> str:
    """Refuse a place with nothing there."""
    if not storage.exists(place.partition("#sha256:")[0]):
        raise InputError(f"{place}: nothing there")
    return "there"


def _source(source: str, sizes: dict[str, tuple[int, int]]) -> str:
    """Count what is at a source by its names and sizes, or by its card where it is a data set."""
    card = find_card(source)
    files = size = records = pictures = 0
    for name, one in _listed(place_of(source)):
        files, size = files + 1, size + one
        records += one if name.endswith((".rec", ".bin")) else 0
        pictures += name.lower().endswith(_IMAGES)
    if not files:
        raise InputError(f"{source}: nothing there")
    images = records // _IN_RECORD + pictures
    if card is not None:
        if card.kind != "FaceDataset":
            raise InputError(f"{source}: is a {card.kind}, expected a raw source or a FaceDataset")
        images = int(card.contents["images"])
    sizes[source] = (images, size)
    return f"{files:,} files, {size / 1e9:.2f} GB, about {images:,} images"


def _listed(source: str) -> Iterator[tuple[str, int]]:
    """Name and size of every file of a source, which may have millions."""
    if storage.is_s3(source):
        for name, size, _ in storage.describe(source):
            yield name, size
        return
    path = Path(source)
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            yield file.name, file.stat().st_size


def shared_memory_of(recipe: Recipe, workers: int) -> int:
    """Bytes of /dev/shm that training with a recipe needs, as `eolgul.train.loader` counts them."""
    return recipe.batch_size * _BATCH_BYTES * (workers * _AHEAD + 2) if workers else 0


def _shared(recipe: Recipe, workers: int, room: int) -> str:
    need = shared_memory_of(recipe, workers)
    if room and need > room:
        raise InputError(
            f"train_workers {workers}: batches of {recipe.batch_size} need {need / 1e6:.0f} MB of /dev/shm, a pod has "
            f"{room / 1e6:.0f} MB; use fewer workers, or compile with a larger EOLGUL_POD_SHM"
        )
    return f"{need / 1e6:.0f} MB" + (f" of {room / 1e6:.0f} MB" if room else "")


def disk(sizes: Mapping[str, tuple[int, int]], images: int, scratch: int) -> str:
    """The most that one pod has on its disk: sources and extraction, or an aligned data set twice."""
    raw = sum(size for _, size in sizes.values())
    need = max(2 * raw, 2 * images * _FACE)
    if scratch and need > scratch:
        raise InputError(
            f"disk: about {need / 1e9:.0f} GB for {images:,} images, but the scratch volume of a pod has "
            f"{scratch / 1e9:.0f} GB; select less, or compile with a larger EOLGUL_POD_SCRATCH"
        )
    return f"about {need / 1e9:.1f} GB" + (f" of {scratch / 1e9:.0f} GB" if scratch else "")


def _estimate(images: int, recipes: Mapping[str, Recipe]) -> list[str]:
    lines = [f"| time of {step} | about {_hours(images / rate)} |" for step, rate in _RATES.items()]
    for name, recipe in recipes.items():
        rate = _TRAIN_GPU.get(recipe.backbone, 2_000.0)
        lines.append(f"| time of training {cell(name)} | about {_hours(recipe.epochs * images / rate)} on one GPU |")
    return lines


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 3600 else f"{max(seconds, 60) / 60:.0f} min"


def limits() -> tuple[int, int]:
    """Shared memory and scratch of the run's pods in bytes, as the pipeline was compiled; 0, 0 outside a cluster."""
    try:
        given = json.loads(os.environ.get("EOLGUL_POD_LIMITS", "{}"))
        return int(given.get("shm", 0)), int(given.get("scratch", 0))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError("EOLGUL_POD_LIMITS: expected JSON with shm and scratch in bytes") from error
