"""Writers: K-FACE's tree, InsightFace's `train.rec` and `.bin`, all of people who do not exist.

A person is a task; tasks go to worker processes, and what they give back depends on nothing but the seed. An output is
written under a temporary name and renamed when whole; one made by the same recipe is left as it is.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from eolgul.errors import InputError
from eolgul.formats.insightface import write_bin, write_rec
from eolgul.formats.kface import Condition, Selection, write_annotation
from eolgul.synth.crop import aligned_faces
from eolgul.synth.person import IDENTITIES, draw_person, generator, identity_of
from eolgul.synth.render import jpeg, render
from eolgul.synth.rig import camera, light
from eolgul.synth.scene import Sitter

VERSION = 1
Progress = Callable[[int, int], None]
T = TypeVar("T")

# K-FACE annotates these; the other lights of a camera share their geometry.
_ANNOTATED_LIGHTS = ("L1", "L3", "L6", "L7")
_CARD = "synthetic.json"
_REC_STREAM, _BIN_STREAM = 10, 11
_FOLDS = 10


def draw_kface(
    out: Path,
    *,
    people: int,
    first: int = 0,
    seed: int = 0,
    selection: Selection | str = "demo",
    resolution: str | None = None,
    workers: int = 2,
    progress: Progress | None = None,
    images_per_person: int | None = 24,
) -> dict[str, Any]:
    """Draws people in K-FACE's tree: ``out/<resolution>_Resolution/<ID>/<S00x>/<Ly>/<E0z>/<Cn>.jpg``.

    Annotation files ``<Cn>.txt`` lie beside the images that K-FACE annotates (S001 under L1, L3, L6, L7).

    Args:
        people, first, seed: persons ``first`` … ``first + people - 1`` of the population ``seed``.
        selection: which conditions, as K-FACE's selection language or its value.
        resolution: "High", "Middle" or "Low" instead of the selection's own resolutions.
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
    _check(people, workers)
    if people > IDENTITIES:
        raise InputError(f"{people} people: K-FACE's kind of identity has room for {IDENTITIES}")
    recipe = {"kind": "kface", "people": people, "first": first, "seed": seed, "selection": asdict(chosen),
              "images_per_person": images_per_person}  # fmt: skip
    total = people * len(conditions)

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        jobs = [(folder, seed, first + k, tuple(conditions)) for k in range(people)]
        done = 0
        for count in _work(_kface_person, jobs, workers):
            done += count
            if progress:
                progress(done, total)

    return _once(out, out / _CARD, recipe, {"images": total, "identities": people}, write)


def draw_rec(
    out: Path,
    *,
    people: int,
    images: int,
    first: int = 100_000,
    seed: int = 0,
    workers: int = 2,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draws ``images`` aligned 112×112 faces of each of ``people`` persons into ``out/train.rec``, ``.idx``, ``property``.

    Direction (yaw ±40°, pitch ±15°), light, expression, glasses, landmark error, noise, blur and JPEG quality are random;
    labels are 0 … people-1 in the persons' order. Returns as `draw_kface`.
    """
    _check(people, workers)
    recipe = {"kind": "rec", "people": people, "images": images, "first": first, "seed": seed}

    def write(folder: Path) -> None:
        jobs = [(seed, first + k, images, _REC_STREAM) for k in range(people)]

        def stream() -> Iterator[tuple[int, bytes]]:
            for label, faces in enumerate(_work(_faces, jobs, workers)):
                yield from ((label, face) for face in faces)
                if progress:
                    progress((label + 1) * images, people * images)

        write_rec(folder, stream())

    return _once(out, out / _CARD, recipe, {"images": people * images, "identities": people}, write)


def draw_bin(
    out: Path,
    *,
    people: int,
    pairs: int,
    first: int = 200_000,
    seed: int = 0,
    workers: int = 2,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draws a verification set: ``pairs`` pairs of aligned faces, ten equal folds, in each first the matched half.

    Every image is used once. With 20 people or more no person is in two folds. Returns as `draw_kface`.

    Raises:
        InputError: ``pairs`` is not a multiple of 20, or there are fewer than two people.
    """
    _check(people, workers)
    if people < 2 or pairs < 2 * _FOLDS or pairs % (2 * _FOLDS):
        raise InputError(
            f"{pairs} pairs of {people} people: expected a multiple of {2 * _FOLDS} pairs and at least 2 people"
        )
    recipe = {"kind": "bin", "people": people, "pairs": pairs, "first": first, "seed": seed}
    plan, same = _pairs(people, pairs, generator(seed, first, _BIN_STREAM))

    def write(path: Path) -> None:
        wanted: dict[int, list[int]] = defaultdict(list)
        for slot, person in enumerate(plan):
            wanted[person].append(slot)
        order = sorted(wanted)
        images: list[bytes] = [b""] * len(plan)
        jobs = [(seed, first + person, len(wanted[person]), _BIN_STREAM) for person in order]
        done = 0
        for person, faces in zip(order, _work(_faces, jobs, workers), strict=True):
            for slot, face in zip(wanted[person], faces, strict=True):
                images[slot] = face
            done += len(faces)
            if progress:
                progress(done, len(plan))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bin(path, images, same)

    card = out.with_name(out.name + "." + _CARD)
    return _once(out, card, recipe, {"images": len(plan), "identities": len(set(plan))}, write)


def contact_sheet(
    people: int,
    *,
    first: int = 0,
    seed: int = 0,
    columns: int = 8,
    conditions: Sequence[tuple[str, str, str, str]] | None = None,
) -> Image.Image:
    """Pictures side by side: one a person (frontal, neutral, L1), or every given condition of each person.

    Args:
        conditions: (accessory, light, expression, camera) of each picture of a person; all persons get the same.
    """
    shots = conditions or [("S001", "L1", "E01", "C7")]
    tiles = []
    for k in range(people):
        sitter = Sitter(draw_person(seed, first + k))
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


def _kface_person(job: tuple[Path, int, int, tuple[Condition, ...]]) -> int:
    """Writes all images of a person. A scene is made once for each expression and accessory."""
    folder, seed, index, conditions = job
    identity = identity_of(seed, index)
    sitter = Sitter(draw_person(seed, index))
    shared: dict[tuple[str, str], list[Condition]] = defaultdict(list)
    for condition in conditions:
        shared[condition.expression, condition.accessory].append(condition)
    for (expression, accessory), group in shared.items():
        scene = sitter.scene(expression, accessory)
        for condition in group:
            view = camera(condition.camera, condition.resolution)
            names = (condition.resolution, accessory, condition.light, expression, condition.camera)
            # The stream is named by the condition, so that an image does not depend on which others are drawn.
            rng = generator(
                seed, index, 4, int.from_bytes(hashlib.sha256("/".join(names).encode()).digest()[:8], "big")
            )
            path = folder / condition.path(identity)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(render(scene, view, light(condition.light), rng)))
            if accessory == "S001" and condition.light in _ANNOTATED_LIGHTS:
                write_annotation(path.with_suffix(".txt"), scene.points(view), scene.boxes(view))
    return len(conditions)


def _faces(job: tuple[int, int, int, int]) -> list[bytes]:
    return aligned_faces(*job)


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


def _check(people: int, workers: int) -> None:
    if people < 1 or workers < 1:
        raise InputError(f"{people} people with {workers} workers: expected at least one of each")


# Workers ---------------------------------------------------------------------------------------------------------------


def _work(task: Callable[[Any], T], jobs: Sequence[Any], workers: int) -> Iterator[T]:
    """Results in the order of the jobs. An interrupt, or a failing task or writer, leaves no process behind."""
    if workers == 1 or len(jobs) < 2:
        yield from map(task, jobs)
        return
    with _one_thread_each():
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        pool = ProcessPoolExecutor(
            min(workers, len(jobs)), mp_context=context, initializer=_start_worker, initargs=(stop,)
        )
        waiting: list[Future[T]] = []
        rest = iter(jobs)
        try:
            # A few jobs ahead: all at once would hold all results in memory where the writer is slower.
            waiting = [pool.submit(task, job) for _, job in zip(range(3 * workers), rest, strict=False)]
            while waiting:
                result = waiting.pop(0).result()
                following = next(rest, None)
                if following is not None:
                    waiting.append(pool.submit(task, following))
                yield result
        except BrokenProcessPool as error:
            raise InputError("a drawing process was killed (out of memory?); try fewer workers") from error
        except BaseException:
            # Pictures in the making are of no use to anybody: do not wait for them.
            stop.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(stop: Event) -> None:
    # The parent decides about interrupts; a parent that was killed outright takes its workers along.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def leave_after(wait: Callable[[], object]) -> None:
        wait()
        os._exit(1)

    threading.Thread(target=leave_after, args=(stop.wait,), daemon=True).start()
    if parent is not None:
        threading.Thread(target=leave_after, args=(parent.join,), daemon=True).start()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Workers start with one BLAS thread: their number is the parallelism, and thread counts would change rounding."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# Cache -----------------------------------------------------------------------------------------------------------------


def _source_digest() -> str:
    """Digest of this package's code: a changed renderer draws other pixels."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _once(
    out: Path, card: Path, recipe: dict[str, Any], counts: dict[str, int], write: Callable[[Path], None]
) -> dict[str, Any]:
    """Runs ``write`` on a temporary path and puts the result at ``out``, unless it is there already."""
    began = time.monotonic()
    facts = {"synthetic": True, "generator": "eolgul.synth", "version": VERSION, "recipe": recipe, "source": _source_digest(),
             "libraries": {name: importlib.metadata.version(name) for name in ("anny", "embreex")}}  # fmt: skip
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    answer = counts | {"recipe": digest}
    known = _read_card(card)
    if known.get("digest") == digest and out.exists():
        return answer | {"seconds": time.monotonic() - began, "cached": True}
    if out.exists() and not known.get("synthetic") and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} exists and is not synthetic data of this generator: choose another place")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    text = json.dumps(facts | counts | {"digest": digest}, indent=2) + "\n"
    try:
        write(partial)
        if card.is_relative_to(out):
            (partial / card.relative_to(out)).write_text(text, encoding="utf-8")
        _remove(out)
        partial.rename(out)
        if not card.is_relative_to(out):
            card.write_text(text, encoding="utf-8")
    finally:
        _remove(partial)
    return answer | {"seconds": time.monotonic() - began, "cached": False}


def _read_card(card: Path) -> dict[str, Any]:
    try:
        facts = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
