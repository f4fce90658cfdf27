"""Assembly: nobody in two splits, whatever the sources are called and however people repeat in them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.datasets import make_dataset

from eolgul.assemble.config import AssembleConfig
from eolgul.assemble.splits import HELD_OUT, audit_splits, held_back_line, split_identities, wanted_of
from eolgul.assemble.step import assemble
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.images.decode import encode_png

ALIGNED = "arcface-112-v1"
SHARES = {"test": 0.15, "calibration": 0.15, "validation": 0.05}
FEWEST = {"test": 4, "calibration": 3, "validation": 2}


def picture(*seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8))


def source(
    out: Path,
    *,
    people: int = 20,
    images: int = 3,
    number: int = 0,
    extra: Mapping[str, bytes] | None = None,
    pairs: bool = False,
    synthetic: bool = False,
    **facts: Any,
) -> Path:
    """An aligned FaceDataset named as its folder; `extra` gives people one more image."""
    with make_dataset(out, step="test", recipe={}, inputs=[], synthetic=synthetic) as writer:
        for person in range(people):
            name = f"p{person:02}"
            for image in range(images):
                data = picture(number, person, image)
                writer.add(
                    f"{name}/{image}", name, data, extension="png", size=(4, 4), source=out.name, facts={"camera": "C7"}
                )
        for name, data in (extra or {}).items():
            writer.add(f"{name}/extra", name, data, extension="png", size=(4, 4), source=out.name)
        writer.reject("p00/9", source=out.name, identity="p00", reason="no_face", detail="no face was found")
        if pairs:
            writer.pairs([0], [1], [True], [0])
        writer.describe(**({"name": out.name, "aligned": ALIGNED} | facts))
    return out


def splits_of(dataset: FaceDataset) -> dict[str, str]:
    """The split of each identity; the assertion is the point of it all."""
    found: dict[str, set[str]] = defaultdict(set)
    for identity, split in zip(dataset.column("identity"), dataset.column("split"), strict=True):
        found[identity].add(split)
    assert all(len(splits) == 1 for splits in found.values())
    return {identity: splits.pop() for identity, splits in found.items()}


def test_the_minimums_are_what_evaluation_needs() -> None:
    assert dict(HELD_OUT) == FEWEST


groups = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=40)


@given(
    people=st.dictionaries(st.sampled_from(["a", "b", "c"]), groups, min_size=1),
    shares=st.fixed_dictionaries({split: st.sampled_from([0.0, 0.05, 0.2, 0.3]) for split in FEWEST}),
    seed=st.integers(0, 9),
)
def test_nobody_is_in_two_splits(people: dict[str, list[list[int]]], shares: dict[str, float], seed: int) -> None:
    asked = {
        f"{name}.{number}.0": {f"{name}.{number}.{member}": count for member, count in enumerate(group)}
        for name, found in people.items()
        for number, group in enumerate(found)
    }
    try:
        splits = split_identities(asked, shares, seed=seed)
    except InputError:
        assume(False)
    assert set(splits) == {identity for group in asked.values() for identity in group}
    for group in asked.values():
        assert len({splits[identity] for identity in group}) == 1
        if len(group) > 1:
            assert splits[min(group)] == "train"
    for name, found in people.items():
        counts = Counter(split for identity, split in splits.items() if identity.startswith(f"{name}."))
        assert counts["train"] > 0
        for split, share in shares.items():
            assert counts[split] == (max(FEWEST[split], round(share * len(found))) if share else 0)
    for identity, split in splits.items():
        if split != "train":
            assert asked[identity][identity] >= 2
    assert splits == split_identities(dict(reversed(asked.items())), shares, seed=seed)


def test_another_seed_takes_other_people() -> None:
    asked = {f"a.{number}": {f"a.{number}": 2} for number in range(60)}
    tested = [
        frozenset(k for k, v in split_identities(asked, SHARES, seed=seed).items() if v == "test") for seed in range(5)
    ]
    assert len(set(tested)) == 5


def test_a_newcomer_moves_nobody_between_held_out_and_training_wholesale() -> None:
    """The order is by hash of seed and name: one person more shifts at most one across each border."""
    asked = {f"a.{number}": {f"a.{number}": 2} for number in range(60)}
    before = split_identities(asked, SHARES, seed=0)
    after = split_identities(asked | {"a.new": {"a.new": 2}}, SHARES, seed=0)
    assert sum(before[name] != after[name] for name in before) <= 3


def test_assembled(tmp_path: Path) -> None:
    one, two = source(tmp_path / "one"), source(tmp_path / "two", number=1, people=30, synthetic=True)
    made = FaceDataset(assemble([one, two], tmp_path / "out").path, check="sha256")
    splits = splits_of(made)
    assert set(splits) == {f"one.p{n:02}" for n in range(20)} | {f"two.p{n:02}" for n in range(30)}
    for name, count in (("one", 20), ("two", 30)):
        found = Counter(split for identity, split in splits.items() if identity.startswith(name))
        assert found["test"] == max(4, round(0.15 * count)) and found["calibration"] == max(3, round(0.15 * count))
        assert found["validation"] == 2
    counted = {split: {"identities": 0, "images": 0} for split in ("train", "validation", "calibration", "test")}
    for split in splits.values():
        counted[split]["identities"] += 1
        counted[split]["images"] += 3
    contents = made.artifact.contents
    assert contents["splits"] == counted
    assert (contents["images"], contents["identities"], contents["rejected"]) == (150, 50, 2)
    assert contents["sources"] == ["one", "two"] and made.artifact.synthetic
    assert {row["identity"] for row in made.rejected()} == {"one.p00", "two.p00"}
    assert Counter(made.column("source")) == {"one": 60, "two": 90}
    original = FaceDataset(one)
    for row in range(60):
        assert made.read(row) == original.read(row)
        assert made.column("image_id")[row] == f"one.{original.column('image_id')[row]}"
    assert set(made.column("camera")) == {"C7"}
    assert sorted(set(made.column("label"))) == list(range(50))


def test_the_same_again_is_kept_and_another_seed_is_not(tmp_path: Path) -> None:
    one = source(tmp_path / "one")
    first = assemble([one], tmp_path / "out")
    stamp = (first.path / "dataset.json").stat().st_mtime_ns
    assert assemble([one], tmp_path / "out").digest == first.digest
    assert (first.path / "dataset.json").stat().st_mtime_ns == stamp
    assert assemble([one], tmp_path / "other").digest == first.digest
    assert assemble([one], tmp_path / "out", AssembleConfig(seed=1)).digest != first.digest


def test_one_name_in_two_sources_is_two_people(tmp_path: Path) -> None:
    sources = [source(tmp_path / name, number=number) for number, name in enumerate(("one", "two"))]
    made = FaceDataset(assemble(sources, tmp_path / "out").path)
    assert made.artifact.contents["identities"] == 40
    assert made.artifact.contents["identities_sharing_images"] == 0
    labels = dict(zip(made.column("identity"), made.column("label"), strict=True))
    assert labels["one.p03"] != labels["two.p03"]


@pytest.mark.parametrize("seed", range(6))
def test_people_who_share_an_image_stay_together_in_training(tmp_path: Path, seed: int) -> None:
    """p01 and p02 of one source; and a chain: one's p05 = two's p07 by one image, two's p07 = two's p08 by another."""
    shared = picture(100)
    extra = {"p01": picture(101), "p02": picture(101), "p05": shared}
    one = source(tmp_path / "one", extra=extra)
    two = source(tmp_path / "two", number=1, extra={"p07": shared, "p08": picture(1, 7, 0)})
    for order in ([one, two], [two, one]):
        made = FaceDataset(assemble(order, tmp_path / "out", AssembleConfig(seed=seed)).path)
        splits = splits_of(made)
        assert [splits[name] for name in ("one.p01", "one.p02", "one.p05", "two.p07", "two.p08")] == ["train"] * 5
        assert made.artifact.contents["identities_sharing_images"] == 5
        digests: dict[str, set[str]] = defaultdict(set)
        for digest, split in zip(made.column("sha256"), made.column("split"), strict=True):
            digests[digest].add(split)
        assert all(len(found) == 1 for found in digests.values())


def test_only_the_named_sources_are_held_back(tmp_path: Path) -> None:
    sources = [source(tmp_path / name, number=number) for number, name in enumerate(("one", "two"))]
    splits = splits_of(FaceDataset(assemble(sources, tmp_path / "out", AssembleConfig(held_out_sources=("two",))).path))
    assert {split for name, split in splits.items() if name.startswith("one.")} == {"train"}
    assert {split for name, split in splits.items() if name.startswith("two.")} == {*FEWEST, "train"}
    with pytest.raises(InputError, match=r"held_out_sources \['tow'\]: the datasets are one, two"):
        assemble(sources, tmp_path / "out", AssembleConfig(held_out_sources=("tow",)))


def test_too_few_people_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"source one: 9 of 9 identities .* too few to hold back 9 .*'test': 4"):
        assemble([source(tmp_path / "one", people=9)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_people_with_one_image_are_not_held_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="source one: 0 of 40 identities"):
        assemble([source(tmp_path / "one", people=40, images=1)], tmp_path / "out")


@pytest.mark.parametrize(
    "shares",
    [{"test": 1.0}, {"test": -0.1}, {"test": 0.5, "calibration": 0.5}, {"validation": 0.8}, {"test": float("nan")}],
)
def test_shares_that_leave_nobody(tmp_path: Path, shares: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="held-out shares"):
        assemble([source(tmp_path / "one")], tmp_path / "out", AssembleConfig(**shares))


def test_sources_that_do_not_fit(tmp_path: Path) -> None:
    good = source(tmp_path / "good", detector={"name": "mtcnn", "min_face_size": 20})
    for bad, says in (
        (source(tmp_path / "raw", aligned=None), "raw: not aligned"),
        (source(tmp_path / "bench", pairs=True), "bench: is a benchmark"),
        (source(tmp_path / "other", detector={"name": "mtcnn", "min_face_size": 40}), "different detector settings"),
        (source(tmp_path / "again" / "good"), "two datasets are called 'good'"),
        (tmp_path / "none", "no such artifact"),
    ):
        with pytest.raises(InputError, match=says):
            assemble([good, bad], tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="is assembled already"):
        assemble([assemble([source(tmp_path / "once")], tmp_path / "assembled").path], tmp_path / "again")
    with pytest.raises(InputError, match="no dataset"):
        assemble([], tmp_path / "out")


def test_the_detector_travels(tmp_path: Path) -> None:
    detector = {"name": "mtcnn", "min_face_size": 20}
    sources = [source(tmp_path / "found", detector=detector), source(tmp_path / "came_aligned", number=1)]
    assert assemble(sources, tmp_path / "out").contents["detector"] == detector


def test_the_audit_refuses_one_person_in_two_splits() -> None:
    audit_splits({"train": {"a", "b"}, "test": {"c"}, "validation": set()})
    with pytest.raises(InputError, match="identity b is in both test and train"):
        audit_splits({"train": {"a", "b"}, "test": {"b", "c"}})


SHARD = 1 << 16


def big_sources(folder: Path) -> list[Path]:
    """Two sources of about 40 assembled shards."""
    found = []
    for number, name in enumerate(("one", "two")):
        with make_dataset(folder / name, step="test", recipe={}, inputs=[], synthetic=False, shard_bytes=SHARD) as made:
            for image in range(240):
                person = f"p{image // 8:02}"
                data = encode_png(np.random.default_rng((number, image)).integers(0, 255, (40, 40, 3), np.uint8))
                made.add(f"{person}/{image}", person, data, extension="png", size=(40, 40), source=name)
                if image % 50 == 7:
                    made.reject(f"{person}/x{image}", source=name, identity=person, reason="no_face", detail="no face")
            made.describe(name=name, aligned=ALIGNED)
        found.append(folder / name)
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.process
def test_a_killed_assembly_goes_on_from_its_finished_shards(tmp_path: Path) -> None:
    """Killed without warning, twice: what is finished is not written again, and the result is an unkilled run's."""
    sources = big_sources(tmp_path / "in")
    whole = assemble(sources, tmp_path / "whole", AssembleConfig(copy=True, shard_bytes=SHARD)).path
    out = tmp_path / "run" / "out"
    code = (
        "import sys, time; from pathlib import Path; from eolgul.assemble.config import AssembleConfig\n"
        "from eolgul.assemble.step import assemble\n"
        "slow = lambda done, total: time.sleep(0.002)\n"
        f"assemble([Path(p) for p in sys.argv[2:]], Path(sys.argv[1]), AssembleConfig(copy=True, shard_bytes={SHARD}), progress=slow)"
    )
    work = out.parent / ".out.partial"
    for wanted in (5, 15):
        process = subprocess.Popen([sys.executable, "-c", code, str(out), *map(str, sources)])
        while len(list((work / "parts").glob("*.json"))) < wanted:
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert not out.exists()
    finished = [path.stem for path in (work / "parts").glob("*.json")]
    stamps = {f"{name}.tar": (work / "artifact/shards" / f"{name}.tar").stat().st_mtime_ns for name in finished}
    seen: list[tuple[int, int | None]] = []
    config = AssembleConfig(copy=True, shard_bytes=SHARD)
    resumed = assemble(sources, out, config, progress=lambda *counts: seen.append(counts))
    made = FaceDataset(resumed.path, check="sha256")
    assert tree(made.path) == tree(whole)
    assert {name: (out / "shards" / name).stat().st_mtime_ns for name in stamps} == stamps and len(stamps) >= 15
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert seen[-1] == (480, 480) and len(made) == 480 and made.artifact.contents["rejected"] == 10
    assert max(path.stat().st_size for path in (out / "shards").iterdir()) <= SHARD + 2 * 10240


def test_a_shard_of_a_copy_holds_images_of_two_sources(tmp_path: Path) -> None:
    sources = [source(tmp_path / "one"), source(tmp_path / "two", number=1)]
    made = FaceDataset(assemble(sources, tmp_path / "out", AssembleConfig(copy=True)).path)
    assert set(made.column("shard")) == {"00000.tar"} and len(made) == 120
    rejected = [(row["identity"], row["source"]) for row in made.rejected()]
    assert rejected == [("one.p00", "one"), ("two.p00", "two")]


def test_two_images_of_one_id_are_refused(tmp_path: Path) -> None:
    with make_dataset(tmp_path / "in", step="test", recipe={}, inputs=[], synthetic=False) as made:
        for number in range(2):
            made.add("a/1", "a", picture(number), extension="png", size=(4, 4), source="in")
        made.describe(name="in", aligned=ALIGNED)
    with pytest.raises(InputError, match="two images have the same id"):
        assemble([tmp_path / "in"], tmp_path / "out")


@pytest.mark.parametrize(("people", "left"), [(10, 1), (11, 2)])
def test_training_needs_two_identities(tmp_path: Path, people: int, left: int) -> None:
    """4 + 3 + 2 are held back of one source."""
    config = AssembleConfig(validation=0.05, calibration=0.15, test=0.15)
    given = [source(tmp_path / "in", people=people)]
    if left == 1:
        with pytest.raises(InputError, match=r"1 of 10 identities is left for training, expected 2 or more: .*folder"):
            assemble(given, tmp_path / "out", config)
        assert not (tmp_path / "out").exists()
    else:
        assert assemble(given, tmp_path / "out", config).contents["splits"]["train"]["identities"] == left


def test_training_identities_of_all_sources_count(tmp_path: Path) -> None:
    sources = [source(tmp_path / "one", people=1), source(tmp_path / "two", people=10, number=1)]
    made = assemble(sources, tmp_path / "out", AssembleConfig(held_out_sources=("two",)))
    assert made.contents["splits"]["train"]["identities"] == 2
    with pytest.raises(InputError, match="1 of 1 identities is left for training"):
        assemble(sources[:1], tmp_path / "alone", AssembleConfig(validation=0, calibration=0, test=0))


DEFAULTS = AssembleConfig()


def test_ms1m_and_kface_by_default() -> None:
    """MS1M trains on 95 % of its people or more; K-FACE, the population that the model is for, gives its whole shares."""
    wanted = wanted_of({"faces_emore": 85742, "kface": 400}, DEFAULTS.shares, DEFAULTS.most_held_out)
    assert wanted["kface"] == {"test": 60, "calibration": 60, "validation": 20}
    assert sum(wanted["faces_emore"].values()) / 85742 < 0.05
    assert all(sum(counts[split] for counts in wanted.values()) == DEFAULTS.most_held_out for split in HELD_OUT)


@given(
    sizes=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 90_000), min_size=1),
    shares=st.fixed_dictionaries({split: st.sampled_from([0.0, 0.001, 0.05, 0.3]) for split in FEWEST}),
    most=st.integers(1, 5000),
)
def test_the_cap_is_on_people_of_all_sources(sizes: dict[str, int], shares: dict[str, float], most: int) -> None:
    wanted = wanted_of(sizes, shares, most)
    free = wanted_of(sizes, shares, None)
    for split, fewest in FEWEST.items():
        given_ = {source: wanted[source][split] for source in sizes}
        asked = {source: free[source][split] for source in sizes}
        assert sum(given_.values()) <= max(most, fewest * len(sizes))
        if sum(asked.values()) <= most:
            assert given_ == asked
        elif all(asked.values()):
            assert sum(given_.values()) >= min(most, sum(asked.values())) - len(sizes)  # nothing is given away
        for source in sizes:
            assert given_[source] <= asked[source] and (given_[source] >= fewest) == (asked[source] > 0)
            for other in sizes:  # a source that is cut gives as much as any other, and one that gives less is not cut
                if given_[source] < asked[source] and given_[other] > given_[source] + 1:
                    raise AssertionError(f"{source} is cut to {given_[source]}, {other} gives {given_[other]}")


def test_what_is_held_back_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from eolgul.cli.main import app

    for name, people, number in (("one", 40, 0), ("two", 20, 1)):
        source(tmp_path / name, people=people, images=2, number=number)
    out = tmp_path / "out"
    app(["assemble", str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(out), "--most-held-out", "8"],
        standalone_mode=False)  # fmt: skip
    shown = capsys.readouterr()
    counts = {"test": 4, "calibration": 5, "validation": 2, "train": 29, "trained_share": 0.725}
    contents = FaceDataset(out).artifact.contents
    assert contents["held_back"]["one"] == counts
    assert contents["held_back"]["two"] == {**counts, "calibration": 3, "train": 11, "trained_share": 0.55}
    assert contents["splits"]["train"]["identities"] == 40
    assert json.loads(shown.out)["held_back"] == contents["held_back"]
    assert (
        "source one: trains on 29 of 40 identities (72.5 %), holds back 11 (test 4, calibration 5, validation 2)"
        in shown.err
    )
    assert held_back_line("x", {"test": 0, "calibration": 0, "validation": 0, "train": 3}) == (
        "source x: trains on 3 of 3 identities (100.0 %), holds back 0"
    )
