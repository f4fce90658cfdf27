"""Sealed values open with the right key for the right purpose only."""

from __future__ import annotations

from pathlib import Path

import pytest

from eolgul.errors import InputError
from eolgul.serving.keyring import Keyring, new_line


def written(path: Path, *lines: str) -> Keyring:
    path.write_text("\n".join(lines) + "\n")
    return Keyring.read(path)


def test_rotation_and_binding(tmp_path: Path) -> None:
    old, new = new_line("old"), new_line("new")
    first = written(tmp_path / "keys", "# comment", old)
    value = first.seal(b"secret", b"here")
    assert b"secret" not in value and value != first.seal(b"secret", b"here")
    both = written(tmp_path / "keys", new, old)
    assert both.open(value, b"here") == b"secret" and both.is_stale(value)
    assert both.open(value, b"there") is None
    assert not both.is_stale(both.seal(b"", b""))
    assert written(tmp_path / "keys", new).open(value, b"here") is None
    assert Keyring.ephemeral().open(value, b"here") is None


def test_any_changed_byte_is_noticed() -> None:
    ring = Keyring.ephemeral()
    value = ring.seal(b"x" * 40, b"here")
    for place in range(len(value)):
        assert ring.open(value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :], b"here") is None
        assert ring.open(value[:place], b"here") is None


@pytest.mark.parametrize(
    "lines", [["x"], ["a:AAAA"], ["a b:" + "A" * 43 + "="], [":" + "A" * 43 + "="], [], ["열쇠:x"]]
)
def test_a_malformed_file_is_refused_without_quoting_it(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(InputError, match="keys") as caught:
        written(tmp_path / "keys", *lines)
    assert "A" * 20 not in str(caught.value)


def test_a_key_id_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2"):
        written(tmp_path / "keys", new_line("a"), new_line("a"))
