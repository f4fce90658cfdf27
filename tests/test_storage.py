"""Storage against a real S3: what a reader may see at any moment, and what a wrong address or key says."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from eolgul import storage
from eolgul.artifact import open_artifact, reuse, seal, writing
from eolgul.errors import InputError
from eolgul.storage.s3 import connect, minio_client, settings, split

_numbers = itertools.count()


@pytest.fixture
def place(s3: str) -> str:
    """A prefix of the bucket that nobody used before."""
    return f"{s3}/{next(_numbers)}"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Point storage at another address or other credentials until the test ends."""

    def point(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"EOLGUL_S3_{name.upper()}", value)
        storage.forget_settings()

    yield point
    monkeypatch.undo()
    storage.forget_settings()


def tree(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def artifact(out: Path, data: bytes = b"pixels", names: tuple[str, ...] = ("shards/0.tar", "shards/1.tar")) -> Path:
    with writing(out) as folder:
        fill(folder, dict.fromkeys(names, data))
        seal(folder, "FaceDataset", step="test", version=1, recipe={}, inputs=[], contents={}, synthetic=False)
    return out


def names(uri: str) -> list[str]:
    bucket, key = split(uri)
    with connect(uri) as client:
        return sorted(
            item.object_name.removeprefix(f"{key}/")
            for item in client.list_objects(bucket_name=bucket, prefix=f"{key}/", recursive=True)
        )


def test_a_folder_comes_back_as_it_went(place: str, tmp_path: Path) -> None:
    files = {"a.txt": b"a", "deep/er/b.bin": bytes(range(256)) * 100, "empty": b"", "얼굴/사진 1+&%.jpg": b"\xff\xd8"}
    storage.publish(fill(tmp_path / "folder", files), place)
    assert names(place) == sorted(files)
    assert tree(storage.fetch(place)) == files
    assert storage.fetch(f"{place}/deep/er/b.bin").read_bytes() == files["deep/er/b.bin"]
    assert tree(storage.fetch(f"{place}/deep/")) == {"er/b.bin": files["deep/er/b.bin"]}


def test_a_prefix_is_not_its_neighbour(place: str, tmp_path: Path) -> None:
    storage.publish(fill(tmp_path / "a", {"x": b"a"}), f"{place}/runs/a")
    storage.publish(fill(tmp_path / "ab", {"x": b"ab", "y": b"ab"}), f"{place}/runs/ab")
    assert tree(storage.fetch(f"{place}/runs/a")) == {"x": b"a"}
    storage.publish(fill(tmp_path / "other", {"z": b"z"}), f"{place}/runs/a", replace=True)
    assert names(f"{place}/runs/ab") == ["x", "y"]
    assert not storage.exists(f"{place}/run")
    assert not storage.exists(f"{place}/runs/abc")
    assert storage.exists(f"{place}/runs") and storage.exists(f"{place}/runs/a/z")


def test_what_is_gone_is_gone_in_the_copy_too(place: str, tmp_path: Path) -> None:
    storage.publish(fill(tmp_path / "one", {"keep": b"1", "gone/x": b"2"}), place)
    assert set(tree(storage.fetch(place))) == {"keep", "gone/x"}
    storage.publish(fill(tmp_path / "two", {"keep": b"1", "new": b"3"}), place, replace=True)
    assert names(place) == ["keep", "new"]
    assert tree(storage.fetch(place)) == {"keep": b"1", "new": b"3"}


def test_a_new_version_of_equal_size_in_the_same_second_is_fetched(place: str) -> None:
    """Two cards are as long as each other and may be made within a second."""
    for number in range(6):
        storage.write_bytes(f"{place}/card", b"version %d" % number)
        assert storage.fetch(f"{place}/card").read_bytes() == b"version %d" % number


def test_what_is_here_is_not_fetched_again(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.publish(fill(tmp_path / "one", {"x": b"1", "y": b"2"}), place)
    storage.fetch(place)
    calls = watch(monkeypatch, "fget_object")
    storage.fetch(place)
    assert calls == []
    storage.write_bytes(f"{place}/y", b"3")
    storage.fetch(place)
    assert [call["object_name"].rpartition("/")[2] for call in calls] == ["y"]


def test_concurrent_fetches_see_whole_files(place: str, tmp_path: Path) -> None:
    files = {f"{number}": os.urandom(200_000) for number in range(6)}
    storage.publish(fill(tmp_path / "one", files), place)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == files for found in pool.map(lambda _: tree(storage.fetch(place)), range(4)))


def watch(
    monkeypatch: pytest.MonkeyPatch, method: str, fail: Callable[[dict[str, Any]], bool] = lambda _: False
) -> list[Any]:
    """Note the calls of a method of the SDK's client, and let those fail that `fail` names."""
    client = minio_client()
    original, calls = getattr(client, method), []

    def call(**words: Any) -> Any:
        if fail(words):
            raise OSError("the cable is out")
        result = original(**words)
        calls.append(words)
        return result

    monkeypatch.setattr(client, method, call)
    return calls


def test_the_card_goes_last_and_the_old_card_first(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put, removed = watch(monkeypatch, "fput_object"), watch(monkeypatch, "remove_object")
    storage.publish(artifact(tmp_path / "one"), place)
    assert len(put) == 3 and put[-1]["object_name"].endswith("/dataset.json")
    assert names(place) == ["dataset.json", "shards/0.tar", "shards/1.tar"]
    put.clear()
    removed.clear()
    storage.publish(artifact(tmp_path / "two", b"others", ("shards/0.tar",)), place)
    assert [call["object_name"].partition("/")[2] for call in removed] == [
        "dataset.json", "shards/1.tar", ".unfinished.json",
    ]  # fmt: skip
    assert [call["object_name"].partition("/")[2] for call in put] == ["shards/0.tar", "dataset.json"]


@pytest.mark.parametrize("bad", ["shards/0.tar", "shards/1.tar", "dataset.json"])
def test_a_failed_upload_leaves_no_card(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    """Neither a first upload nor one over an older artifact may look whole when it is not."""
    first, again = f"{place}/first", f"{place}/again"
    storage.publish(artifact(tmp_path / "old"), again)
    with monkeypatch.context() as patch:
        watch(patch, "fput_object", lambda words: words["object_name"].endswith(bad))
        for target in (first, again):
            with pytest.raises(OSError, match="the cable is out"):
                storage.publish(artifact(tmp_path / "new", b"new one"), target)
            assert storage.read_bytes(f"{target}/dataset.json") is None
    for target in (first, again):
        storage.publish(tmp_path / "new", target)
        found = open_artifact(storage.fetch(target), "FaceDataset", check="sha256")
        assert found.digest == open_artifact(tmp_path / "new").digest


def test_a_place_above_other_artifacts_is_refused(place: str, tmp_path: Path) -> None:
    """`eolgul extract photos s3://bucket` must not empty the bucket."""
    storage.publish(artifact(tmp_path / "one"), f"{place}/datasets/one")
    storage.publish(artifact(tmp_path / "two"), f"{place}/datasets/two")
    for above in (f"{place}/datasets", place):
        with pytest.raises(InputError, match=r"another artifact lies below it .*datasets/one/dataset\.json"):
            storage.publish(artifact(tmp_path / "new"), above)
    assert len(names(place)) == 6


@pytest.mark.parametrize("has_card", [True, False])
def test_what_is_not_the_artifacts_is_never_removed(place: str, tmp_path: Path, has_card: bool) -> None:
    """`eolgul extract photos s3://bucket/raw` must not delete the raw data."""
    if has_card:
        storage.publish(artifact(tmp_path / "one"), place)
    storage.publish(fill(tmp_path / "raw", {"x/photo": b"precious"}), f"{place}/raw")
    before = names(place)
    with pytest.raises(
        InputError, match=rf"^{place}: holds \S+/raw/x/photo, which does not belong to an artifact there"
    ):
        storage.publish(artifact(tmp_path / "new", names=("other",)), place)
    with pytest.raises(InputError, match="raw/x/photo"), storage.destination(place) as out:
        artifact(out, b"new")
    assert storage.read_bytes(f"{place}/raw/x/photo") == b"precious" and names(place) == before


@pytest.mark.parametrize("again", [False, True])
def test_an_upload_that_was_cut_off_may_be_followed_by_any_other(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    if again:
        storage.publish(artifact(tmp_path / "old", names=("old/0.tar", "deep/evaluation.json")), place)
    for method in ("remove_object", "fput_object"):
        with monkeypatch.context() as patch:
            watch(patch, method, lambda words: words["object_name"].endswith(("old/0.tar", "shards/1.tar")))
            with contextlib.suppress(OSError):
                storage.publish(artifact(tmp_path / "new", b"new one"), place)
    storage.publish(artifact(tmp_path / "small", b"small", ("shards/0.tar",)), place)
    assert names(place) == ["dataset.json", "shards/0.tar"]


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_damaged_artifact_is_made_whole_again(place: str, tmp_path: Path, damage: str) -> None:
    def step() -> None:
        with storage.destination(place) as out:
            if reuse(out, "FaceDataset", step="test", version=1, recipe={}, inputs=[]) is None:
                artifact(out)

    step()
    if damage == "short":
        storage.write_bytes(f"{place}/shards/1.tar", b"p")
    else:
        bucket, key = split(place)
        minio_client().remove_object(bucket_name=bucket, object_name=f"{key}/shards/1.tar")
    step()
    assert storage.read_bytes(f"{place}/shards/1.tar") == b"pixels"
    assert open_artifact(storage.fetch(place), check="sha256")


def test_an_old_copy_in_the_cache_is_in_nobodys_way(place: str, tmp_path: Path) -> None:
    storage.publish(fill(tmp_path / "raw", {"x": b"1"}), place)
    storage.fetch(place)
    bucket, key = split(place)
    minio_client().remove_object(bucket_name=bucket, object_name=f"{key}/x")
    with storage.destination(place) as out:
        artifact(out)
    assert names(place) == ["dataset.json", "shards/0.tar", "shards/1.tar"]


def test_a_copy_of_one_object_is_in_nobodys_way(place: str) -> None:
    storage.write_bytes(f"{place}/x", b"1")
    storage.fetch(f"{place}/x")
    bucket, key = split(place)
    minio_client().remove_object(bucket_name=bucket, object_name=f"{key}/x")
    with storage.destination(f"{place}/x") as out:
        artifact(out)
    assert open_artifact(storage.fetch(f"{place}/x"))


def test_an_input_is_no_destination(place: str, tmp_path: Path) -> None:
    for item, out in (
        (tmp_path / "x", tmp_path / "y" / ".." / "x"),
        (tmp_path / "x" / "photos", tmp_path),
        (f"{place}/x", f"{place}/x/"),
        (f"{place}/x/train.rec", place),
        (f"{place}/x", f"s3://{split(place)[0]}"),
    ):
        with pytest.raises(InputError, match="holds the input"), storage.destination(out, [item]):
            raise AssertionError
    for item, out in ((f"{place}/x", f"{place}/xy"), (f"{place}/xy", f"{place}/x"), (tmp_path / "xy", tmp_path / "x")):
        with contextlib.suppress(ZeroDivisionError), storage.destination(out, [item]):
            raise ZeroDivisionError


def test_a_destination_of_other_things_is_refused_before_the_work(tmp_path: Path) -> None:
    fill(tmp_path / "photos", {"x": b"precious"})
    with pytest.raises(InputError, match="other things"), storage.destination(tmp_path / "photos"):
        raise AssertionError


def test_an_artifact_inside_an_artifact_is_its_own(place: str, tmp_path: Path) -> None:
    """A model package holds its evaluation."""
    storage.publish(artifact(tmp_path / "with", names=("model.onnx", "evaluation/evaluation.json")), place)
    storage.publish(artifact(tmp_path / "without", names=("model.onnx",)), place)
    assert names(place) == ["dataset.json", "model.onnx"]


def test_a_destination_is_made_once(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, put, got = [], watch(monkeypatch, "fput_object"), watch(monkeypatch, "fget_object")

    def step(data: bytes) -> None:
        with storage.destination(place) as out:
            if reuse(out, "FaceDataset", step="test", version=1, recipe={"data": data.hex()}, inputs=[]) is None:
                made.append(data)
                with writing(out) as folder:
                    (folder / "x").write_bytes(data)
                    seal(
                        folder,
                        "FaceDataset",
                        step="test",
                        version=1,
                        recipe={"data": data.hex()},
                        inputs=[],
                        contents={},
                        synthetic=False,
                    )

    step(b"one")
    assert (made, len(put)) == ([b"one"], 2)
    step(b"one")
    assert (made, len(put), got) == ([b"one"], 2, [])  # nor fetched: it was made here
    step(b"two")
    assert (made, len(put)) == ([b"one", b"two"], 4)
    assert storage.read_bytes(f"{place}/x") == b"two"


def test_a_destination_on_another_machine_is_reused(place: str, tmp_path: Path, elsewhere: Callable[..., None]) -> None:
    storage.publish(artifact(tmp_path / "one"), place)
    elsewhere(cache=str(tmp_path / "cache"))
    with storage.destination(place) as out:
        assert open_artifact(out, check="sha256").digest == open_artifact(tmp_path / "one").digest


def test_a_failing_step_publishes_nothing(place: str) -> None:
    with pytest.raises(ZeroDivisionError), storage.destination(place) as out:
        artifact(out)
        raise ZeroDivisionError
    assert not storage.exists(place)


def test_the_bucket_itself_is_a_place(s3: str, tmp_path: Path) -> None:
    storage.make_bucket("s3://whole")
    storage.make_bucket("s3://whole")
    storage.publish(artifact(tmp_path / "one"), "s3://whole")
    assert open_artifact(storage.fetch("s3://whole"), check="sha256")


def test_nothing_there(place: str, tmp_path: Path) -> None:
    assert storage.read_bytes(f"{place}/none") is None
    assert storage.read_bytes("s3://no-such-bucket/none") is None
    assert storage.read_bytes(str(tmp_path / "none")) is None
    for uri in (place, str(tmp_path / "none")):
        assert not storage.exists(uri)
        with pytest.raises(InputError, match=rf"^{uri}: n"):
            storage.fetch(uri)
    for uri in ("s3://", "s3:///key"):
        with pytest.raises(InputError, match="expected s3://bucket/key"):
            storage.fetch(uri)
    with pytest.raises(InputError, match="invalid bucket name"):
        storage.fetch("s3://x/key")
    with pytest.raises(InputError, match="nothing in it to publish"):
        storage.publish(tmp_path / "none", place)


@pytest.mark.parametrize("wrong", ["access_key", "secret_key"])
def test_wrong_credentials_are_one_sentence(
    place: str, tmp_path: Path, elsewhere: Callable[..., None], wrong: str
) -> None:
    storage.write_bytes(f"{place}/x", b"secret")
    elsewhere(**{wrong: "not-the-right-one"})
    for act in (
        lambda: storage.read_bytes(f"{place}/x"),
        lambda: storage.write_bytes(f"{place}/x", b"y"),
        lambda: storage.fetch(place),
        lambda: storage.exists(place),
        lambda: storage.publish(fill(tmp_path / "folder", {"x": b"y"}), place),
        lambda: storage.make_bucket("s3://another"),
    ):
        with pytest.raises(InputError, match=r"^s3://\S+: [^\n]+$") as caught:
            act()
        assert "not-the-right-one" not in str(caught.value)


def test_nobody_at_the_address_is_one_sentence_soon(
    elsewhere: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        elsewhere(endpoint=f"127.0.0.1:{port}", access_key="a", secret_key="b" * 9)
        started = time.monotonic()
        with pytest.raises(InputError, match=rf"^s3://bucket/x: S3 at 127\.0\.0\.1:{port} does not answer[^\n]*$"):
            storage.fetch("s3://bucket/x")
        assert time.monotonic() - started < 15
        monkeypatch.delenv("EOLGUL_S3_ENDPOINT", raising=False)
        with pytest.raises(InputError, match="EOLGUL_S3_ENDPOINT is not set"):
            storage.read_bytes("s3://bucket/x")


def test_an_address_that_is_none(elsewhere: Callable[..., None]) -> None:
    for endpoint, says in (
        ("host:port", "EOLGUL_S3_ENDPOINT 'host:port'"),
        ("a b", "S3 at a b"),
        ("http://", "host:port"),
    ):
        elsewhere(endpoint=endpoint)
        with pytest.raises(InputError, match=says):
            storage.read_bytes("s3://bucket/x")


def test_something_else_at_the_address(elsewhere: Callable[..., None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            while True:
                try:
                    caller, _ = server.accept()
                except OSError:
                    return
                with caller:
                    caller.recv(4096)
                    caller.sendall(b"220 mail.example ESMTP\r\n")

        threading.Thread(target=talk, daemon=True).start()
        elsewhere(endpoint=f"127.0.0.1:{server.getsockname()[1]}", access_key="a", secret_key="b" * 9)
        with pytest.raises(InputError, match="does not answer as expected"):
            storage.read_bytes("s3://bucket/x")


def test_a_local_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    uri = str(tmp_path / "deep" / "pointer.json")
    versions = [bytes([number]) * 50_000 for number in range(8)]
    storage.write_bytes(uri, versions[0])
    done = threading.Event()

    def write() -> None:
        for _ in range(10):
            for version in versions:
                storage.write_bytes(uri, version)

    def read() -> bool:
        good = True
        while not done.is_set():
            good = good and storage.read_bytes(uri) in versions
        return good

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        writers = [pool.submit(write) for _ in range(2)]
        for writer in writers:
            writer.result()
        done.set()
        assert all(reader.result() for reader in readers)
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["pointer.json"]


def test_an_object_is_replaced_in_one_step(place: str) -> None:
    versions = [bytes([number]) * 200_000 for number in range(3)]
    storage.write_bytes(f"{place}/x", versions[0])
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda version: storage.write_bytes(f"{place}/x", version), versions * 3))
        found = list(pool.map(lambda _: storage.read_bytes(f"{place}/x"), range(9)))
    assert set(found) <= set(versions)


def test_join() -> None:
    assert storage.join("s3://bucket/a/", "b", "c") == "s3://bucket/a/b/c"
    assert storage.join("/data/a", "b") == "/data/a/b"


def test_an_interrupted_upload_goes_on_by_digest(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What S3 has whole is not sent again; what has other bytes of the same size is."""
    shards = tuple(f"shards/{number}.tar" for number in range(6))
    made = artifact(tmp_path / "new", b"new one", shards)
    with monkeypatch.context() as patch:
        watch(patch, "fput_object", lambda words: words["object_name"].endswith("shards/5.tar"))
        with pytest.raises(OSError, match="the cable is out"):
            storage.publish(made, place)
    sent = [name for name in names(place) if name in shards]
    assert sent and "shards/5.tar" not in sent
    storage.write_bytes(f"{place}/{sent[0]}", b"old one")  # as long, and not what the card says
    with monkeypatch.context() as patch:
        put = watch(patch, "fput_object", lambda words: False)
        storage.publish(made, place)
    again = {call["object_name"].partition("/")[2] for call in put}
    assert again == {*shards, "dataset.json"} - {*sent[1:]}
    assert tree(storage.fetch(place)) == tree(made)


class _Cable:
    """A TCP proxy before S3 that cuts some of its connections in the middle of what goes up."""

    def __init__(self, to: tuple[str, int], every: int) -> None:
        self._to, self._every, self.cut = to, every, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._numbers = itertools.count(1)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._to)
                bad = next(self._numbers) % self._every == 0
                threading.Thread(
                    target=self._pump, args=(client, server, 100_000 if bad else None), daemon=True
                ).start()
                threading.Thread(target=self._pump, args=(server, client, None), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                passed += len(data)
                if limit is not None and passed > limit:
                    self.cut += 1
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


def test_a_bad_cable_delays_an_upload_and_no_more(place: str, tmp_path: Path, elsewhere: Callable[..., None]) -> None:
    """Shards large enough to go up in parts, every third connection cut within one."""
    made = artifact(tmp_path / "new", os.urandom(11 << 20), ("shards/0.tar", "shards/1.tar"))
    host, _, port = settings().endpoint.rpartition(":")
    cable = _Cable((host, int(port)), every=3)
    elsewhere(endpoint=f"127.0.0.1:{cable.port}")
    storage.publish(made, place)
    cable.close()
    assert cable.cut > 0
    elsewhere(endpoint=f"{host}:{port}", cache=str(tmp_path / "cache"))
    assert tree(storage.fetch(place)) == tree(made)
