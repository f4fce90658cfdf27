"""A model's provenance answers for any data set, in any spelling, and never says no where it does not know."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eolgul.errors import InputError
from eolgul.model.provenance import FILE, Provenance

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def learned(*identities: str, images: tuple[str, ...] = ("a",)) -> Provenance:
    return Provenance.of(identities, [sha256(name) for name in images], "d" * 64)


@given(st.sets(NAMES, min_size=1, max_size=8), st.sets(NAMES, max_size=8))
def test_a_name_is_known_in_every_normal_form_and_no_other_is(mine: set[str], others: set[str]) -> None:
    past = learned(*(f"web.{name}" for name in mine))
    for form in ("NFC", "NFD"):
        spelled = [unicodedata.normalize(form, f"web.{name}") for name in mine]
        assert past.knows_people(spelled, "elsewhere").all()
    same = {unicodedata.normalize("NFC", name) for name in mine}
    strangers = [name for name in others if unicodedata.normalize("NFC", name) not in same and "." not in name]
    assert not past.knows_people([f"web.{name}" for name in strangers], "web").any()


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=20), st.lists(st.binary(max_size=4), max_size=20))
def test_images_are_known_by_their_bytes(mine: list[bytes], others: list[bytes]) -> None:
    past = Provenance.of(["s.x"], [hashlib.sha256(data).hexdigest() for data in mine], "d" * 64)
    found = past.knows_images([hashlib.sha256(data).hexdigest() for data in others])
    assert found.tolist() == [data in mine for data in others]


def test_a_source_under_another_name_has_the_same_people() -> None:
    past = learned("kface.19062421", "web.Ban Ki-moon", "ms1m.17")
    asked = ["kface2.19062421", "other.Ban Ki-moon", "Ban Ki-moon", "19062421"]
    assert past.knows_people(asked, "lfw").all()


def test_a_number_that_every_source_gives_is_nobodys_name() -> None:
    past = learned("ms1m.17")
    assert past.knows_people(["ms1m.17", "webface.17", "17"], "webface").tolist() == [True, False, False]
    assert past.knows_people(["17"], "ms1m").tolist() == [True]


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    past = learned("a.b", "a.c", images=("x", "y", "z"))
    past.write(tmp_path)
    read = Provenance.read(tmp_path)
    assert read is not None and read.complete and read.datasets == ("d" * 64,)
    for one, other in ((read.images, past.images), (read.people, past.people), (read.names, past.names)):
        assert np.array_equal(one, other)
    first = (tmp_path / FILE).read_bytes()
    past.write(tmp_path)
    assert (tmp_path / FILE).read_bytes() == first


def test_a_package_that_says_nothing_is_unknown(tmp_path: Path) -> None:
    assert Provenance.read(tmp_path) is None


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"hello"])
def test_a_damaged_file_is_said(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE).write_bytes(damage)
    with pytest.raises(InputError, match=r"provenance\.parquet"):
        Provenance.read(tmp_path)


def test_weights_to_begin_with_bring_their_past() -> None:
    new, old = learned("a.x", images=("new",)), learned("b.y", images=("old",))
    both = new.joined(old)
    assert both.complete and both.knows_people(["a.x", "b.y"], "").all()
    assert both.knows_images([sha256("new"), sha256("old")]).all()
    assert not new.joined(None).complete
    assert not new.joined(old.joined(None)).complete, "unknown stays unknown"


def test_six_bytes_an_image(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    digests = random.integers(0, 256, (50_000, 32), dtype=np.uint8)
    hashes = pa.chunked_array([pa.array([value.tobytes().hex() for value in digests])])
    Provenance.of(["a.x"], hashes, "d" * 64).write(tmp_path)
    assert (tmp_path / FILE).stat().st_size < 7.5 * 50_000
