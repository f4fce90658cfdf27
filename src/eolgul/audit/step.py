"""Compare training data with benchmarks by name, bytes, difference hash and embedding → `audit.json` and a report."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eolgul.artifact import Artifact, canonical_json, reuse, seal, writing
from eolgul.audit.config import AuditConfig
from eolgul.audit.faces import Faces, Part, held_out_parts, plain, training_part
from eolgul.audit.findings import Findings
from eolgul.audit.labels import centres_of, label_noise, unit
from eolgul.audit.nearest import (
    BLOCK,
    HASH_BITS,
    Neighbours,
    difference_hash,
    nearest,
    nearest_hashes,
    set_threads,
)
from eolgul.audit.schema import (
    AUDIT_FORMAT,
    KINDS,
    AuditModel,
    AuditResult,
    Kind,
    KindCount,
    LabelNoise,
    PersonFinding,
    Threshold,
)
from eolgul.audit.threshold import choose_threshold
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.evaluate.cache import cached
from eolgul.evaluate.embed import check_aligned, embed_rows, embedding_size
from eolgul.evaluate.recognizers import ModelUnderTest, open_model
from eolgul.files import sha256_bytes

VERSION = 2  # of the results: raise it when the same inputs and recipe give others
_DECODERS = 2
_AHEAD = 4096  # images that are decoded for hashes before their results are taken
_PER_PERSON = 64  # a training person's images that confirm what the mean of their embeddings suggests

Say = Callable[[str], None]


def audit(
    train: Sequence[Path],
    against: Sequence[Path],
    out: Path,
    config: AuditConfig = AuditConfig(),
    *,
    model: Path | ModelUnderTest | None = None,
    progress: Say | None = None,
) -> Artifact:
    """Look for the people and images of benchmarks in training data, and write an Audit to `out`.

    Four ways of comparing, each of which finds what the ones before it miss: the bytes of images; their difference hashes,
    also of mirror images (another encoding, size or brightness); embeddings (another crop, another photo of a person);
    names, in one form for all spellings. Without a model embeddings are not compared, and that is said.

    Memory: some 200 bytes per image for who is compared with whom (`benchmarks/scale.py`, "audit"), and what `eolgul.audit.nearest`
    takes; 2 kB per sampled training image and embedding are in a file.

    Args:
        train: Datasets to learn from: of an assembled one its training split; its other splits are compared with it.
        against: Benchmarks, or other datasets of people who should not be in training.
        out: Where the Audit goes.
        config: The options.
        model: A ModelPackage, an ONNX file with `config.contract`, or one that is open.
        progress: Called with a sentence about what is done next.

    Raises:
        InputError: There is nothing to compare, an option needs a model and there is none, an image is broken, or nobody
            is known to differ and no threshold is given.
    """
    from eolgul.audit.report import render  # needs jinja2: better missed now than after hours of embedding

    say: Say = progress or (lambda _: None)
    if model is None:
        for name in ("fmr", "false_findings", "similarity", "device"):
            if getattr(config, name) != getattr(AuditConfig(), name):
                raise InputError(f"{name} {getattr(config, name)}: is for embeddings; give a model, or --onnx FILE")
    elif config.similarity is not None:
        for name in ("fmr", "false_findings"):
            if getattr(config, name) != getattr(AuditConfig(), name):
                raise InputError(
                    f"{name} {getattr(config, name)}: chooses the threshold, and similarity gives it; leave one out"
                )
    tested = open_model(model, config.contract) if isinstance(model, Path) else model
    learned, compared = _sides(train, against)
    opened = [part.dataset for part in (*learned, *compared)]
    references = [item.artifact.reference for item in opened]
    inputs = [*([tested.reference] if tested else []), *(dict(item) for item in _unique(references))]
    recipe = config.to_recipe()
    done = reuse(out, "Audit", step="audit", version=VERSION, recipe=recipe, inputs=inputs)
    if done is not None:
        say("already audited with these options")
        return done
    if tested is not None:
        for data in opened:
            check_aligned(data, tested.contract)
    set_threads(config.threads)
    everybody, faces = Faces(learned), Faces(compared)
    sampled = everybody.sampled(config.sample)
    findings = Findings(faces, sampled)
    found_names = _names(faces, everybody)
    _bytes(findings, everybody, sampled)
    say(f"hashing {len(faces)} and {len(sampled)} images")
    copies = _hashes(findings, config.hash_distance, say)
    threshold, labels = None, None
    if tested is not None:
        say(f"embedding {len(faces)} and {len(sampled)} images")
        threshold, labels = _embeddings(findings, tested, config, copies, say)
    people = findings.people(found_names)
    result = AuditResult(
        format=AUDIT_FORMAT,
        synthetic=any(item.artifact.synthetic for item in opened),
        options=recipe,
        model=None if tested is None else AuditModel(digest=tested.digest, kind=tested.kind, backbone=tested.backbone),
        threshold=threshold,
        train=everybody.facts(None if tested is None else np.diff(sampled.offsets).tolist()),
        against=faces.facts(None if tested is None else np.diff(faces.offsets).tolist()),
        found=_counts(findings, people, faces, with_model=tested is not None),
        people=people,
        images=findings.images(),
        labels=labels,
        exclude=sorted({item.train_identity for item in people}),
    )
    say("writing the report")
    with writing(out) as folder:
        (folder / "audit.json").write_bytes(canonical_json(result.model_dump()))
        pictures = findings.pictures(result, config.shown) if config.pictures else {}
        (folder / "report.html").write_text(render(result, pictures, config.shown), encoding="utf-8")
        made = seal(
            folder,
            "Audit",
            step="audit",
            version=VERSION,
            recipe=recipe,
            inputs=inputs,
            contents={
                "people": len({(item.against_set, item.against_identity) for item in people if item.against_identity}),
                "found": {
                    kind: found.people if kind == "name" else found.images for kind, found in result.found.items()
                },
                "excluded": len(result.exclude),
            },
            synthetic=result.synthetic,
        )
    return Artifact(out, made.kind, made.card, made.digest)


def _unique(references: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    return list({item["digest"]: item for item in references}.values())


def _sides(train: Sequence[Path], against: Sequence[Path]) -> tuple[list[Part], list[Part]]:
    """Open both sides, every part under a name of its own."""
    if not train:
        raise InputError("no dataset to audit")
    sources = [FaceDataset(path) for path in train]
    names = _names_of(sources)
    learned = [training_part(name, item) for name, item in zip(names, sources, strict=True)]
    compared = [part for name, item in zip(names, sources, strict=True) if learned[names.index(name)].split
                for part in held_out_parts(name, item)]  # fmt: skip
    if against:
        others = [FaceDataset(path) for path in against]
        digests = {item.artifact.digest for item in sources}
        for item in others:
            if item.artifact.digest in digests:
                raise InputError(f"{item.path}: is on both sides; its splits are compared without --against")
        compared += [
            Part(name, item, np.arange(len(item)), None) for name, item in zip(_names_of(others), others, strict=True)
        ]
    for item in [*sources, *(part.dataset for part in compared)]:
        item.check_whole()
    for side, parts in (("to learn from", learned), ("to compare with", compared)):
        if not sum(len(part.rows) for part in parts):
            raise InputError(
                f"{', '.join(map(str, train))}: no image {side}; expected an assembled dataset, or --against a benchmark"
            )
    return learned, compared


def _names_of(datasets: Sequence[FaceDataset]) -> list[str]:
    """The names of datasets, numbered where two have the same."""
    seen: dict[str, int] = defaultdict(int)
    names = []
    for item in datasets:
        name = str(item.artifact.contents.get("name") or item.path.name)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return names


def _names(faces: Faces, train: Faces) -> dict[tuple[str, str], tuple[str, str]]:
    """Who has one name on both sides: {(identity, training identity): (set, training set)}."""
    known: dict[str, set[str]] = defaultdict(set)
    set_of: dict[str, str] = {}
    for part, name in _people(train):
        set_of[name] = part
        if (form := plain(name)) is not None:
            known[form].add(name)
    found = {}
    for part, name in _people(faces):
        form = plain(name)
        for other in known.get(form, ()) if form is not None else ():
            found[name, other] = (part, set_of[other])
        if name in set_of:  # the same source and name: also a number
            found[name, name] = (part, set_of[name])
    return found


def _people(faces: Faces) -> Iterator[tuple[str, str]]:
    """The set and the name of every person who is known."""
    for part, begin, end in zip(faces.parts, faces.offsets[:-1], faces.offsets[1:], strict=True):
        yield from ((part.name, name) for name in sorted({name for name in faces.names[begin:end] if name is not None}))


def _bytes(findings: Findings, everybody: Faces, sampled: Faces) -> None:
    """Find images of equal bytes, also among those that are not sampled."""
    wanted: dict[str, list[int]] = defaultdict(list)
    for face, digest in enumerate(findings.faces.sha256()):
        wanted[digest].append(face)
    place = {}
    if sampled is not everybody:
        position = {(part.name, row): int(begin) + number
                    for part, begin in zip(sampled.parts, sampled.offsets, strict=False)
                    for number, row in enumerate(part.rows.tolist())}  # fmt: skip
        first = {int(person): face for face, person in reversed(list(enumerate(sampled.person)))}
        by_name = {sampled.names[face]: face for face in first.values()}
        for image in range(len(everybody)):
            part, row = everybody.part_of(image)
            place[image] = position.get((part.name, row), by_name.get(everybody.names[image], -1))
    for image, digest in enumerate(everybody.sha256()):
        for face in wanted.get(digest, ()):
            if (found := place.get(image, image)) >= 0:
                findings.add(face, found, "bytes")


def _hashes(findings: Findings, most: int, say: Say) -> set[tuple[int, int]]:
    """Find images whose difference hashes, or those of their mirror images, are near.

    Returns:
        The pairs of people of the benchmark itself, the smaller number first, who have copies of one image.
    """
    faces, train = findings.faces, findings.train
    queries = _hashed(faces, mirrored=False), _hashed(faces, mirrored=True)
    known = _hashed(train, mirrored=False, say=say)
    for mirrored, own in enumerate(queries):
        values, places = nearest_hashes(
            own, ((begin, known[begin : begin + BLOCK]) for begin in range(0, len(known), BLOCK))
        )
        for face, rank in zip(*np.nonzero(values >= -most), strict=True):
            findings.add(int(face), int(places[face, rank]), "hash",
                         distance=int(-values[face, rank]), mirrored=bool(mirrored))  # fmt: skip
    copies: set[tuple[int, int]] = set()
    for own in queries:
        values, places = nearest_hashes(own, ((0, queries[0]),))
        for face, rank in zip(*np.nonzero(values >= -most), strict=True):
            one, other = sorted((int(faces.person[face]), int(faces.person[places[face, rank]])))
            if one != other and faces.names[face] is not None and faces.names[places[face, rank]] is not None:
                copies.add((one, other))
    return copies


def _hashed(faces: Faces, *, mirrored: bool, say: Say | None = None) -> NDArray[np.uint8]:
    """The hashes of all faces, N x 32 bytes; the threads decode."""
    made = np.empty((len(faces), HASH_BITS // 8), dtype=np.uint8)

    def one(face: int) -> NDArray[np.uint8]:
        try:
            return difference_hash(faces.read(face), mirrored=mirrored)
        except InputError as error:
            part, row = faces.part_of(face)
            raise InputError(f"{part.dataset.path}: image {faces.image_id(face)} (row {row}): {error}") from error

    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="hash") as pool:
        for begin in range(0, len(faces), _AHEAD):
            for face, value in enumerate(pool.map(one, range(begin, min(begin + _AHEAD, len(faces)))), begin):
                made[face] = value
            if say is not None and begin and begin % (16 * _AHEAD) == 0:
                say(f"hashed {begin} of {len(faces)} images")
    return made


def _embeddings(
    findings: Findings, tested: ModelUnderTest, config: AuditConfig, copies: set[tuple[int, int]], say: Say
) -> tuple[Threshold, LabelNoise]:
    """Find faces whose embeddings are near, and look for label noise.

    The training embeddings lie in a temporary file (4 bytes a number: 12 GB for 5.87 million of 512) and are read in
    blocks. Beside the nearest images, the nearest means of a person's embeddings are looked at: so one person with many
    images does not hide another, and the means of two people, which vary less than single images, find more of them.
    """
    faces, train = findings.faces, findings.train
    recognizer = tested.recognizer(threads=config.threads, device=config.device)
    size = embedding_size(recognizer)

    def embed(side: Faces, into: NDArray[np.float32]) -> None:
        for part, begin, rows in side.blocks(BLOCK):
            # A block has its own file in the cache, so that none is ever larger than that.
            key = sha256_bytes(f"{part.dataset.artifact.digest} {rows[0] // BLOCK}".encode())
            folder = Path(config.cache) if config.cache else None
            compute = cached(folder, tested.digest, key,
                             lambda wanted, data=part.dataset: embed_rows(data, wanted, recognizer, progress=say))  # type: ignore[misc]  # fmt: skip
            into[begin : begin + len(rows)] = compute(rows)

    queries = np.empty((len(faces), size), dtype=np.float32)
    embed(faces, queries)
    threshold = choose_threshold(faces, queries, fmr=config.fmr, false_findings=config.false_findings,
                                 similarity=config.similarity, comparisons=len(faces) * len(train),
                                 identities=len(train.people()), copies=copies)  # fmt: skip
    say(f"two faces count as one person from a similarity of {threshold.similarity:.4f}")
    with tempfile.TemporaryDirectory(prefix="eolgul-audit-") as scratch:
        known = np.memmap(Path(scratch) / "train", dtype=np.float32, mode="w+", shape=(len(train), size))
        embed(train, known)
        say("searching the nearest faces")
        near = nearest(queries, ((begin, known[begin : begin + BLOCK]) for begin in range(0, len(known), BLOCK)))
        _add(findings, near, threshold.similarity)
        sums, images = centres_of(train.person, known)
        centres = unit(sums)
        suggested = nearest(
            queries, ((begin, centres[begin : begin + BLOCK]) for begin in range(0, len(centres), BLOCK))
        )
        _confirm(findings, suggested, queries, known, threshold.similarity)
        if threshold.means is not None and faces.identified:
            _compare_means(findings, queries, known, centres, threshold.means)
        say("looking for label noise")
        labels = label_noise(train, known, sums, images, threshold.similarity, config.shown)
        del known
    return threshold, labels


def _add(findings: Findings, near: Neighbours, threshold: float) -> None:
    values, places = near
    for face, rank in zip(*np.nonzero(values >= threshold), strict=True):
        findings.add(int(face), int(places[face, rank]), "embedding", similarity=float(values[face, rank]))


def _confirm(
    findings: Findings,
    suggested: Neighbours,
    queries: NDArray[np.float32],
    known: NDArray[np.float32],
    threshold: float,
) -> None:
    """Look at the images of people whose mean embedding is near; `threshold` is for two images."""
    order = np.argsort(findings.train.person, kind="stable")
    starts = np.searchsorted(findings.train.person[order], np.arange(int(findings.train.person.max()) + 2))
    people, faces = suggested[1], len(queries)
    by_person: dict[int, list[int]] = defaultdict(list)
    for face in range(faces):
        for value, person in zip(suggested[0][face], people[face], strict=True):
            if person >= 0 and value >= threshold and (face, int(person)) not in findings.matches:
                by_person[int(person)].append(face)
    for person, asking in by_person.items():
        own = np.sort(order[starts[person] : starts[person + 1]])
        if len(own) > _PER_PERSON:
            own = own[np.linspace(0, len(own) - 1, _PER_PERSON).round().astype(np.int64)]
        similarity = queries[asking] @ np.asarray(known[own]).T
        for face, best, near in zip(asking, similarity.argmax(axis=1), similarity.max(axis=1), strict=True):
            if (value := float(near)) >= threshold:
                findings.add(face, int(own[best]), "embedding", similarity=value)


def _compare_means(
    findings: Findings,
    queries: NDArray[np.float32],
    known: NDArray[np.float32],
    centres: NDArray[np.float32],
    threshold: float,
) -> None:
    """Find people of the benchmark whose mean embedding is near a training person's; their nearest images stand for them."""
    people = findings.faces.people()
    means = unit(centres_of(findings.faces.person, queries)[0])[people]
    values, partners = nearest(
        means, ((begin, centres[begin : begin + BLOCK]) for begin in range(0, len(centres), BLOCK))
    )
    for number, rank in zip(*np.nonzero(values >= threshold), strict=True):
        own = np.flatnonzero(findings.faces.person == people[number])
        other = np.flatnonzero(findings.train.person == partners[number, rank])[:_PER_PERSON]
        similarity = queries[own] @ np.asarray(known[other]).T
        face, image = np.unravel_index(int(similarity.argmax()), similarity.shape)
        findings.add(int(own[face]), int(other[image]), "embedding", similarity=float(similarity[face, image]))


def _counts(
    findings: Findings, people: Sequence[PersonFinding], faces: Faces, *, with_model: bool
) -> dict[Kind, KindCount]:
    """How many images and people of the benchmark each way of comparing found."""
    made: dict[Kind, KindCount] = {}
    for kind in KINDS:
        reason = None
        if kind == "embedding" and not with_model:
            reason = "no model was given"
        if kind == "name" and not (faces.identified and findings.train.identified):
            reason = "people are not named on both sides"
        if reason is not None:
            made[kind] = KindCount(images=None, people=None, reason=reason)
            continue
        images = len({face for (face, _), match in findings.matches.items() if kind in match.kinds})
        named = {(item.against_set, item.against_identity) for item in people
                 if kind in item.kinds and item.against_identity is not None}  # fmt: skip
        made[kind] = KindCount(
            images=None if kind == "name" else images, people=len(named) if faces.identified else None, reason=None
        )
    return made
