"""Put the shares of an extraction together, which several machines have written, into what one machine would have made.

No image is read but for a sample, and no shard is copied: those on this disk are linked, those in S3 referred to.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from eolgul.artifact import Artifact, open_artifact, reuse
from eolgul.config import parse_part
from eolgul.dataset import LINES, SHARDS, FaceDataset, build_dataset, evenly
from eolgul.errors import InputError, printable
from eolgul.extract.about import VERSION, About
from eolgul.extract.appearance import SAMPLE, look_at
from eolgul.extract.benchmark import read_list, write_pairs
from eolgul.extract.config import ExtractConfig, source_name

_logger = logging.getLogger("eolgul.extract")


def merge(
    shares: Sequence[FaceDataset],
    source: Path,
    out: Path,
    config: ExtractConfig = ExtractConfig(),
    *,
    elsewhere: Collection[Path] = (),
) -> Artifact:
    """Join all shares of an extraction at `out`, byte for byte what `extract` makes of the source in one go.

    Memory: the rows of one shard at a time, and one name per identity.

    Args:
        shares: What `extract` made of `source` with `share` 1/n to n/n and otherwise the same options, in any order.
        source: The source, for messages and its name; it is not read.
        out: Where the FaceDataset goes.
        config: The options, without `share`.
        elsewhere: The paths of the shares whose shards lie in S3.

    Raises:
        InputError: A share is missing, or is one of another source or of other options.
    """
    if config.share:
        raise InputError("share and merge: expected one of them at most")
    parts, about = _in_order(shares, config.to_recipe() | {"name": config.name or source_name(source)})
    recipe = config.to_recipe() | {"kind": about.kind, "name": config.name or source_name(source)}
    inputs = about.inputs(_digest(parts, about))
    without = (SHARDS,) if elsewhere else ()
    done = reuse(out, "FaceDataset", step="extract", version=VERSION, recipe=recipe, inputs=inputs, without=without)
    if done is not None:
        return done
    for warning in about.warnings:
        _logger.warning("%s", printable(f"{source}: {warning}"))
    listed = read_list(about.kind, config) if config.pairs else None
    digests = [part.artifact.digest for part in parts]
    with build_dataset(out, {"step": "extract", "recipe": recipe, "merge": digests, "version": VERSION}) as build:
        for part in parts:
            numbers = config.share_of(about.shards, part.artifact.contents["part"])
            build.take_in(part.path, numbers, elsewhere=part.path in elsewhere)
        build.finish(range(about.shards))
        facts: dict[str, Any] = {
            "name": recipe["name"],
            "identities_known": about.identities_known,
            **about.facts_of(config, build.counted),
        }
        facts |= look_at(_sample(parts), source, config, aligned=about.aligned is not None)
        if listed is not None:
            facts |= write_pairs(build, listed, config)
        build.seal(
            step="extract", version=VERSION, recipe=recipe, inputs=inputs, synthetic=about.synthetic, facts=facts
        )
    return open_artifact(out, without=without)


def _in_order(shares: Sequence[FaceDataset], recipe: dict[str, Any]) -> tuple[list[FaceDataset], About]:
    """The shares from 1/n to n/n, and what they say about the source."""
    found: dict[int, FaceDataset] = {}
    count, about = 0, None
    for share in shares:
        card, name = share.artifact.card, str(share.artifact.contents.get("part"))
        if card["step"] != "extract" or "plan" not in share.artifact.contents:
            raise InputError(f"{share.path}: is no share of an extraction")
        own = About.from_json(share.artifact.contents["plan"])
        wanted = recipe | {"share": name, "kind": own.kind}
        other = sorted(key for key in {*wanted, *card["recipe"]} if wanted.get(key) != card["recipe"].get(key))
        if card["version"] != VERSION or other:
            raise InputError(f"{share.path}: was made with other options ({', '.join(other) or 'another version'})")
        number, total = parse_part(name)
        about, count = about or own, count or total
        if own != about or total != count:
            raise InputError(
                f"{share.path}: is a share of another source than {shares[0].path}, or the source has changed in between"
            )
        if found.setdefault(number, share) is not share:
            raise InputError(f"{share.path}: share {name} is {found[number].path} already")
    missing = [number for number in range(1, count + 1) if number not in found]
    if about is None or missing:
        raise InputError(f"merge: share {missing[0]}/{count} is missing" if missing else "merge: expected the shares")
    return [found[number] for number in sorted(found)], about


def _digest(parts: Sequence[FaceDataset], about: About) -> str:
    """The digest of the source, over what all shares have read."""
    total = hashlib.sha256()
    for part in parts:
        with (part.path / LINES).open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    total.update(about.also.encode())
    return total.hexdigest()


def _sample(parts: Sequence[FaceDataset]) -> list[bytes]:
    """The images that `DatasetBuild.sample` takes of the whole."""
    images, before = [], 0
    wanted = evenly(sum(map(len, parts)), SAMPLE)
    for part in parts:
        images += [part.read(row - before) for row in wanted if before <= row < before + len(part)]
        before += len(part)
    return images
