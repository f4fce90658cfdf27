"""Step 3: merge aligned sources and split them by identity, so that nobody is in two splits → FaceDataset.

An identity is its source's name and its name there. Identities that share an identical image (one person under two
names, as scraped sets have them) are kept together, and in training: held out, they would be measured as strangers.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from eolgul.artifact import Artifact, open_artifact, reuse
from eolgul.assemble.config import AssembleConfig
from eolgul.assemble.tree_level import warnings_of
from eolgul.config import Progress, count_up
from eolgul.dataset import FACTS, FaceDataset, ShardWriter, build_dataset, member_size
from eolgul.dataset.exclusion import read_exclusion
from eolgul.dataset.shard import member_header
from eolgul.errors import InputError
from eolgul.images.decode import EXTENSIONS, probe

VERSION = 1  # of the results: raise it when the same inputs and recipe give others
HELD_OUT = {"test": 4, "calibration": 3, "validation": 2}  # the fewest people that evaluation can do anything with
_TRAINED = 2  # the fewest training identities; with one there is nothing to tell apart
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
        progress: Called with (images done, images in all).

    Raises:
        InputError: For datasets that are not aligned, were aligned with different detector settings, share a source
            name, hold benchmark pairs, have too few identities to hold `HELD_OUT` back for each wanted split, or leave
            fewer than two for training.
    """
    if not datasets:
        raise InputError("no dataset to assemble")
    sources = [FaceDataset(path) for path in datasets]
    detector = _check_sources(sources, config.held_out_sources)
    excluded = _excluded(sources, config.exclude)
    recipe = config.to_recipe()
    if config.exclude:
        recipe["exclude"] = sorted(excluded)
    inputs = [source.artifact.reference for source in sources]
    done = reuse(out, "FaceDataset", step="assemble", version=VERSION, recipe=recipe, inputs=inputs)
    if done is not None:
        return done
    groups, shared = _groups(sources, excluded)
    splits = split_identities(
        groups, config.shares, seed=config.seed, sources=config.held_out_sources, most=config.most_held_out
    )
    _check_training(splits)
    shards = _shards(sources, config.shard_bytes, excluded)
    report = count_up(progress, sum(len(rows) for pieces in shards for _, rows in pieces))
    job = {
        "step": "assemble",
        "recipe": recipe,
        "inputs": inputs,
        "shard_bytes": config.shard_bytes,
        "version": VERSION,
    }
    with build_dataset(out, job) as build:
        for number, pieces in enumerate(shards):
            if build.is_finished(number):
                report(sum(len(rows) for _, rows in pieces))
                continue
            with build.shard(number, "") as shard:
                for place, rows in pieces:
                    _copy(shard, sources[place], rows, splits, report)
        with build.shard(len(shards), "") as shard:
            for source in sources:
                _carry_rejected(shard, source)
        build.finish(range(len(shards) + 1))
        facts = {
            "name": "assembled",
            "identities_known": True,
            "aligned": sources[0].artifact.contents["aligned"],
            "detector": detector,
            "sources": [source.artifact.contents["name"] for source in sources],
            "splits": _count_splits(sources, splits),
            "held_back": _held_back(splits),
            "identities_sharing_images": shared,
        }
        if config.exclude:
            left_out = sum(len(source) for source in sources) - sum(
                len(rows) for pieces in shards for _, rows in pieces
            )
            facts["excluded"] = {"identities": len(excluded), "images": left_out}
        if suspicious := [warning for source in sources for warning in warnings_of(source)]:
            facts["warnings"] = suspicious
        synthetic = any(source.artifact.synthetic for source in sources)
        build.seal(step="assemble", version=VERSION, recipe=recipe, inputs=inputs, synthetic=synthetic, facts=facts)
    return open_artifact(out)


def _check_training(splits: Mapping[str, str]) -> None:
    """Refuse a split that leaves nobody to tell apart in training."""
    learned = sum(split == "train" for split in splits.values())
    if learned < _TRAINED:
        raise InputError(
            f"{learned} of {len(splits)} identities {'is' if learned == 1 else 'are'} left for training, expected {_TRAINED} "
            "or more: lower the held-out shares, add people, or, if an identity is a folder of people here, extract the "
            "folder below it"
        )


def _count_splits(sources: Sequence[FaceDataset], splits: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """How many identities and images each split has, by its name."""
    people: dict[str, set[str]] = defaultdict(set)
    images: Counter[str] = Counter()
    for source in sources:
        for identity, count in Counter(source.column("identity")).items():
            name = _name(source, identity)
            if name not in splits:
                continue
            people[splits[name]].add(name)
            images[splits[name]] += count
    audit_splits(people)
    return {name: {"identities": len(people[name]), "images": images[name]} for name in sorted(people)}


def audit_splits(people: Mapping[str, set[str]]) -> None:
    """Refuse splits that share an identity: InputError names one."""
    names = sorted(people)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            both = people[one] & people[other]
            if both:
                raise InputError(f"identity {min(both)} is in both {one} and {other}: splits must not share a person")


def _held_back(splits: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Per source: how many identities each held-out split has, how many are trained on, and the share of those."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for identity, split in splits.items():
        counts[identity.partition(".")[0]][split] += 1
    return {
        source: {
            **{split: found[split] for split in HELD_OUT},
            "train": found["train"],
            "trained_share": round(found["train"] / found.total(), 4),
        }
        for source, found in sorted(counts.items())
    }


def lines(facts: Mapping[str, Any]) -> list[str]:
    """What people are told about an assembly: who is held back, and its warnings; `facts` are the card's contents."""
    held_back = [held_back_line(source, counts) for source, counts in facts.get("held_back", {}).items()]
    return held_back + [f"warning: {warning}" for warning in facts.get("warnings", ())]


def held_back_line(source: str, counts: Mapping[str, Any]) -> str:
    """A sentence about a source's entry in the card's `held_back`."""
    held = {split: counts[split] for split in HELD_OUT if counts[split]}
    total = sum(held.values()) + counts["train"]
    parts = ", ".join(f"{split} {count:,}" for split, count in held.items())
    return (
        f"source {source}: trains on {counts['train']:,} of {total:,} identities ({100 * counts['train'] / total:.1f} %), holds "
        f"back {sum(held.values()):,}{f' ({parts})' if held else ''}"
    )


def split_identities(
    groups: Mapping[str, Mapping[str, int]],
    shares: Mapping[str, float],
    *,
    seed: int,
    sources: Sequence[str] = (),
    most: int | None = None,
) -> dict[str, str]:
    """The split of each identity. `groups` maps a group's name to its identities and their image counts.

    Within a source, groups of one identity are put in an order that only `seed` and names decide, and the first ones go to test, then
    calibration, then validation, as many as `wanted_of` says; the rest is training.
    """
    by_source: dict[str, list[str]] = defaultdict(list)
    for group in groups:
        by_source[group.partition(".")[0]].append(group)
    sizes = {source: len(names) for source, names in by_source.items() if not sources or source in sources}
    wanted_by = wanted_of(sizes, shares, most)
    result: dict[str, str] = {}
    for source, names in by_source.items():
        usable = [name for name in names if len(groups[name]) == 1 and sum(groups[name].values()) >= _MIN_IMAGES]
        usable.sort(key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
        wanted = wanted_by.get(source, dict.fromkeys(HELD_OUT, 0))
        if sum(wanted.values()) > len(usable) or sum(wanted.values()) >= len(names):
            raise InputError(
                f"source {source}: {len(usable)} of {len(names)} identities have {_MIN_IMAGES} images of their own or more, "
                f"too few to hold back {sum(wanted.values())} ({wanted}) and still train; if an identity is a folder of "
                "people here, extract the folder below it"
            )
        chosen = dict.fromkeys(names, "train")
        remaining = iter(usable)
        for split in HELD_OUT:
            for _ in range(wanted[split]):
                chosen[next(remaining)] = split
        for group, split in chosen.items():
            result.update(dict.fromkeys(groups[group], split))
    return result


def wanted_of(sizes: Mapping[str, int], shares: Mapping[str, float], most: int | None) -> dict[str, dict[str, int]]:
    """How many identities each held-out split takes from each source of `sizes` identities.

    A split takes its share of each source, rounded, and `HELD_OUT` at least. Where that is more than `most` in all, every source
    may give the same number and small sources, which have less than that, give all of their share: a few hundred people of
    the population that the model is for (K-FACE) are measured fully beside a scraped set of tens of thousands, and the rest of
    that set, which no figure needs, is trained on.
    """
    wanted: dict[str, dict[str, int]] = {source: {} for source in sizes}
    for split, fewest in HELD_OUT.items():
        asked = {
            source: max(fewest, round(shares[split] * size)) if shares[split] > 0 else 0
            for source, size in sizes.items()
        }
        left = sum(asked.values()) if most is None else most
        for number, source in enumerate(sorted(asked, key=lambda name: (asked[name], name))):
            given = asked[source]
            if given:
                given = min(given, max(fewest, left // (len(asked) - number)))
            wanted[source][split] = given
            left -= given
    return wanted


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
            sizes = {tuple(size) for size in zip(*(source.column(name) for name in ("width", "height")), strict=True)}
            other = (
                "" if sizes != {(112, 112)} else ", or, if its faces lie on the template already, extract with aligned"
            )
            raise InputError(f"{source.path}: not aligned; run eolgul align on it first{other}")
        source.check_whole()
        if "splits" in contents:
            raise InputError(f"{source.path}: is assembled already; another split would train on people held out now")
        if contents["benchmark"]:
            raise InputError(f"{source.path}: is a benchmark, and nobody trains on a benchmark")
        if pc.count_distinct(source.arrow("image_id")).as_py() != len(source):
            raise InputError(f"{source.path}: two images have the same id, expected an id of its own for each")
        detector = contents.get("detector")
        if detector is not None and detector not in detectors:
            detectors.append(detector)
    if len(detectors) > 1:
        raise InputError(f"the datasets were aligned with different detector settings: {detectors}")
    return detectors[0] if detectors else None


def _name(source: FaceDataset, identity: str) -> str:
    return f"{source.artifact.contents['name']}.{identity}"


def _excluded(sources: Sequence[FaceDataset], audits: Sequence[str]) -> set[str]:
    """The identities of these sources that audits found in their training data.

    Raises:
        InputError: An audit found somebody, but nobody of these sources.
    """
    everybody = (
        {_name(source, identity) for source in sources for identity in set(source.column("identity"))}
        if audits
        else set()
    )
    excluded: set[str] = set()
    for place in audits:
        found = read_exclusion(Path(place))
        here = found & everybody
        if found and not here:
            raise InputError(
                f"exclude {place}: none of the {len(found)} identities that this audit found, such as {min(found)}, is in "
                "these datasets; audit them"
            )
        excluded |= here
    return excluded


def _groups(sources: Sequence[FaceDataset], excluded: Collection[str] = ()) -> tuple[dict[str, dict[str, int]], int]:
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
            if name in excluded:
                continue
            counts[name] += 1
            parent.setdefault(name, name)
            first = root(owner.setdefault(digest, name))
            parent[root(name)] = first
    groups: dict[str, dict[str, int]] = defaultdict(dict)
    for name, count in counts.items():
        groups[root(name)][name] = count
    return dict(groups), sum(len(members) for members in groups.values() if len(members) > 1)


def _shards(
    sources: Sequence[FaceDataset], shard_bytes: int, excluded: Collection[str] = ()
) -> list[list[tuple[int, range]]]:
    """Divide the rows of all sources, in their order, into shards of at most `shard_bytes`; one image at least.

    Returns:
        Per shard, the numbers of the sources that it has images of, and the rows of each.
    """
    shards: list[list[tuple[int, range]]] = []
    size = 0
    for number, source in enumerate(sources):
        prefix = source.artifact.contents["name"]
        begin = 0
        columns = (source.column(name) for name in ("image_id", "size", "identity"))
        for row, (image_id, length, identity) in enumerate(zip(*columns, strict=True)):
            if excluded and _name(source, identity) in excluded:
                if row > begin:
                    shards[-1].append((number, range(begin, row)))
                begin = row + 1
                continue
            if not shards or (size and size + length > shard_bytes):
                if row > begin:
                    shards[-1].append((number, range(begin, row)))
                shards.append([])
                begin, size = row, 0
            size += len(member_header(f"{prefix}.{image_id}.jpg", length)) + member_size(length) - member_size(0)
        if len(source) > begin:
            shards[-1].append((number, range(begin, len(source))))
    return shards


def _copy(
    shard: ShardWriter,
    source: FaceDataset,
    rows: range,
    splits: Mapping[str, str],
    report: Callable[[int], None],
) -> None:
    """Store these rows of a source under names that begin with the source's, each with its identity's split."""
    prefix = source.artifact.contents["name"]
    for place, row in enumerate(source.table(rows=rows).to_pylist()):
        data = source.read(rows.start + place)
        identity = _name(source, row["identity"])
        shard.add(
            f"{prefix}.{row['image_id']}",
            identity,
            data,
            extension=EXTENSIONS[probe(data).format],
            size=(row["width"], row["height"]),
            source=row["source"],
            facts={name: row[name] for name in FACTS} | {"split": splits[identity]},
        )
        report(1)


def _carry_rejected(shard: ShardWriter, source: FaceDataset) -> None:
    """Record the rejections of a source, their identities named as in the assembled dataset."""
    for row in source.rejected():
        identity = row["identity"]
        shard.carry_rejected(row | {"identity": None if identity is None else _name(source, identity)})
