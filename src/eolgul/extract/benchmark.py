"""The pairs of a benchmark: those of a pair list, whose images must be found, or those of a set that has its own."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eolgul.dataset import DatasetBuild
from eolgul.errors import InputError, printable
from eolgul.extract.config import ExtractConfig
from eolgul.extract.file_names import IMAGE_SUFFIXES
from eolgul.formats import kface, pair_lists
from eolgul.formats.pair_lists import Pair

_logger = logging.getLogger("eolgul.extract")


def read_list(kind: str, config: ExtractConfig) -> list[Pair]:
    """The pairs of `config.pairs` for a source of this kind.

    Raises:
        InputError: The list is malformed, or names no resolution where the selection has several.
    """
    file = Path(str(config.pairs))
    if kind != "kface" or not kface.is_kface_list(file):
        return pair_lists.read_pairs(file)
    resolutions = kface.Selection.parse(config.selection).resolutions if config.selection else ("Middle",)
    if len(resolutions) != 1:
        raise InputError(f"pairs {file}: they name no resolution; choose one with the selection")
    return kface.read_kface_pairs(file, resolutions[0])


def write_pairs(build: DatasetBuild, pairs: Sequence[Pair], config: ExtractConfig) -> dict[str, Any]:
    """Write the pairs with two images and count the others as lost; return the counts for the card.

    Raises:
        InputError: No pair is left, more than `config.max_pairs_lost` of a list are lost, or only pairs of one fold are left.
    """
    names = {name for pair in pairs for name in (pair.left, pair.right)}
    rows = pair_lists.find_images(names, build.rows_of, IMAGE_SUFFIXES)
    kept = [pair for pair in pairs if pair.left in rows and pair.right in rows]
    lost = len(pairs) - len(kept)
    if lost:
        first = next(
            (number, pair) for number, pair in enumerate(pairs, 1) if not {pair.left, pair.right} <= rows.keys()
        )
        where = config.pairs or build.out.name
        sentence = f"{where}: {lost} of {len(pairs)} pairs are lost; the first is pair {first[0]}, whose image "
        sentence += _why(build, next(name for name in first[1][:2] if name not in rows))
        if not kept or (config.pairs and lost > config.max_pairs_lost * len(pairs)):
            allowed = f"; max_pairs_lost allows {config.max_pairs_lost:g} of them" if config.pairs and kept else ""
            raise InputError(sentence + allowed)
        _logger.warning("%s", sentence)
    if config.pairs and len({pair.fold for pair in kept}) < 2:
        raise InputError(f"{config.pairs}: pairs of one fold only are left; the threshold is chosen on other folds")
    left, right, same, fold = zip(*kept, strict=True)
    build.write_pairs([rows[name] for name in left], [rows[name] for name in right], same, fold)
    return {"pairs": len(kept), "pairs_lost": lost}


def _why(build: DatasetBuild, name: str) -> str:
    """Why an image that a list names is not in the dataset."""
    shown = f"'{printable(name[:80])}'"
    stem = pair_lists.stem(name, IMAGE_SUFFIXES)
    numbered = re.fullmatch(r"(\d{6,})/([01])", name)  # of a set that has its own pairs
    number = f" image {2 * int(numbered[1]) + int(numbered[2])}" if numbered else None
    for row in build.rejections():
        place = pair_lists.stem(row["where"], IMAGE_SUFFIXES)
        if place == stem or place.endswith(f"/{stem}") or (number is not None and place.endswith(number)):
            return f"{shown} was rejected: {row['reason']}, {row['detail']}"
    return f"{shown} is not in the source"
