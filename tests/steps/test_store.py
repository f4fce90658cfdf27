"""The store of a workspace: made once, found by content, and safe for any number of runs at the same time."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eolgul import steps, storage
from eolgul.artifact import open_artifact, seal, writing
from eolgul.errors import InputError
from eolgul.steps.lease import Patience, held
from eolgul.steps.places import bring, card_of, reference, split_reference, stamp
from eolgul.steps.store import Job, Store, references, runs
from eolgul.storage.s3 import settings

QUICK = Patience(beat=0.2, stale=1.0, own=0.5)
RACES = 50
_numbers = itertools.count()


@pytest.fixture(params=["disk", "s3"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "workspace")
    return f"{request.getfixturevalue('s3')}/store-{next(_numbers)}"


def making(data: bytes, calls: list[str] | None = None) -> Callable[[str], dict[str, Any]]:
    """What makes a tiny artifact of two files."""

    def make(out: str) -> dict[str, Any]:
        if calls is not None:
            calls.append(out)
        with writing(Path(out)) as folder:
            (folder / "shards").mkdir()
            (folder / "shards" / "0.tar").write_bytes(data * 100)
            (folder / "rows").write_bytes(data)
            seal(folder, "FaceDataset", step="test", version=1, recipe={}, inputs=[], contents={"images": len(data)},
                 synthetic=False)  # fmt: skip
        return {"kind": "FaceDataset", "images": len(data), "seconds": 0.1, "object": object()}

    return make


def job(**other: Any) -> Job:
    return replace(Job("extract", 1, "orl", {"min_images": 1}, ["a" * 64]), **other)


def test_what_was_made_is_found_with_its_figures(workspace: str) -> None:
    calls: list[str] = []
    first = Store(workspace, "run-1").obtain(job(), making(b"pixels", calls))
    again = Store(workspace, "run-2").obtain(job(), making(b"others", calls))
    assert len(calls) == 1 and (first["reused"], again["reused"]) == (False, True)
    assert again["reference"] == first["reference"] and again["images"] == 6 and "object" in first
    place, digest = split_reference(again["reference"])
    assert place.startswith(f"{workspace}/artifacts/extract/orl-{str(digest)[:16]}")
    assert open_artifact(bring(again["reference"]), check="sha256").digest == digest
    assert runs(workspace) == ["run-1", "run-2"]
    assert references(workspace, "run-1") == references(workspace, "run-2") == {"extract-orl": first["reference"]}
    assert not storage.list_names(storage.join(workspace, "making"))  # no lease stays


@pytest.mark.parametrize(
    "other", [{"version": 2}, {"recipe": {"min_images": 2}}, {"inputs": ["b" * 64]}, {"step": "align"}]
)
def test_anything_that_decides_the_result_makes_another_one(tmp_path: Path, other: dict[str, Any]) -> None:
    store = Store(str(tmp_path))
    first = store.obtain(job(), making(b"one"))
    second = store.obtain(job(**other), making(b"two"))
    assert second["digest"] != first["digest"] and not second["reused"]
    assert bring(first["reference"]).is_dir()  # and the first one stays


def test_an_artifact_that_is_gone_is_made_again(workspace: str) -> None:
    store = Store(workspace)
    first = store.obtain(job(), making(b"pixels"))
    storage.remove_below(first["artifact"])
    second = store.obtain(job(), making(b"pixels"))
    assert not second["reused"] and second["reference"] == first["reference"]
    assert open_artifact(bring(second["reference"]), check="sha256")


def test_a_task_refuses_another_artifact_than_it_was_handed(workspace: str) -> None:
    made = Store(workspace).obtain(job(), making(b"pixels"))
    wrong = reference(made["artifact"], "0" * 64)
    sentence = f"^{made['artifact']}: holds the artifact {made['digest'][:12]}, but 000000000000 was handed on"
    for read in (bring, card_of):
        with pytest.raises(InputError, match=sentence):
            read(wrong)
        read(made["reference"])
        read(made["artifact"])  # a place alone takes what is there
    with pytest.raises(InputError, match="expected 64 hexadecimal digits after #sha256:"):
        bring(f"{made['artifact']}#sha256:abc")
    with pytest.raises(InputError, match=sentence):
        steps.align(wrong, f"{workspace}/out")


def test_a_damaged_record_is_a_sentence(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.obtain(job(), making(b"pixels"))
    (record,) = (tmp_path / "made" / "extract").iterdir()
    for text in ("{", "[]", '{"place": "../x", "digest": "1", "facts": {"kind": "FaceDataset"}}'):
        record.write_text(text)
        with pytest.raises(InputError, match=r"not a record of a workspace's store; delete it"):
            store.obtain(job(), making(b"pixels"))


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Give each thread, by its name, a cache of its own, as two machines have."""
    real = settings()
    own = threading.local()

    def mine() -> Any:
        name = getattr(own, "name", "")
        return real.model_copy(update={"cache": tmp_path / f"cache{name}"})

    for module in ("steps.store", "storage.conditional", "storage.download", "storage.upload"):
        monkeypatch.setattr(f"eolgul.{module}.settings", mine)
    yield lambda name: setattr(own, "name", name)


def race(count: int, run: Callable[[int], Any]) -> list[Any]:
    """Run `count` threads from one moment on; what each gives."""
    start = threading.Barrier(count)

    def begin(number: int) -> Any:
        start.wait()
        return run(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def test_two_machines_that_make_one_thing_differently_end_with_the_same(s3: str, caches: Callable[[str], None]) -> None:
    """Fifty times, without a lease between them: the first record counts, and both artifacts are whole."""
    for number in range(RACES):
        place = f"{s3}/race-{number}"

        def run(machine: int, place: str = place) -> dict[str, Any]:
            caches(str(machine))
            return Store(place)._make(job(), making(b"%d pixels" % machine))

        found = race(2, run)
        assert found[0]["reference"] == found[1]["reference"], number
        caches("reader")
        assert open_artifact(bring(found[0]["reference"]), check="sha256").digest == found[0]["digest"]
        (record,) = storage.list_names(f"{place}/made/extract")
        assert json.loads(storage.read_bytes(f"{place}/made/extract/{record}") or b"")["digest"] == found[0]["digest"]


def test_two_machines_that_add_the_same_artifact_break_nothing_for_a_reader(
    s3: str, caches: Callable[[str], None]
) -> None:
    """The faults of the review: a prefix broken for good, a card removed under a reader."""
    for number in range(RACES // 5):
        place = f"{s3}/same-{number}"
        seen: list[str] = []

        def run(machine: int, place: str = place, seen: list[str] = seen) -> Any:
            caches(str(machine))
            if machine < 2:
                return Store(place)._make(job(), making(b"the same pixels"))["reference"]
            for _ in range(20):
                if (found := Store(place).find(job())) is not None:
                    seen.append(found["reference"])
                    open_artifact(bring(found["reference"]), check="sha256")
            return None

        one, two, _ = race(3, run)
        assert one == two and set(seen) <= {one}


def test_the_second_of_two_runs_waits_and_takes_what_the_first_made(workspace: str) -> None:
    calls: list[str] = []

    def run(number: int) -> dict[str, Any]:
        make = making(b"pixels", calls)

        def slowly(out: str) -> dict[str, Any]:
            time.sleep(0.5)
            return make(out)

        return Store(workspace, f"run-{number}", QUICK).obtain(job(), slowly)

    found = race(3, run)
    assert len(calls) == 1 and len({one["reference"] for one in found}) == 1
    assert sorted(one["reused"] for one in found) == [False, True, True]


def test_a_killed_makers_lease_is_taken_over_and_a_living_ones_is_not(tmp_path: Path) -> None:
    place = tmp_path / "lease"

    def leave(**facts: Any) -> None:
        place.write_text(
            json.dumps({"owner": "other", "run": "r", "host": "elsewhere", "process": 1, "beat": 3} | facts)
        )

    leave()  # of another machine: nobody renews it
    begun = time.monotonic()
    with held(str(place), "x", "mine", lambda: False, QUICK) as mine:
        assert mine and time.monotonic() - begun >= QUICK.stale
    assert not place.exists()
    leave(run="mine")  # of this run: its task was killed and is being repeated
    begun = time.monotonic()
    with held(str(place), "x", "mine", lambda: False, replace(QUICK, stale=60)) as mine:
        assert mine and time.monotonic() - begun < 30
    # One that is alive is waited for, however long it takes.
    done = threading.Event()
    with held(str(place), "x", "r1", lambda: False, QUICK), ThreadPoolExecutor(1) as pool:

        def wait() -> bool:
            with held(str(place), "x", "r2", done.is_set, QUICK) as mine:
                return mine

        waiting = pool.submit(wait)
        time.sleep(3 * QUICK.stale)
        assert not waiting.done()
        done.set()
        assert waiting.result(20) is False


def test_the_stamp_of_a_source_is_that_of_what_lies_there(s3: str, tmp_path: Path) -> None:
    (tmp_path / "raw" / "kim").mkdir(parents=True)
    (tmp_path / "raw" / "kim" / "1.jpg").write_bytes(b"one")
    storage.publish(tmp_path / "raw", f"{s3}/stamped/raw")
    for place, write in (
        (f"{s3}/stamped/raw", lambda data: storage.write_bytes(f"{s3}/stamped/raw/kim/1.jpg", data)),
        (str(tmp_path / "raw"), (tmp_path / "raw" / "kim" / "1.jpg").write_bytes),
    ):
        before = stamp(place)
        assert stamp(f"{place}/") == before == stamp(place)
        write(b"two")
        assert stamp(place) != before
    storage.write_bytes(f"{s3}/stamped/lfw.bin", b"pickle")
    before = stamp(f"{s3}/stamped/lfw.bin")
    storage.write_bytes(f"{s3}/stamped/lfw.bin.synthetic.json", b"{}")
    assert stamp(f"{s3}/stamped/lfw.bin") != before  # what belongs to it by name counts
    for nothing in (f"{s3}/stamped/nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(InputError, match=f"^{nothing}: "):
            stamp(nothing)
