"""Step 3: merge aligned sources and split them by identity, so that nobody is in two splits → FaceDataset.

An identity is its source's name and its name there. Identities that share an identical image (one person under two
names, as scraped sets have them) are kept together, and in training: held out, they would be measured as strangers.

The images stay where they are: the result's shards are those of its parents, by another name (`eolgul.dataset.joined`), and
its manifest is made column by column. So a shard may have images without a row: those of identities that an audit excluded.
With `copy` the images are written anew, without those, into shards of their own.

Memory: 1.6 GB for 5.87 million rows (`benchmarks/scale.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from eolgul.artifact import Artifact, open_artifact, reuse
from eolgul.assemble.config import AssembleConfig
from eolgul.assemble.copying import divide, write_shard
from eolgul.assemble.people import People, split_table
from eolgul.assemble.splits import check_training, held_back, split_identities
from eolgul.assemble.tree_level import warnings_of
from eolgul.config import Progress, count_up
from eolgul.dataset import SCHEMA, SHARDS, SPLITS, DatasetBuild, FaceDataset, build_dataset
from eolgul.dataset.exclusion import read_exclusion
from eolgul.dataset.joined import refer_to_shard, write_tables
from eolgul.dataset.schema import REJECTED
from eolgul.errors import InputError

VERSION = 1  # of the results: raise it when the same inputs and recipe give others
Report = Callable[[int], None]


def assemble(
    datasets: Sequence[Path],
    out: Path,
    config: AssembleConfig = AssembleConfig(),
    *,
    elsewhere: Collection[Path] = (),
    progress: Progress | None = None,
) -> Artifact:
    """Merge aligned FaceDatasets into one at `out` and give every image a split; an equal one already there is kept.

    Which identities are held back depends on the seed, their names and how many there are, not on the order of
    anything.

    Args:
        datasets: Aligned FaceDatasets.
        out: Where the assembled FaceDataset goes.
        config: The options.
        elsewhere: Those of the datasets whose shards are not on this machine: only their tables are read, and the result
            lists their shards without having them.
        progress: Called with (images done, images in all).

    Raises:
        InputError: For datasets that are not aligned, were aligned with different detector settings, share a source
            name, hold benchmark pairs, have too few identities to hold `HELD_OUT` back for each wanted split, or leave
            fewer than two for training.
    """
    if not datasets:
        raise InputError("no dataset to assemble")
    sources = [FaceDataset(path, images=path not in elsewhere) for path in datasets]
    detector = _check_sources(sources, config.held_out_sources)
    excluded = _excluded(sources, config.exclude)
    recipe = config.to_recipe()
    if config.exclude:
        recipe["exclude"] = sorted(excluded)
    inputs = [source.artifact.reference for source in sources]
    without = (SHARDS,) if elsewhere else ()
    done = reuse(out, "FaceDataset", step="assemble", version=VERSION, recipe=recipe, inputs=inputs, without=without)
    if done is not None:
        return done
    people = People(sources, excluded)
    groups, shared = people.groups(sources)
    splits = split_identities(
        groups, config.shares, seed=config.seed, sources=config.held_out_sources, most=config.most_held_out
    )
    check_training(splits)
    kept = int(people.images[people.kept].sum())
    report = count_up(progress, kept)
    job = {
        "step": "assemble",
        "recipe": recipe,
        "inputs": inputs,
        "shard_bytes": config.shard_bytes,
        "version": VERSION,
    }
    with build_dataset(out, job) as build:
        if config.copy:
            _copy(build, sources, people, splits, config.shard_bytes, report)
        else:
            _refer(build, sources, people, splits, elsewhere, report)
        facts = {
            "name": "assembled",
            "identities_known": True,
            "aligned": sources[0].artifact.contents["aligned"],
            "detector": detector,
            "sources": [source.artifact.contents["name"] for source in sources],
            "splits": split_table(people, splits),
            "held_back": held_back(splits),
            "identities_sharing_images": shared,
        }
        if config.exclude:
            left_out = sum(len(source) for source in sources) - kept
            facts["excluded"] = {"identities": len(excluded), "images": left_out}
        if suspicious := [warning for source in sources for warning in warnings_of(source)]:
            facts["warnings"] = suspicious
        synthetic = any(source.artifact.synthetic for source in sources)
        build.seal(step="assemble", version=VERSION, recipe=recipe, inputs=inputs, synthetic=synthetic, facts=facts)
    return open_artifact(out, without=without)


def _refer(
    build: DatasetBuild,
    sources: Sequence[FaceDataset],
    people: People,
    splits: Mapping[str, str],
    elsewhere: Collection[Path],
    report: Report,
) -> None:
    """Refer to the shards of the sources and write one manifest for all."""
    places = []  # per source, the new name of each of its shards, and the shard of each row
    count = 0
    for number, source in enumerate(sources):
        names, shard = source.codes("shard")
        used = np.unique(shard[people.rows_kept(number)]).tolist()
        new = [""] * len(names)
        for code in used:
            refer_to_shard(build, count, source, names[code], elsewhere=source.path in elsewhere)
            new[code] = f"{count:05}.tar"
            count += 1
        places.append((new, shard))
    split_of = np.array([SPLITS.index(splits[name]) if name in splits else -1 for name in people.names], np.int8)

    def rows() -> Iterator[pa.Table]:
        for number, source in enumerate(sources):
            for table in _rows(source, people, number, split_of, *places[number]):
                yield table
                report(table.num_rows)

    write_tables(build, rows(), map(_rejections, sources))


def _rows(
    source: FaceDataset,
    people: People,
    number: int,
    split_of: NDArray[np.int8],
    shards: Sequence[str],
    shard: NDArray[np.int32],
) -> Iterator[pa.Table]:
    """The rows of a source that are assembled, as they are in the new manifest."""
    prefix = pa.scalar(source.artifact.contents["name"])
    names, labels = pa.array(people.names, pa.string()), people.labels()
    split_names, shard_names = pa.array(SPLITS, pa.string()), pa.array(shards, pa.string())
    begin = 0
    for batch in source.batches(SCHEMA.names):
        rows = slice(begin, begin + len(batch))
        begin += len(batch)
        kept = np.flatnonzero(people.kept[people.of_rows[number][rows]])
        person = people.of_rows[number][rows][kept]
        row = batch if len(kept) == len(batch) else batch.take(pa.array(kept))
        changed = {
            "image_id": pc.binary_join_element_wise(prefix, row.column("image_id"), "."),
            "identity": names.take(pa.array(person)),
            "label": pa.array(labels[person]),
            "shard": shard_names.take(pa.array(shard[rows][kept])),
            "split": split_names.take(pa.array(split_of[person])),
        }
        columns = [changed[name] if name in changed else row.column(name) for name in SCHEMA.names]
        yield pa.Table.from_arrays(columns, schema=SCHEMA)


def _rejections(source: FaceDataset) -> pa.Table:
    """The rejections of a source, their identities named as in the assembled dataset."""
    table = source.rejections().select(REJECTED.names).cast(REJECTED)
    prefix = pa.scalar(source.artifact.contents["name"])
    named = pc.binary_join_element_wise(prefix, table["identity"], ".")  # null where the identity is
    return table.set_column(REJECTED.get_field_index("identity"), REJECTED.field("identity"), named)


def _copy(
    build: DatasetBuild,
    sources: Sequence[FaceDataset],
    people: People,
    splits: Mapping[str, str],
    shard_bytes: int,
    report: Report,
) -> None:
    """Write the images into new shards, without those of excluded identities."""
    shards = divide(sources, people, shard_bytes)
    for number, pieces in enumerate(shards):
        if build.is_finished(number):
            report(sum(len(rows) for _, rows in pieces))
            continue
        with build.shard(number, "") as shard:
            for place, rows in pieces:
                write_shard(shard, sources[place], rows, splits, report)
    with build.shard(len(shards), "") as shard:
        for source in sources:
            for row in _rejections(source).to_pylist():
                shard.carry_rejected(row)
    build.finish(range(len(shards) + 1))


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
            sides = np.concatenate([source.numpy(name) for name in ("width", "height")])
            other = (
                "" if (sides != 112).any() else ", or, if its faces lie on the template already, extract with aligned"
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


def _excluded(sources: Sequence[FaceDataset], audits: Sequence[str]) -> set[str]:
    """The identities of these sources that audits found in their training data.

    Raises:
        InputError: An audit found somebody, but nobody of these sources.
    """
    everybody = (
        {f"{source.artifact.contents['name']}.{name}" for source in sources for name in source.codes("identity")[0]}
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
