"""Step 3: merge aligned sources and split them by identity, so that nobody is in two splits → FaceDataset.

An identity is its source's name and its name there. Identities that share an identical image (one person under two
names, as scraped sets have them) are kept together, and in training: held out, they would be measured as strangers.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eolgul.artifact import Artifact, open_artifact, reuse
from eolgul.assemble.config import AssembleConfig
from eolgul.config import Progress, count_up
from eolgul.dataset import FACTS, FaceDataset, FaceDatasetWriter, writing_dataset
from eolgul.errors import InputError
from eolgul.images.decode import EXTENSIONS, probe

HELD_OUT = {"test": 4, "calibration": 3, "validation": 2}  # the fewest people that evaluation can do anything with
_MIN_IMAGES = 2  # a held-out person with one picture gives no genuine pair


def assemble(
    datasets: Sequence[Path],
    out: Path,
    config: AssembleConfig = AssembleConfig(),
    *,
    progress: Progress | None = None,
) -> Artifact:
    """Merge aligned FaceDatasets into one at `out` and give every image a split; an equal one already there is kept.

    Which identities are held back depends on the seed, their names and how many there are, not on the order of
    anything.

    Args:
        datasets: Aligned FaceDatasets.
        out: Where the assembled FaceDataset goes.
        config: The options.
        progress: Called with (images done, None).

    Raises:
        InputError: For datasets that are not aligned, were aligned with different detector settings, share a source
            name, hold benchmark pairs, or have too few identities to hold `HELD_OUT` back for each wanted split.
    """
    if not datasets:
        raise InputError("no dataset to assemble")
    sources = [FaceDataset(path) for path in datasets]
    detector = _check_sources(sources, config.held_out_sources)
    recipe = config.to_recipe()
    inputs = [source.artifact.reference for source in sources]
    done = reuse(out, "FaceDataset", step="assemble", recipe=recipe, inputs=inputs)
    if done is not None:
        return done
    groups, shared = _groups(sources)
    splits = split_identities(groups, config.shares, seed=config.seed, sources=config.held_out_sources)
    synthetic = any(source.artifact.synthetic for source in sources)
    with writing_dataset(out, step="assemble", recipe=recipe, inputs=inputs, synthetic=synthetic) as writer:
        people: dict[str, set[str]] = defaultdict(set)
        images: Counter[str] = Counter()
        for source in sources:
            _copy(source, splits, writer, people, images, count_up(progress))
        audit_splits(people)
        writer.describe(
            name="assembled",
            identities_known=True,
            aligned=sources[0].artifact.contents["aligned"],
            detector=detector,
            sources=[source.artifact.contents["name"] for source in sources],
            splits={name: {"identities": len(people[name]), "images": images[name]} for name in sorted(people)},
            identities_sharing_images=shared,
        )
    return open_artifact(out)


def audit_splits(people: Mapping[str, set[str]]) -> None:
    """Refuse splits that share an identity: InputError names one."""
    names = sorted(people)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            both = people[one] & people[other]
            if both:
                raise InputError(f"identity {min(both)} is in both {one} and {other}: splits must not share a person")


def split_identities(
    groups: Mapping[str, Mapping[str, int]], shares: Mapping[str, float], *, seed: int, sources: Sequence[str] = ()
) -> dict[str, str]:
    """The split of each identity. `groups` maps a group's name to its identities and their image counts.

    Within a source, groups of one identity are put in an order that only `seed` and names decide, and the first ones go to test, then
    calibration, then validation, as many as the shares ask for (rounded, and at least `HELD_OUT`); the rest is training.
    """
    by_source: dict[str, list[str]] = defaultdict(list)
    for group in groups:
        by_source[group.partition(".")[0]].append(group)
    result: dict[str, str] = {}
    for source, names in by_source.items():
        usable = [name for name in names if len(groups[name]) == 1 and sum(groups[name].values()) >= _MIN_IMAGES]
        usable.sort(key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
        wanted = {
            split: max(fewest, round(shares[split] * len(names)))
            if shares[split] > 0 and (not sources or source in sources)
            else 0
            for split, fewest in HELD_OUT.items()
        }
        if sum(wanted.values()) > len(usable) or sum(wanted.values()) >= len(names):
            raise InputError(
                f"source {source}: {len(usable)} of {len(names)} identities have {_MIN_IMAGES} images of their own or more, "
                f"too few to hold back {sum(wanted.values())} ({wanted}) and still train"
            )
        chosen = dict.fromkeys(names, "train")
        remaining = iter(usable)
        for split in HELD_OUT:
            for _ in range(wanted[split]):
                chosen[next(remaining)] = split
        for group, split in chosen.items():
            result.update(dict.fromkeys(groups[group], split))
    return result


def _check_sources(sources: Sequence[FaceDataset], held_out: Sequence[str]) -> dict[str, Any] | None:
    """The detector settings behind the sources (None when all came aligned)."""
    names = [source.artifact.contents["name"] for source in sources]
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"two datasets are called {name!r}; give one another name at extraction (--name)")
    unknown = set(held_out) - set(names)
    if unknown:
        raise InputError(f"held_out_sources {sorted(unknown)}: the datasets are {', '.join(sorted(names))}")
    detectors = []
    for source in sources:
        contents = source.artifact.contents
        if contents.get("aligned") is None:
            raise InputError(f"{source.path}: not aligned; run eolgul align on it first")
        source.check_whole()
        if "splits" in contents:
            raise InputError(f"{source.path}: is assembled already; another split would train on people held out now")
        if contents["benchmark"]:
            raise InputError(f"{source.path}: is a benchmark, and nobody trains on a benchmark")
        detector = contents.get("detector")
        if detector is not None and detector not in detectors:
            detectors.append(detector)
    if len(detectors) > 1:
        raise InputError(f"the datasets were aligned with different detector settings: {detectors}")
    return detectors[0] if detectors else None


def _name(source: FaceDataset, identity: str) -> str:
    return f"{source.artifact.contents['name']}.{identity}"


def _groups(sources: Sequence[FaceDataset]) -> tuple[dict[str, dict[str, int]], int]:
    """Identities joined by identical images, as {group: {identity: images}}, and how many were joined that way."""
    counts: Counter[str] = Counter()
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    owner: dict[str, str] = {}
    for source in sources:
        for identity, digest in zip(source.column("identity"), source.column("sha256"), strict=True):
            name = _name(source, identity)
            counts[name] += 1
            parent.setdefault(name, name)
            first = root(owner.setdefault(digest, name))
            parent[root(name)] = first
    groups: dict[str, dict[str, int]] = defaultdict(dict)
    for name, count in counts.items():
        groups[root(name)][name] = count
    return dict(groups), sum(len(members) for members in groups.values() if len(members) > 1)


def _copy(
    source: FaceDataset,
    splits: Mapping[str, str],
    writer: FaceDatasetWriter,
    people: dict[str, set[str]],
    images: Counter[str],
    progress: Callable[[int], None] | None,
) -> None:
    columns = {name: source.column(name) for name in ("image_id", "identity", "source", "width", "height", *FACTS)}
    prefix = source.artifact.contents["name"]
    for row in range(len(source)):
        data = source.read(row)
        identity = _name(source, columns["identity"][row])
        facts = {name: columns[name][row] for name in FACTS}
        facts["split"] = splits[identity]
        if writer.add(
            f"{prefix}.{columns['image_id'][row]}",
            identity,
            data,
            extension=EXTENSIONS[probe(data).format],
            size=(columns["width"][row], columns["height"][row]),
            source=columns["source"][row],
            facts=facts,
        ):
            people[splits[identity]].add(identity)
            images[splits[identity]] += 1
        if progress:
            progress(1)
    for rejected in source.rejected():
        identity = rejected["identity"]
        writer.reject(**(rejected | {"identity": None if identity is None else f"{prefix}.{identity}"}))
