"""Find the level of a tree of photos whose folders are people.

Published sets put folders around the people (`lfw/lfw/<person>`, VGGFace2's `train/<person>` and `test/<person>`), and other sets
have folders below them (a person's sessions, YouTube Faces' videos). A wrong level gives wrong labels without any error, so a
tree that can be read in two ways is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eolgul.errors import InputError, printable
from eolgul.extract.plan import text
from eolgul.formats.identities import normal

MOST = 8
"""The deepest level that is looked for."""
_STRAY = 0.01  # share of images that may lie beside the people in folders such as `train`
_SESSIONS = 0.5  # share of folders whose names others have too, from which on they are a person's sessions
_PARTS = re.compile(
    r"(?:train|training|val|valid|validation|dev|devel|test|testing|eval|evaluation|gallery|probes?|query|"
    r"학습|훈련|검증|평가|시험|테스트)(?:[ _-]?(?:set|data|images?|imgs?|split|데이터))?",
)
_WRAPPERS = re.compile(
    r"images?|imgs?|photos?|pictures?|faces?|data|dataset|raw|crops?|cropped|aligned|people|identities|원천데이터|원천|사진|얼굴"
)
_NUMBERING = re.compile(r"^[\d.\s_()\[\]-]+(?=\D)")  # as in AI Hub's "1.Training"


class Level(NamedTuple):
    """How many levels below the source people's folders are, and what to say about it."""

    depth: int
    warning: str | None = None


def find_level(source: Path, names: Sequence[str]) -> Level:
    """Find the level of people's folders from the paths of all images.

    Args:
        source: For messages.
        names: Paths below the source, with `/` between the parts.

    Raises:
        InputError: The paths can be read in two ways.
    """
    depth, warning = 1, None
    slashes = [name.count("/") for name in names]
    while depth < MOST:
        deep = [name for name, count in zip(names, slashes, strict=True) if count > depth]
        direct = sum(count == depth for count in slashes)
        deeper, warning = _is_deeper(source, depth, deep, direct)
        if not deeper:
            break
        depth += 1
    if depth > 1:
        around = {name.rsplit("/", name.count("/") - depth + 2)[0] for name in names if name.count("/") >= depth}
        shown = ", ".join(sorted(printable(text(one)) for one in around)[:3])
        taken = f"people are taken to be the folders {depth} levels deep, in {shown}; --depth 1 takes the folders at the top"
        warning = f"{taken}; {warning}" if warning else taken
    return Level(depth, warning)


def _is_deeper(source: Path, depth: int, deep: Sequence[str], direct: int) -> tuple[bool, str | None]:
    """Whether folders at a level only hold people's folders, and what to say if not."""
    if not deep:
        return False, None
    children: dict[str, set[str]] = {}
    for name in deep:
        parts = name.split("/", depth + 1)
        children.setdefault("/".join(parts[:depth]), set()).add(parts[depth])
    last = {path: path.rpartition("/")[2] for path in children}
    parts_of_a_set = [path for path in children if _fits(_PARTS, last[path])]
    known = [path for path in children if path in parts_of_a_set or _fits(_WRAPPERS, last[path])]
    pairs = sum(map(len, children.values()))
    if direct and direct > _STRAY * (len(deep) + direct):
        full = [path for path in parts_of_a_set if len(children[path]) > 1]
        if full:
            raise _ambiguous(source, depth, full[0], len(children[full[0]]), "other images lie one level higher")
        return False, None
    if len(known) == len(children):
        return True, None
    if len(children) == 1:
        return (pairs > 1 or all(name.count("/") > depth + 1 for name in deep)), None
    seen = Counter(child for some in children.values() for child in some)
    if sum(count for count in seen.values() if count > 1) >= _SESSIONS * pairs:
        return False, None
    first = next(iter(children))
    if parts_of_a_set:
        first = parts_of_a_set[0]
        raise _ambiguous(
            source, depth, first, len(children[first]), "other folders have other names than parts of a set"
        )
    if pairs > len(children) ** 2:
        raise _ambiguous(source, depth, first, len(children[first]), f"there are {len(children)} such folders")
    if pairs == len(children):
        return False, None
    return False, (
        f"images lie {depth + 1} folders deep; the {len(children):,} folders at level {depth} are taken as people, "
        f"not the {pairs:,} below them (--depth {depth + 1})"
    )


def _fits(pattern: re.Pattern[str], name: str) -> bool:
    plain = normal(text(name)).casefold()
    return pattern.fullmatch(plain) is not None or pattern.fullmatch(_NUMBERING.sub("", plain)) is not None


def _ambiguous(source: Path, depth: int, folder: str, count: int, other: str) -> InputError:
    shown = printable(text(folder))
    return InputError(
        f"{source}: images lie {depth + 1} folders deep ({shown} holds {count} folders of them), but {other}; give "
        f"{source}/{shown}, or --depth {depth + 1} if the inner folders are people, or --depth {depth} if the outer ones are"
    )
