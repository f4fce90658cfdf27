"""What the sources of an extraction are, and which options are for which of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig, source_name
from eolgul.steps.places import Facts, bring, open_raw

PIPELINE_SELECTION = "original"
"""The pipeline's default of the selection, which counts as not given: Kubeflow knows no other way to say that."""


Kind = Callable[[str, ExtractConfig | None], str]
"""Tells the kind of a source at a place with the options of its extraction; None for those of a benchmark."""


def find_kind(source: str, config: ExtractConfig | None) -> str:
    """The kind of a source. One in S3 is not fetched for it, but for a file that is the source by itself."""
    from eolgul.extract.kinds import detect_kind, kind_of

    local, far = open_raw(source, "auto" if config is None else config.kind)
    return detect_kind(local, far) if config is None else kind_of(local, config, far)


class Extraction(NamedTuple):
    """One source to extract, with its options; their `name` is set."""

    source: str
    config: ExtractConfig


def plan_extraction(
    sources: Sequence[str],
    benchmarks: Sequence[str],
    config: ExtractConfig,
    *,
    benchmark_pairs: Sequence[str] = (),
    benchmark_selection: str | None = None,
    benchmark_identities: str | None = None,
    kind: Kind = find_kind,
) -> tuple[list[Extraction], list[Extraction]]:
    """Give each of several sources the options that are for its kind.

    Args:
        sources: Places of what to learn from.
        benchmarks: Places of `.bin` sets and carrays, which are benchmarks by themselves, and of trees, of which each of
            `benchmark_pairs` makes one.
        config: The options of the sources. Benchmarks share `any_size`, `verify` and `workers`, and the lists of
            `benchmark_pairs` have `max_pairs_lost`.
        benchmark_pairs: Places of pair lists.
        benchmark_selection: The selection of the trees among `benchmarks`.
        benchmark_identities: The identities of the trees among `benchmarks`.
        kind: Tells the kind of a source.

    Returns:
        What to extract for the sources and for the benchmarks, in order.

    Raises:
        InputError: When an option is for none of the sources, a benchmark has no pairs, or two have one name.
    """
    share = config.max_pairs_lost
    if not config.pairs:  # it is for the lists of the benchmarks then
        config = replace(config, max_pairs_lost=ExtractConfig.max_pairs_lost)
    kinds = [kind(source, config) for source in sources]
    for name in config.unused(kinds):
        # The pipeline's default asks for nothing, and without a K-FACE tree there is nothing to select.
        if (name, getattr(config, name)) != ("selection", PIPELINE_SELECTION):
            raise InputError(
                f"{name} {getattr(config, name)}: is for none of the sources ({', '.join(kinds) or 'none'})"
            )
    if config.name and len(sources) != 1:
        raise InputError(f"name {config.name}: is for one source, but there are {len(sources)}")
    learned = [
        Extraction(
            source,
            replace(config.for_kind(form), name=config.name or source_name(source), one_of_several=len(sources) > 1),
        )
        for source, form in zip(sources, kinds, strict=True)
    ]
    common = ExtractConfig(any_size=config.any_size, verify=config.verify, workers=config.workers)
    trees = replace(common, selection=benchmark_selection, identities=benchmark_identities, max_pairs_lost=share)
    measured: list[Extraction] = []
    used: list[str] = []
    for source in benchmarks:
        form, name = kind(source, None), source_name(source)
        if form in ("bin", "carrays"):
            measured.append(Extraction(source, replace(common.for_kind(form), name=name)))
            continue
        if not benchmark_pairs:
            raise InputError(f"{source}: {form} has no pairs of its own; expected a pair list for this benchmark")
        used.append(form)
        measured += [
            Extraction(source, replace(trees.for_kind(form), name=f"{name}-{source_name(Path(file).stem)}", pairs=file))
            for file in benchmark_pairs
        ]
    if not used:
        given = {
            "benchmark_pairs": list(benchmark_pairs),
            "max_pairs_lost": share if share != config.max_pairs_lost else None,
            "benchmark_selection": benchmark_selection,
            "benchmark_identities": benchmark_identities,
        }
        for what, value in given.items():
            if value:
                raise InputError(f"{what} {value}: is for none of the benchmarks, expected a tree among them")
    if used and benchmark_selection and "kface" not in used:
        raise InputError(
            f"benchmark_selection {benchmark_selection}: is for none of the benchmarks, expected a K-FACE tree"
        )
    check_names([*learned, *measured])
    return learned, measured


def check_lists(extractions: Sequence[Extraction], facts: Sequence[Facts]) -> None:
    """Refuse a list of people to leave out that names nobody in any of the sources, after they were extracted."""
    from eolgul.formats.identities import read_identities

    place = extractions[0].config.without_identities if extractions else None
    if place is None:
        return
    names = len(read_identities(bring(place)))
    if all(one.get("without_identities_unmatched") == names for one in facts):
        raise InputError(f"{place}: none of its {names} names is an identity of any source")


def check_names(extractions: Sequence[Extraction]) -> None:
    """Refuse sources whose artifacts would overwrite each other: InputError names the two."""
    seen: dict[str | None, str] = {}
    for source, config in extractions:
        other = seen.setdefault(config.name, source)
        if other != source:
            raise InputError(f"{other} and {source} are both called {config.name!r}; rename one")
