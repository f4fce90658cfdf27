"""Writers: K-FACE's tree, InsightFace's `train.rec` and `.bin`, folders of photos, all of people who do not exist.

A person is a task; tasks go to worker processes, and what they draw depends on nothing but the seed. An output appears
whole or not at all; one that was interrupted goes on from its last person, one made by the same recipe is left as it is.
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
from eolgul.synth.crowd import Crowd, Faces, Photographs, Progress, Session
from eolgul.synth.person import IDENTITIES, generator
from eolgul.synth.population import DEFAULT_ORIGINS, Origins, draw_person, parse_origins
from eolgul.synth.render import render
from eolgul.synth.rig import camera, light
from eolgul.synth.scene import Sitter
from eolgul.synth.store import TRUTH, Work, once, write_truth

_REC_STREAM, _BIN_STREAM = 10, 11
_FOLDS = 10
STYLES = ("rig", "wild")


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
    """Draws people in K-FACE's tree: ``out/<resolution>_Resolution/<ID>/<S00x>/<Ly>/<E0z>/<Cn>.jpg``.

    Annotation files ``<Cn>.txt`` lie beside the images that K-FACE annotates (S001 under L1, L3, L6, L7), and
    ``truth.parquet`` holds the exact landmarks and pose of every image (see `store.Shot`).

    Args:
        people, first, seed: persons ``first`` … ``first + people - 1`` of the population ``seed``.
        selection: which conditions, as K-FACE's selection language or its value.
        resolution: "High", "Middle" or "Low" instead of the selection's own resolutions.
        origins: shares of people of mostly East Asian, African and Caucasian origin; other shares are other people.
        images_per_person: at most so many of the selection's conditions, a balanced subset (see `balanced`); None: all.
        progress: called with (images done, images in all).

    Returns:
        ``images``, ``identities``, ``seconds``, ``recipe`` (digest), and ``cached`` where nothing had to be drawn.
    """
    chosen = Selection.parse(selection) if isinstance(selection, str) else selection
    if resolution is not None:
        chosen = Selection(**(asdict(chosen) | {"resolutions": (resolution,)}))
    conditions = list(chosen.conditions())
    if images_per_person is not None:
        conditions = balanced(conditions, images_per_person)
    crowd = Crowd(people, first, seed, origins, workers, progress)
    if people > IDENTITIES:
        raise InputError(f"{people} people: K-FACE's kind of identity has room for {IDENTITIES}")
    recipe = crowd.recipe("kface") | {"selection": asdict(chosen), "images_per_person": images_per_person}
    return crowd.produce(out, recipe, [Session(tuple(conditions))] * people)


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
    """Draws ``images`` photos in the wild of each of ``people`` persons: ``out/<identity>/<number>.jpg``, 250×250.

    Truth and what is returned: as `draw_kface`.
    """
    crowd = Crowd(people, first, seed, origins, workers, progress)
    recipe = crowd.recipe("folders") | {"images": images}
    return crowd.produce(out, recipe, [Photographs(images)] * people)


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
    """Draws ``images`` aligned 112×112 faces of each of ``people`` persons into ``out/train.rec``, ``.idx``, ``property``.

    Style "rig": direction (yaw ±40°, pitch ±15°), light, expression, glasses, landmark error, noise, blur and JPEG quality
    are random, the studio is not; "wild": see `wild`. Labels are 0 … people-1 in the persons' order; `truth.parquet` calls
    an image ``train.rec/<record key, 8 digits>``. Returns as `draw_kface`.
    """
    crowd = Crowd(people, first, seed, origins, workers, progress)
    _check_style(style)
    recipe = crowd.recipe("rec") | {"images": images, "style": style}
    plans = [
        Faces(style, _REC_STREAM, tuple(f"train.rec/{k * images + n + 1:08d}" for n in range(images)))
        for k in range(people)
    ]

    def pack(drawing: Work) -> None:
        write_rec(drawing.product, ((k, shot.data) for k in range(people) for shot in drawing.read(k)))

    return crowd.produce(out, recipe, plans, pack)


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
    """Draws a verification set: ``pairs`` pairs of aligned faces, ten equal folds, in each first the matched half.

    Every image is used once. With 20 people or more no person is in two folds. The truth lies beside it, in
    ``<out>.truth.parquet``, and calls an image ``<its number, 8 digits>``. Returns as `draw_kface`.

    Raises:
        InputError: ``pairs`` is not a multiple of 20, or there are fewer than two people.
    """
    crowd = Crowd(people, first, seed, origins, workers, progress)
    _check_style(style)
    if people < 2 or pairs < 2 * _FOLDS or pairs % (2 * _FOLDS):
        raise InputError(
            f"{pairs} pairs of {people} people: expected a multiple of {2 * _FOLDS} pairs and at least 2 people"
        )
    recipe = crowd.recipe("bin") | {"pairs": pairs, "style": style}
    plan, same = _pairs(people, pairs, generator(seed, first, _BIN_STREAM))
    names: dict[int, list[str]] = defaultdict(list)
    for slot, person in enumerate(plan):
        names[person].append(f"{slot:08d}")

    def write(drawing: Work) -> None:
        crowd.draw(drawing, [Faces(style, _BIN_STREAM, tuple(names[k])) for k in range(people)])
        shots = sorted((shot for k in range(people) for shot in drawing.read(k)), key=lambda shot: shot.name)
        write_bin(drawing.product, [shot.data for shot in shots], same)
        write_truth(drawing.folder / TRUTH, [(shot.name, shot.truth) for shot in shots])

    card = mark_beside(out)
    return once(out, card, recipe, {"images": len(plan), "identities": len(set(plan))}, write)


def draw_kind(
    out: Path,
    kind: str,
    *,
    people: int,
    first: int | None,
    selection: str,
    images: int | None,
    pairs: int,
    style: str,
    origins: str | None,
    seed: int,
    workers: int,
    progress: Progress | None,
) -> dict[str, Any]:
    """What the command line asks for: one of the writers above by its name, with options as they are typed.

    Raises:
        InputError: an unknown kind, style or share, or a style that the kind does not have.
    """
    common: dict[str, Any] = {"people": people, "seed": seed, "workers": workers, "progress": progress}
    if first is not None:
        common["first"] = first
    if origins is not None:
        common["origins"] = parse_origins(origins)
    _check_style(style)
    if kind == "kface":
        if style != "rig":
            raise InputError("style wild is for rec, bin and folders: K-FACE is a studio")
        # The original project's selection means all of it; other subsets are samples unless more is asked for.
        limit = (0 if selection in ("original", "all") else 24) if images is None else images
        return draw_kface(out, selection=selection, images_per_person=limit or None, **common)
    if kind == "bin":
        return draw_bin(out, pairs=pairs, style=style, **common)
    if images == 0:
        raise InputError("0 images a person: expected at least one")
    if kind == "rec":
        return draw_rec(out, images=images or 24, style=style, **common)
    if kind == "folders":
        return draw_folders(out, images=images or 24, **common)
    raise InputError(f"kind {kind!r}: expected kface, rec, bin or folders")


def contact_sheet(
    people: int,
    *,
    first: int = 0,
    seed: int = 0,
    columns: int = 8,
    conditions: Sequence[tuple[str, str, str, str]] | None = None,
    origins: Origins = DEFAULT_ORIGINS,
) -> Image.Image:
    """Pictures side by side: one a person (frontal, neutral, L1), or every given condition of each person.

    Args:
        conditions: (accessory, light, expression, camera) of each picture of a person; all persons get the same.
    """
    shots = conditions or [("S001", "L1", "E01", "C7")]
    tiles = []
    for k in range(people):
        sitter = Sitter(draw_person(seed, first + k, origins))
        for number, (accessory, lamp, expression, view) in enumerate(shots):
            scene = sitter.scene(expression, accessory)
            picture = render(scene, camera(view, "Middle"), light(lamp), generator(seed, first + k, 20, number))
            tiles.append(picture[:, 65:281])
    rows = -(-len(tiles) // columns)
    height, width = tiles[0].shape[:2]
    sheet = Image.new("RGB", (columns * width, rows * height))
    for number, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), (number % columns * width, number // columns * height))
    return sheet


def balanced(conditions: Sequence[Condition], count: int) -> list[Condition]:
    """``count`` of the conditions in which every camera, light, expression, accessory, and pair of them, is about equally frequent.

    Greedy and without chance: each time the condition whose values, and pairs of values, were taken least; so the first of
    all conditions comes first, and a longer subset begins with the shorter one. The subset is given in the original order.
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
    """Persons of the 2 × pairs images, and which pairs are of one person."""
    plan: list[int] = []
    same: list[bool] = []
    half = pairs // _FOLDS // 2
    for fold in range(_FOLDS):
        group = np.arange(people)
        if people >= 2 * _FOLDS:
            group = np.array_split(group, _FOLDS)[fold]
        # Everybody of the fold in turn, in a random order, so that nobody is left out.
        matched = np.resize(rng.permutation(group), half)
        for person in matched.tolist():
            plan += [person, person]
        for k in range(half):
            left = int(rng.permutation(group)[0]) if k >= len(group) else int(group[k])
            right = int(rng.choice(group[group != left]))
            plan += [left, right]
        same += [True] * half + [False] * half
    return plan, same
