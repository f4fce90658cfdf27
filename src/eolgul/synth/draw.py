"""Write K-FACE's tree, InsightFace's `train.rec` and `.bin`, and folders of photos, all of people who do not exist.

Worker processes draw one person per task; what they draw depends on the seed only. An output appears whole or not at all:
an interrupted drawing continues after its last finished person, and an output of the same recipe is left as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eolgul.errors import InputError
from eolgul.formats.insightface import write_bin, write_rec
from eolgul.formats.kface import Condition, Selection
from eolgul.formats.synthetic import mark_beside
from eolgul.images.grid import grid
from eolgul.synth.person import IDENTITIES, generator
from eolgul.synth.plans import Drawing, Faces, Photographs, Progress, Session
from eolgul.synth.population import DEFAULT_ORIGINS, Origins, draw_person, parse_origins
from eolgul.synth.render import render
from eolgul.synth.rig import camera, light
from eolgul.synth.scene import Sitter
from eolgul.synth.store import TRUTH, WorkFolder, produce_once, write_truth

_REC_STREAM, _BIN_STREAM = 10, 11
_FOLDS = 10
STYLES = ("rig", "wild")
KIND_OPTIONS = {  # that are not for every kind; K-FACE is a studio, and folders hold photos from anywhere
    "kface": ("selection", "images"),
    "rec": ("images", "style"),
    "bin": ("pairs", "style"),
    "folders": ("images",),
}


def draw_kface(
    out: Path,
    *,
    people: int,
    first: int = 0,
    seed: int = 0,
    selection: Selection | str = "demo",
    resolution: str | None = None,
    origins: Origins = DEFAULT_ORIGINS,
    workers: int = 2,
    progress: Progress | None = None,
    images_per_person: int | None = 24,
) -> dict[str, Any]:
    """Draw people in K-FACE's tree: `out/<resolution>_Resolution/<ID>/<S00x>/<Ly>/<E0z>/<Cn>.jpg`.

    Annotation files `<Cn>.txt` lie beside the images that K-FACE annotates (S001 under L1, L3, L6, L7), and
    `truth.parquet` holds the exact landmarks and pose of every image (see `store.Shot`).

    Args:
        out: the folder to make.
        people: number of people: `first` … `first + people - 1` of the population `seed`.
        first: number of the first person.
        seed: which population.
        selection: which conditions, as text of K-FACE's selection language or parsed.
        resolution: "High", "Middle" or "Low" instead of the selection's own resolutions.
        origins: shares of people of mostly East Asian, African and Caucasian origin; other shares are other people.
        workers: number of processes; it does not change the result.
        progress: called with (images done, images in all).
        images_per_person: at most this many of the selection's conditions, a balanced subset (see `balanced`); None: all.

    Returns:
        `images`, `identities`, `seconds`, `recipe` (digest), and `cached` (nothing had to be drawn).

    Raises:
        InputError: a number is out of range, or `out` holds other data than drawn images.
    """
    chosen = Selection.parse(selection) if isinstance(selection, str) else selection
    if resolution is not None:
        chosen = Selection(**(asdict(chosen) | {"resolutions": (resolution,)}))
    conditions = list(chosen.conditions())
    if images_per_person is not None:
        conditions = balanced(conditions, images_per_person)
    drawing = Drawing(people, first, seed, origins, workers, progress)
    if people > IDENTITIES:
        raise InputError(f"{people} people, expected at most {IDENTITIES}: K-FACE's form of identity has no more names")
    recipe = drawing.recipe("kface") | {"selection": asdict(chosen), "images_per_person": images_per_person}
    return drawing.produce(out, recipe, [Session(tuple(conditions))] * people)


def draw_folders(
    out: Path,
    *,
    people: int,
    images: int,
    first: int = 300_000,
    seed: int = 0,
    origins: Origins = DEFAULT_ORIGINS,
    workers: int = 2,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw `images` photos in the wild of each of `people` people: `out/<identity>/<number>.jpg`, 250×250 pixels.

    Other arguments, truth, result and errors: as `draw_kface`.
    """
    drawing = Drawing(people, first, seed, origins, workers, progress)
    recipe = drawing.recipe("folders") | {"images": images}
    return drawing.produce(out, recipe, [Photographs(images)] * people)


def draw_rec(
    out: Path,
    *,
    people: int,
    images: int,
    first: int = 100_000,
    seed: int = 0,
    style: str = "rig",
    origins: Origins = DEFAULT_ORIGINS,
    workers: int = 2,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw `images` aligned 112×112 faces of each of `people` people into `out/train.rec`, `.idx`, `property`.

    With style "rig", direction (yaw ±40°, pitch ±15°), light, expression, glasses, landmark error, noise, blur and JPEG
    quality are random, the studio is not; with style "wild" see `wild`. Labels are 0 … people-1 in the order of the
    people; `truth.parquet` calls an image `train.rec/<record key, 8 digits>`. Other arguments, result and errors: as
    `draw_kface`.
    """
    drawing = Drawing(people, first, seed, origins, workers, progress)
    _check_style(style)
    recipe = drawing.recipe("rec") | {"images": images, "style": style}
    plans = [
        Faces(style, _REC_STREAM, tuple(f"train.rec/{k * images + n + 1:08d}" for n in range(images)))
        for k in range(people)
    ]

    def pack(folder: WorkFolder) -> None:
        write_rec(folder.product, ((k, shot.data) for k in range(people) for shot in folder.read(k)))

    return drawing.produce(out, recipe, plans, pack)


def draw_bin(
    out: Path,
    *,
    people: int,
    pairs: int,
    first: int = 200_000,
    seed: int = 0,
    style: str = "rig",
    origins: Origins = DEFAULT_ORIGINS,
    workers: int = 2,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw a verification set: `pairs` pairs of aligned faces in ten equal folds, the matched half of each fold first.

    Every image is used once. With 20 people or more no person is in two folds. The truth is in `<out>.truth.parquet`,
    which calls an image `<its number, 8 digits>`. Other arguments, result and errors: as `draw_kface`.

    Raises:
        InputError: `pairs` is not a multiple of 20, or there are fewer than two people.
    """
    drawing = Drawing(people, first, seed, origins, workers, progress)
    _check_style(style)
    if people < 2 or pairs < 2 * _FOLDS or pairs % (2 * _FOLDS):
        raise InputError(
            f"{pairs} pairs of {people} people, expected a multiple of {2 * _FOLDS} pairs and at least 2 people"
        )
    recipe = drawing.recipe("bin") | {"pairs": pairs, "style": style}
    plan, same = _pairs(people, pairs, generator(seed, first, _BIN_STREAM))
    names: dict[int, list[str]] = defaultdict(list)
    for slot, person in enumerate(plan):
        names[person].append(f"{slot:08d}")

    def write(folder: WorkFolder) -> None:
        drawing.draw(folder, [Faces(style, _BIN_STREAM, tuple(names[k])) for k in range(people)])
        shots = sorted((shot for k in range(people) for shot in folder.read(k)), key=lambda shot: shot.name)
        write_bin(folder.product, [shot.data for shot in shots], same)
        write_truth(folder.path / TRUTH, [(shot.name, shot.truth) for shot in shots])

    card = mark_beside(out)
    return produce_once(out, card, recipe, {"images": len(plan), "identities": len(set(plan))}, write)


def draw_kind(
    out: Path,
    kind: str,
    *,
    people: int,
    first: int | None,
    selection: str | None,
    images: int | None,
    pairs: int | None,
    style: str | None,
    origins: str | None,
    seed: int,
    workers: int,
    progress: Progress | None,
) -> dict[str, Any]:
    """Call one of the writers by its name, with options as `eolgul synth` takes them.

    Args:
        out: the folder or file to make.
        kind: "kface", "rec", "bin" or "folders".
        people: number of people.
        first: number of the first person; None: the kind's own, so that kinds share nobody.
        selection: kface: which conditions; None: demo.
        images: kface, rec, folders: images per person; None: the kind's own number; 0 (kface): all conditions.
        pairs: bin: number of pairs; None: 300.
        style: rec, bin: "rig" (also None) or "wild".
        origins: shares of people by origin, as `parse_origins` takes them.
        seed: which population.
        workers: number of processes.
        progress: called with (images done, images in all).

    Returns:
        As `draw_kface`.

    Raises:
        InputError: an unknown kind, style or share, or an option that is not for the kind.
    """
    if kind not in KIND_OPTIONS:
        raise InputError(f"kind {kind!r}: expected kface, rec, bin or folders")
    given = {"selection": selection, "images": images, "pairs": pairs, "style": style}
    for name, value in given.items():
        if value is not None and name not in KIND_OPTIONS[kind]:
            kinds = [other for other, options in KIND_OPTIONS.items() if name in options]
            raise InputError(f"{name} {value}: is only for kind {' and '.join(kinds)}, not for {kind}")
    common: dict[str, Any] = {"people": people, "seed": seed, "workers": workers, "progress": progress}
    if first is not None:
        common["first"] = first
    if origins is not None:
        common["origins"] = parse_origins(origins)
    if style is not None:
        common["style"] = style
    if kind == "kface":
        selection = selection or "demo"
        # `original` and `all` mean every condition; other selections are sampled unless `images` says otherwise.
        limit = (0 if selection in ("original", "all") else 24) if images is None else images
        return draw_kface(out, selection=selection, images_per_person=limit or None, **common)
    if kind == "bin":
        return draw_bin(out, pairs=300 if pairs is None else pairs, **common)
    if images == 0:
        raise InputError("0 images per person, expected at least one")
    if kind == "rec":
        return draw_rec(out, images=images or 24, **common)
    return draw_folders(out, images=images or 24, **common)


def contact_sheet(
    people: int,
    *,
    first: int = 0,
    seed: int = 0,
    columns: int = 8,
    conditions: Sequence[tuple[str, str, str, str]] | None = None,
    origins: Origins = DEFAULT_ORIGINS,
) -> Image.Image:
    """Draw images side by side: one per person (frontal, neutral, L1), or every given condition of each person.

    Args:
        people: number of people.
        first: number of the first person.
        seed: which population.
        columns: images per row.
        conditions: (accessory, light, expression, camera) of each image of a person, the same for everybody.
        origins: shares of people by origin.
    """
    shots = conditions or [("S001", "L1", "E01", "C7")]
    tiles = []
    for k in range(people):
        sitter = Sitter(draw_person(seed, first + k, origins))
        for number, (accessory, lamp, expression, view) in enumerate(shots):
            scene = sitter.scene(expression, accessory)
            picture = render(scene, camera(view, "Middle"), light(lamp), generator(seed, first + k, 20, number))
            tiles.append(Image.fromarray(picture[:, 65:281]))
    return grid(tiles, columns)


def balanced(conditions: Sequence[Condition], count: int) -> list[Condition]:
    """Choose `count` conditions so that cameras, lights, expressions, accessories and pairs of them are equally frequent.

    Greedy and deterministic: each time the condition whose values, and pairs of values, were taken least often. So the
    first of all conditions is always chosen, and a longer subset contains the shorter one. The result keeps the order.
    """
    if count >= len(conditions):
        return list(conditions)
    names = ("resolution", "accessory", "light", "expression", "camera")
    values = {name: sorted({getattr(c, name) for c in conditions}) for name in names}
    facts = np.array([[values[name].index(getattr(c, name)) for name in names] for c in conditions])
    sizes = [len(values[name]) for name in names]
    single = [np.zeros(n) for n in sizes]
    double = {(i, j): np.zeros((sizes[i], sizes[j])) for i in range(5) for j in range(i)}
    cost = np.zeros(len(conditions))
    taken: list[int] = []
    for _ in range(count):
        cost[:] = sum(100 * single[i][facts[:, i]] * sizes[i] for i in range(5))
        cost += sum(table[facts[:, i], facts[:, j]] * sizes[i] * sizes[j] for (i, j), table in double.items())
        cost[taken] = np.inf
        best = int(cost.argmin())
        taken.append(best)
        for i in range(5):
            single[i][facts[best, i]] += 1
        for (i, j), table in double.items():
            table[facts[best, i], facts[best, j]] += 1
    return [conditions[k] for k in sorted(taken)]


def _check_style(style: str) -> None:
    if style not in STYLES:
        raise InputError(f"style {style!r}: expected {' or '.join(STYLES)}")


def _pairs(people: int, pairs: int, rng: np.random.Generator) -> tuple[list[int], list[bool]]:
    """The person of each of the 2 × pairs images, and which pairs show one person."""
    plan: list[int] = []
    same: list[bool] = []
    half = pairs // _FOLDS // 2
    for fold in range(_FOLDS):
        group = np.arange(people)
        if people >= 2 * _FOLDS:
            group = np.array_split(group, _FOLDS)[fold]
        # Every person of the fold in turn, in random order.
        matched = np.resize(rng.permutation(group), half)
        for person in matched.tolist():
            plan += [person, person]
        for k in range(half):
            left = int(rng.permutation(group)[0]) if k >= len(group) else int(group[k])
            right = int(rng.choice(group[group != left]))
            plan += [left, right]
        same += [True] * half + [False] * half
    return plan, same
