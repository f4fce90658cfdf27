"""Planted copies and people under other names are found, each by the way of comparing that can find it, and no strangers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from support.datasets import make_dataset
from support.evaluation import face, write_benchmark, write_model, write_people

from eolgul.assemble.config import AssembleConfig
from eolgul.assemble.step import assemble
from eolgul.audit.config import AuditConfig
from eolgul.audit.schema import AuditResult
from eolgul.audit.step import audit
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError

STRANGERS, VICTIMS = 12, 5
QUICK: dict[str, Any] = {"threads": 1}


def changed(data: bytes, how: str) -> bytes:
    """A copy of an image as it turns up elsewhere."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if how == "resized":
        image = image.resize((80, 80)).resize((112, 112))
    elif how == "mirrored":
        image = ImageOps.mirror(image)
    elif how == "brighter":
        image = ImageEnhance.Brightness(image).enhance(1.1)
    elif how == "cropped":
        image = image.crop((6, 6, 106, 106)).resize((112, 112))
    out = io.BytesIO()
    if how == "same bytes":
        return data
    image.save(out, "JPEG", quality=75)
    return out.getvalue()


COPIES = ("same bytes", "re-encoded", "resized", "mirrored", "brighter")


def write_training(
    out: Path, copies: dict[str, list[bytes]], name: str = "web", numbered: bool = False, noise: float = 60.0
) -> Path:
    """Strangers with three images each, and a person per key of `copies`."""
    with make_dataset(out, step="align", recipe={}, inputs=[], synthetic=True) as writer:
        for person in range(STRANGERS):
            for image in range(3):
                writer.add(f"s{person}/{image}", f"s{person}", face(500 + person, image, noise), extension="png",
                           size=(112, 112), source=name)  # fmt: skip
        for number, (identity, images) in enumerate(copies.items()):
            own = str(number) if numbered else identity
            for image, data in enumerate(images):
                kind = "png" if data[:4] == b"\x89PNG" else "jpg"
                writer.add(f"{own}/{image}", own, data, extension=kind, size=(112, 112), source=name)
        writer.describe(aligned="arcface-112-v1", name=name, identities_known=True, benchmark=False)
    return out


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmark(tmp_path_factory.mktemp("own") / "own", name="own", known=True)


def result(place: Path) -> AuditResult:
    return AuditResult.model_validate_json((place / "audit.json").read_bytes())


@pytest.mark.parametrize("how", COPIES)
def test_copies_are_found_without_a_model(tmp_path: Path, benchmark: Path, how: str) -> None:
    """Under other names, in other encodings; the strangers are not found."""
    source = FaceDataset(benchmark)
    victims = [0, 10, 22, 35, 50]
    copies = {f"x{row}": [changed(source.read(row), how)] for row in victims}
    made = audit([write_training(tmp_path / "web", copies)], [benchmark], tmp_path / "out", AuditConfig(**QUICK))
    found = result(made.path)
    assert {(item.against_image, item.train_image) for item in found.images} == {
        (source.column("image_id")[row], f"x{row}/0") for row in victims
    }
    assert all(("bytes" if how == "same bytes" else "hash") in item.kinds for item in found.images)
    assert all(item.mirrored is (how == "mirrored") for item in found.images)
    assert found.exclude == sorted(f"web.x{row}" for row in victims)
    embedding = found.found["embedding"]
    assert embedding.images is None and embedding.reason == "no model was given", "not compared is not zero"


def test_people_under_other_names_are_found_by_embedding(tmp_path: Path, benchmark: Path) -> None:
    """Other images of five people, numbered instead of named: neither bytes, nor hash, nor name can tell."""
    people = {f"n{number}": [face(1000 + 4 * number, image, 25.0) for image in (7, 8)] for number in range(VICTIMS)}
    web = write_training(tmp_path / "web", people, numbered=True)
    model = write_model(tmp_path / "model")
    calm = tmp_path / "calm"
    with make_dataset(calm, step="align", recipe={}, inputs=[], synthetic=True) as writer:
        for person in range(40):
            for image in (0, 1):
                writer.add(f"{person}/{image}", f"b{1000 + 2 * person}", face(1000 + 2 * person, image, 25.0),
                           extension="png", size=(112, 112), source="own")  # fmt: skip
        writer.describe(aligned="arcface-112-v1", name="calm", identities_known=True, benchmark=True)
    made = audit([web], [calm], tmp_path / "out", AuditConfig(**QUICK, fmr=1e-3, hash_distance=0), model=model)
    found = result(made.path)
    assert {item.train_identity for item in found.people} == {f"web.{number}" for number in range(VICTIMS)}
    pairs = {(item.against_identity, item.train_identity) for item in found.people}
    wanted = {(f"calm.b{1000 + 4 * n}", f"web.{n}") for n in range(VICTIMS)}
    # 40 people can show one false match in 780, and their means are compared with those of 17 others.
    assert wanted <= pairs and len(pairs - wanted) <= 1
    assert all(item.kinds == ["embedding"] for item in found.people)
    threshold = found.threshold
    assert threshold is not None and threshold.person_pairs == 40 * 39 // 2 and threshold.fmr == pytest.approx(1 / 780)
    again = audit([web], [calm], tmp_path / "again", AuditConfig(**QUICK, fmr=1e-3, hash_distance=0, cache=str(tmp_path / "c")),
                  model=model)  # fmt: skip
    assert result(again.path) == found
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_the_threshold_is_that_of_the_comparisons_that_were_made(tmp_path: Path, benchmark: Path) -> None:
    """A slow way: every two images of different people, sorted."""
    from eolgul.audit.faces import Faces, Part
    from eolgul.audit.threshold import choose_threshold

    data = FaceDataset(benchmark)
    faces = Faces([Part("own", data, np.arange(len(data)), None)])
    vectors = np.random.default_rng(0).normal(size=(len(faces), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = data.column("identity")
    slow = sorted((float(vectors[a] @ vectors[b]) for a in range(len(faces)) for b in range(a)
                   if names[a] != names[b]), reverse=True)  # fmt: skip
    for fmr in (0.01, 0.1):
        chosen = choose_threshold(faces, vectors, fmr=fmr, false_findings=1e9, similarity=None, comparisons=1000)
        assert chosen.comparisons == len(slow)
        assert sum(value >= chosen.similarity for value in slow) / len(slow) == pytest.approx(fmr, abs=1 / len(slow))
        assert chosen.false_findings == pytest.approx(1000 * fmr)
    finest = choose_threshold(faces, vectors, fmr=1e-9, false_findings=1e9, similarity=None, comparisons=1000)
    assert finest.extrapolated and finest.fmr == 1e-9 and finest.similarity > slow[0] - 1e-6
    given = choose_threshold(faces, vectors, fmr=1e-9, false_findings=1, similarity=slow[9] - 1e-6, comparisons=1000)
    assert given.fmr is not None and given.fmr * len(slow) == pytest.approx(10)


def test_names_are_compared_in_one_form(tmp_path: Path) -> None:
    from eolgul.audit.faces import plain

    for one, other in (
        ("lfw.Ban_Ki-moon", "web.KI MOON BAN"),
        ("lfw.José", "x.Jose\u0301"),
        ("a.Ångström", "b.angstrom"),
    ):
        assert plain(one) == plain(other) is not None
    assert plain("ms1m.17") is None and plain("kface.19062421") == "19062421"
    web = write_training(tmp_path / "web", {"B1000": [face(77, 0)]})
    own = write_benchmark(tmp_path / "own", name="own", known=True)
    found = result(audit([web], [own], tmp_path / "out", AuditConfig(**QUICK)).path)
    assert [(item.against_identity, item.train_identity, item.kinds) for item in found.people] == [
        ("own.b1000", "web.B1000", ["name"])
    ]
    assert found.found["name"].people == 1 and found.exclude == ["web.B1000"]
    card = json.loads((tmp_path / "out" / "audit-card.json").read_bytes())
    assert card["contents"]["found"] == {"bytes": 0, "hash": 0, "embedding": None, "name": 1}


def test_people_that_a_set_does_not_name_are_no_zero(tmp_path: Path) -> None:
    web = write_training(tmp_path / "web", {})
    lfw = write_benchmark(tmp_path / "lfw")
    found = result(audit([web], [lfw], tmp_path / "out", AuditConfig(**QUICK)).path)
    assert found.found["name"].people is None and found.found["name"].reason == "people are not named on both sides"
    assert found.found["hash"].people is None and found.found["hash"].images == 0


def test_the_splits_of_an_assembled_dataset_are_compared(tmp_path: Path) -> None:
    data = write_people(tmp_path / "people", twice=[(20, "train")])
    found = result(audit([data], [], tmp_path / "out", AuditConfig(**QUICK)).path)
    assert {item.name for item in found.against} == {"people test", "people calibration"}
    assert [item.train_identity for item in found.people if "name" in item.kinds] == ["people.p20"]


def test_what_was_found_is_left_out_and_then_nothing_is_found(tmp_path: Path, benchmark: Path) -> None:
    source = FaceDataset(benchmark)
    copies = {f"x{row}": [changed(source.read(row), "re-encoded")] for row in (0, 10)}
    web = write_training(tmp_path / "web", copies)
    made = audit([web], [benchmark], tmp_path / "out", AuditConfig(**QUICK))
    shares: dict[str, Any] = {"validation": 0.0, "calibration": 0.0, "test": 0.0}
    for place in (made.path, made.path / "audit.json"):
        out = assemble([web], tmp_path / f"a-{place.name}", AssembleConfig(exclude=(str(place),), **shares))
        assert out.contents["excluded"] == {"identities": 2, "images": 2}
        assert out.card["recipe"]["exclude"] == ["web.x0", "web.x10"]
        assert out.contents["images"] == 3 * STRANGERS and out.contents["identities"] == STRANGERS
    assert result(audit([out.path], [benchmark], tmp_path / "again", AuditConfig(**QUICK)).path).people == []
    other = write_training(tmp_path / "other", {}, name="other")
    with pytest.raises(InputError, match="none of the 2 identities that this audit found"):
        assemble([other], tmp_path / "no", AssembleConfig(exclude=(str(made.path),), **shares))
    with pytest.raises(InputError, match=r"expected the audit\.json"):
        assemble([web], tmp_path / "no", AssembleConfig(exclude=(str(web / "dataset.json"),), **shares))


def test_label_noise_is_named_and_nothing_removed(tmp_path: Path) -> None:
    people = {
        "mixed": [*(face(900, image, 20.0) for image in range(5)), face(901, 0, 20.0)],
        "one": [face(902, image, 20.0) for image in range(3)],
        "two": [face(902, image, 20.0) for image in range(3, 6)],
    }
    web = write_training(tmp_path / "web", people, noise=20.0)
    own = write_benchmark(tmp_path / "own", name="own", known=True)
    model = write_model(tmp_path / "model")
    found = result(audit([web], [own], tmp_path / "out", AuditConfig(**QUICK, similarity=0.9), model=model).path)
    labels = found.labels
    assert labels is not None and labels.far[0].image == "mixed/5"
    assert {labels.coinciding[0].first, labels.coinciding[0].second} == {"web.one", "web.two"}
    assert not {"web.mixed", "web.one"} & set(found.exclude)


def test_a_sample_is_said_and_bytes_are_all_compared(tmp_path: Path, benchmark: Path) -> None:
    source = FaceDataset(benchmark)
    copies = {"x": [face(77, image) for image in range(6)] + [source.read(0)]}
    web = write_training(tmp_path / "web", copies)
    found = result(audit([web], [benchmark], tmp_path / "out", AuditConfig(**QUICK, sample=1)).path)
    assert found.options["sample"] == 1
    assert [item.train_identity for item in found.people] == ["web.x"]
    assert "at most 1 images" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_the_report_shows_pictures_only_where_they_are_allowed(tmp_path: Path, benchmark: Path) -> None:
    source = FaceDataset(benchmark)
    web = write_training(tmp_path / "web", {"<x>": [changed(source.read(0), "re-encoded")]})
    for pictures in (True, False):
        made = audit([web], [benchmark], tmp_path / str(pictures), AuditConfig(**QUICK, pictures=pictures))
        page = (made.path / "report.html").read_text(encoding="utf-8")
        assert page.count("data:image/jpeg") == (2 if pictures else 0)
        assert "&lt;x&gt;" in page and "<x>" not in page
        assert set(made.card["files"]) == {"audit.json", "report.html"}
    before = json.loads((made.path / "audit-card.json").read_bytes())
    assert audit([web], [benchmark], made.path, AuditConfig(**QUICK, pictures=False)).card == before


@pytest.mark.parametrize(
    ("options", "says"),
    [({"fmr": 1e-3}, "fmr 0.001: is for embeddings"), ({"similarity": 0.5}, "similarity 0.5: is for embeddings")],
)
def test_options_of_embeddings_need_a_model(
    tmp_path: Path, benchmark: Path, options: dict[str, float], says: str
) -> None:
    web = write_training(tmp_path / "web", {})
    with pytest.raises(InputError, match=says):
        audit([web], [benchmark], tmp_path / "out", AuditConfig(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["fmr", "false_findings"])
def test_a_threshold_that_is_given_is_not_chosen_too(tmp_path: Path, benchmark: Path, name: str) -> None:
    web = write_training(tmp_path / "web", {})
    options: dict[str, Any] = {"similarity": 0.5, name: 0.01}
    with pytest.raises(InputError, match=rf"^{name} 0.01: chooses the threshold, and similarity gives it"):
        audit([web], [benchmark], tmp_path / "out", AuditConfig(**options), model=write_model(tmp_path / "model"))


def test_sides_that_cannot_be_compared_are_refused(tmp_path: Path, benchmark: Path) -> None:
    web = write_training(tmp_path / "web", {})
    with pytest.raises(InputError, match="no image to compare with"):
        audit([web], [], tmp_path / "out")
    with pytest.raises(InputError, match="is on both sides"):
        audit([web], [web], tmp_path / "out")
    assert not (tmp_path / "out").exists()
