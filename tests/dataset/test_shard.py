"""A shard's bytes are those of Python's own tarfile, and its digest is known when it is closed."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from eolgul.dataset.shard import Shard, member_header, member_size

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=120).filter(
    lambda name: name.strip("/ ") == name
)


def by_tarfile(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@given(members=st.lists(st.tuples(NAMES, st.binary(max_size=1200)), max_size=6))
def test_the_bytes_are_tarfiles(tmp_path_factory: object, members: list[tuple[str, bytes]]) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "shard.tar"  # type: ignore[attr-defined]
    shard = Shard(path)
    offsets = [shard.add(name, data) for name, data in members]
    shard.close()
    written = path.read_bytes()
    assert written == by_tarfile(members)
    assert shard.sha256 == hashlib.sha256(written).hexdigest() and shard.size == len(written)
    for offset, (_, data) in zip(offsets, members, strict=True):
        assert written[offset : offset + len(data)] == data


@given(size=st.integers(0, 8**11 - 1), name=st.sampled_from(["a/1.jpg", "x" * 99, "x" * 100, "x" * 101, "김/1.jpg"]))
def test_headers_of_any_size(size: int, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    assert member_header(name, size) == member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def test_blocks_larger_than_the_buffer(tmp_path: Path) -> None:
    members = [(f"a/{number}", bytes([number]) * (3 << 20)) for number in range(5)]
    shard = Shard(tmp_path / "shard.tar")
    for name, data in members:
        shard.add(name, data)
    assert shard.size == sum(member_size(len(data)) for _, data in members)
    shard.close()
    assert (tmp_path / "shard.tar").read_bytes() == by_tarfile(members)
