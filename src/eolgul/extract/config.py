"""The options of step 1, and which kinds of source each is for."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from eolgul.config import Config, option, parse_part, share_of
from eolgul.errors import InputError
from eolgul.files import sha256_file
from eolgul.formats import kface
from eolgul.formats.archives import archive_stem

WITH_PEOPLE = ("rec", "kface", "folders", "lst")  # a .bin and its copies name pairs, not people
KINDS = ("rec", "bin", "kface", "folders", "lst", "carrays")
PEOPLE_FACTS = (
    "identities_unmatched",
    "without_identities_unmatched",
    "identities_merged",
    "identities_alike",
    "identities_of_several_folders",
    "depth",
)
"""What a card's contents and a command's facts state about the people of a source, where there is something to state."""
FILES = ("pairs", "identities", "without_identities")


@dataclass(frozen=True)
class ExtractConfig(Config):
    """How a raw source becomes a FaceDataset."""

    kind: str = option("auto", "Kind of the source; auto goes by names of files.", choices=("auto", *KINDS))
    name: str | None = option(None, "Name of the source in the manifest. Default: name of its file or folder.")
    pairs: str | None = option(
        None,
        "Pair list that makes a benchmark: LFW's pairs.txt, 'path path 0|1', a CSV, or a published K-FACE list; path or "
        "s3://.",
        kinds=("kface", "folders"),
    )
    max_pairs_lost: float = option(
        0.1,
        "Largest share of the pairs whose images may be missing or rejected.",
        least=0,
        most=1,
        kinds=("kface", "folders"),
    )
    selection: str | None = option(
        None,
        "Conditions to take: original, T1 to T4, protocol-test, demo, all, or 'lights=L1-L3 cameras=C5-C10 …'. "
        "Default: every image.",
        kinds=("kface",),
    )
    identity_from: str | None = option(
        None,
        "Regular expression with a group (?P<identity>…) that fits the whole path of an image below the source and names "
        "its person, such as '[0-9]+_(?P<identity>.+)_[0-9]+_[mf]\\.jpg' for AgeDB. Default: the folder.",
        kinds=("folders",),
    )
    depth: int | None = option(
        None,
        "How many levels below the source people's folders are: 1 for <person>/<image>, 2 for train/<person>/<image>. Default: "
        "found from the tree, which is refused when it can be read in two ways.",
        least=1,
        most=8,
        kinds=("folders",),
    )
    identities: str | None = option(
        None, "File with one identity per line; take only these. Path or s3://.", kinds=WITH_PEOPLE
    )
    without_identities: str | None = option(
        None, "File with one identity per line; leave these out. Path or s3://.", kinds=WITH_PEOPLE
    )
    min_images: int = option(1, "Leave out identities with fewer usable images.", least=1, kinds=WITH_PEOPLE)
    max_identities: int | None = option(
        None,
        "Take at most this many identities that have a usable image, the first by name. Default: all.",
        least=1,
        kinds=WITH_PEOPLE,
    )
    max_images_per_identity: int | None = option(
        None, "Take at most this many usable images of an identity. Default: all.", least=1, kinds=WITH_PEOPLE
    )
    part: str | None = option(
        None, "Take only the records that begin in the i-th of n equal byte ranges, as i/n.", kinds=("rec",)
    )
    share: str | None = option(
        None,
        "Write only the i-th of n shares of the shards, as i/n, for a later merge; another machine does the others.",
        kinds=WITH_PEOPLE,
        in_recipe=False,
    )
    reader: str = option(
        "own",
        "Which code reads the records; mxnet needs `make mxnet-env`.",
        choices=("own", "mxnet"),
        kinds=("rec",),
        in_recipe=False,
    )
    root: str | None = option(
        None,
        "Folder below which the paths of a list lie; path or s3://. Default: the list's folder.",
        kinds=("lst",),
        in_recipe=False,
    )
    color: str = option(
        "rgb",
        "Order of the channels in the source's images; bgr exchanges red and blue and stores PNG.",
        choices=("rgb", "bgr"),
    )
    aligned: bool = option(
        False,
        "The images are faces of 112x112 on the alignment template already; a sample is checked with the detector.",
        kinds=("rec", "folders", "lst"),
    )
    any_size: bool = option(
        False, "Take images whose size is not the one that the format states.", kinds=("rec", "bin", "kface")
    )
    verify: bool = option(False, "Decode every image. Otherwise only header, size and end are checked.")
    workers: int = option(2, "Processes that read and check images.", least=1, in_recipe=False)
    shard_bytes: int = option(512 << 20, "Largest size of a shard in bytes.", least=1, internal=True)
    one_of_several: bool = option(
        False, "Whether the lists of people are for other sources, too.", internal=True, in_recipe=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is not None and not re.fullmatch(r"[\w-]+", self.name):
            raise InputError(f"name {self.name!r}: expected letters, digits, '_' and '-' only")
        if self.aligned and self.any_size:
            raise InputError("aligned and any_size exclude each other: aligned faces are 112x112")
        if self.selection:
            kface.Selection.parse(self.selection)
        self.byte_range  # noqa: B018 - checks `part`
        self.share_of(1)
        self.identity_pattern  # noqa: B018 - checks `identity_from`
        if self.depth is not None and self.identity_from is not None:
            raise InputError(
                f"depth {self.depth}: is not used with identity_from, which fits the whole path; give one of them"
            )

    @property
    def byte_range(self) -> tuple[int, int] | None:
        """`part` as numbers (i, n). Raises InputError unless it is i/n with 1 <= i <= n."""
        return None if self.part is None else parse_part(self.part)

    def share_of(self, shards: int, share: str | None = None) -> range:
        """The numbers of the shards, of `shards` in all, that `share` stands for; all of them without one.

        Raises:
            InputError: When the share is not i/n with 1 <= i <= n.
        """
        share = share or self.share
        return range(shards) if share is None else share_of(shards, share)

    @property
    def identity_pattern(self) -> re.Pattern[str] | None:
        """`identity_from`, compiled. Raises InputError unless it is a regular expression with the group `identity`."""
        if self.identity_from is None:
            return None
        try:
            pattern = re.compile(self.identity_from)
        except (re.error, RecursionError, OverflowError) as error:
            raise InputError(f"identity_from {self.identity_from!r}: is no regular expression ({error})") from error
        if "identity" not in pattern.groupindex:
            raise InputError(
                f"identity_from {self.identity_from!r}: expected a group (?P<identity>…) that is the person"
            )
        return pattern

    def given(self) -> list[str]:
        """The names of the options that are not at their defaults."""
        return [item.name for item in fields(self) if getattr(self, item.name) != item.default]

    def check_kind(self, kind: str, source: Path) -> None:
        """Raise InputError when an option is given that is not for a source of this kind."""
        for name in self.given():
            kinds = _KINDS_OF[name]
            if kinds and kind not in kinds:
                value = getattr(self, name)
                raise InputError(f"{name} {value}: is only for {' and '.join(kinds)}, but {source} is {kind}")
        if "max_pairs_lost" in self.given() and not self.pairs:
            raise InputError(f"max_pairs_lost {self.max_pairs_lost:g}: is for a pair list, and pairs names none")

    def for_kind(self, kind: str) -> Self:
        """The same without the options that are not for a source of this kind."""
        other: dict[str, Any] = {
            item.name: item.default for item in fields(self) if (kinds := _KINDS_OF[item.name]) and kind not in kinds
        }
        return replace(self, **other)

    def unused(self, kinds: Collection[str]) -> list[str]:
        """The names of the given options that are not for any of these kinds."""
        return [name for name in self.given() if _KINDS_OF[name] and not set(_KINDS_OF[name]) & set(kinds)]

    def to_recipe(self) -> dict[str, Any]:
        """As `Config.to_recipe`, with the sha256 of each file instead of its place; the share only where there is one."""
        files = {name: sha256_file(Path(place)) for name in FILES if (place := getattr(self, name))}
        return super().to_recipe() | files | ({"share": self.share} if self.share else {})


_KINDS_OF: dict[str, tuple[str, ...]] = {item.name: item.metadata["kinds"] for item in fields(ExtractConfig)}


def source_name(source: str | Path) -> str:
    """The default name of a source: that of its folder, or of its file without the suffix, as letters, digits, _ and -."""
    path = Path(str(source).removeprefix("s3://").rstrip("/"))
    name = (
        path.parent.name
        if path.name == "train.rec"
        else path.stem
        if path.suffix in (".rec", ".bin", ".lst")
        else archive_stem(path.name) or path.name
    )
    # A dot would blur the border between source and identity in an assembled dataset's names; spaces are no better.
    return re.sub(r"[^\w-]", "_", name) or "source"
