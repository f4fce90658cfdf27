"""A bucket is backed up to a folder, destroyed, restored, and counted; with the real SeaweedFS."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from eolgul import storage
from eolgul.errors import InputError
from eolgul.storage.s3 import list_objects_below

module = sys.modules["eolgul.storage.mirror"]  # the package has the function under the same name
BIG = os.urandom(6 << 20)  # in two parts
FILES = {
    "registry/production.json": b'{"digest": "d"}',
    "registry/history.jsonl": b"{}\n",
    "registry/models/d/manifest.json": b"{}",
    "registry/models/d/model.onnx": BIG,
    "datasets/a/dataset.json": b"{}",
    "datasets/a/shards/00000.tar": b"tar",
    "datasets/한글 name.txt": b"",
}


def fill(place: str) -> dict[str, tuple[int, str]]:
    for name, data in FILES.items():
        storage.write_bytes(f"{place}/{name}", data)
    return state(place)


def state(place: str) -> dict[str, tuple[int, str]]:
    """Size and ETag of every object: references between artifacts name both."""
    return {item.object_name: (item.size, str(item.etag)) for item in list_objects_below(place)}


COUNTS = {"objects": len(FILES), "bytes": sum(map(len, FILES.values()))}


def test_destroyed_restored_and_counted(s3: str, tmp_path: Path) -> None:
    place, copy = f"{s3}/mirror-drill", str(tmp_path / "copy")
    before = fill(place)
    assert storage.mirror(place, copy) == COUNTS | {"copied": len(FILES)}
    assert storage.mirror(place, copy) == COUNTS | {"copied": 0}
    storage.write_bytes(f"{place}/registry/production.json", b'{"digest": "e"}')  # of the same length
    assert storage.mirror(place, copy) == COUNTS | {"copied": 1}
    storage.write_bytes(f"{place}/registry/production.json", FILES["registry/production.json"])
    assert storage.mirror(place, copy)["copied"] == 1
    storage.remove_below(place)
    assert state(place) == {}
    assert storage.mirror(copy, place) == COUNTS | {"copied": len(FILES)}
    assert state(place) == before
    assert storage.mirror(copy, place) == COUNTS | {"copied": 0}
    for name, data in FILES.items():
        assert storage.read_bytes(f"{place}/{name}") == data, name


def test_pointers_and_cards_are_written_last(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, copy = f"{s3}/mirror-order", tmp_path / "copy"
    fill(place)
    storage.mirror(place, str(copy))
    order: list[str] = []
    each = module._each

    def noting(call: Any, items: list[Any], progress: Any) -> int:
        order.extend(str(item.relative_to(copy)) for item in items)
        return each(call, items, progress)

    monkeypatch.setattr(module, "_each", noting)
    storage.mirror(str(copy), f"{s3}/mirror-elsewhere")
    assert order.index("registry/models/d/manifest.json") > order.index("registry/models/d/model.onnx")
    assert set(order[-2:]) == {"registry/production.json", "registry/history.jsonl"}


def test_a_model_promoted_meanwhile_is_not_named_without_its_files(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, copy = f"{s3}/mirror-promoted", tmp_path / "copy"
    fill(place)
    get = module._get

    def promote(item: Any, path: Path) -> bool:
        done = get(item, path)
        if path.name == "production.json":  # right after the pointer was read
            storage.write_bytes(f"{place}/registry/models/new/model.onnx", b"new")
            storage.write_bytes(f"{place}/registry/production.json", b'{"digest": "new"}')
        return done

    monkeypatch.setattr(module, "_get", promote)
    storage.mirror(place, str(copy))
    assert (copy / "registry/production.json").read_bytes() == b'{"digest": "d"}'
    assert (copy / "registry/models/d/model.onnx").read_bytes() == BIG


def test_what_is_refused(s3: str, tmp_path: Path) -> None:
    for places, words in (
        ((s3, s3), "expected one place in S3 and one folder"),
        ((str(tmp_path), str(tmp_path)), "expected one place in S3 and one folder"),
        ((f"{s3}/mirror-nowhere", str(tmp_path)), "nothing is there"),
        ((str(tmp_path / "none"), f"{s3}/x"), "nothing is there"),
    ):
        with pytest.raises(InputError, match=words):
            storage.mirror(*places)
    fill(f"{s3}/mirror-blocked")
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "registry").write_text("a file in the way")
    with pytest.raises(InputError, match=r"registry.*: (Not a directory|File exists)"):
        storage.mirror(f"{s3}/mirror-blocked", str(tmp_path / "blocked"))
