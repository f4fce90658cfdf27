"""Which identities are held back for validation, calibration and test, and what people are told about it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from eolgul.errors import InputError

HELD_OUT = {"test": 4, "calibration": 3, "validation": 2}  # the fewest people that evaluation can do anything with
_TRAINED = 2  # the fewest training identities; with one there is nothing to tell apart
_MIN_IMAGES = 2  # a held-out person with one picture gives no genuine pair


def check_training(splits: Mapping[str, str]) -> None:
    """Refuse a split that leaves nobody to tell apart in training."""
    learned = sum(split == "train" for split in splits.values())
    if learned < _TRAINED:
        raise InputError(
            f"{learned} of {len(splits)} identities {'is' if learned == 1 else 'are'} left for training, expected {_TRAINED} "
            "or more: lower the held-out shares, add people, or, if an identity is a folder of people here, extract the "
            "folder below it"
        )


def audit_splits(people: Mapping[str, set[str]]) -> None:
    """Refuse splits that share an identity: InputError names one."""
    names = sorted(people)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            both = people[one] & people[other]
            if both:
                raise InputError(f"identity {min(both)} is in both {one} and {other}: splits must not share a person")


def held_back(splits: Mapping[str, str]) -> dict[str, dict[str, Any]]:
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
