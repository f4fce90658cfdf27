"""The pipeline in this process: policies, thresholds, what is refused before a network runs."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support import tiny_package
from support.serving import People, png

from eolgul.errors import InputError
from eolgul.model.package import DetectorSettings, EmbeddingContract, ModelPackage
from eolgul.serving.access.keys import Caller
from eolgul.serving.endpoints.body import BodyMemory
from eolgul.serving.endpoints.call import Call
from eolgul.serving.inference.cache import EmbeddingCache
from eolgul.serving.inference.engine import Engine
from eolgul.serving.inference.model import ServedModel
from eolgul.serving.keyring import Keyring
from eolgul.serving.problems import RejectionError
from eolgul.serving.settings import Settings

Build = Callable[..., ServedModel]


@pytest.fixture
def build(tmp_path: Path, detector_folder: Path) -> Build:
    def make(**options: Any) -> ServedModel:
        package = tiny_package.write(tmp_path / str(len(list(tmp_path.iterdir()))), detector_folder, **options)
        return ServedModel(package, Settings(model=package.path))

    return make


@pytest.fixture
def crowd(people: People) -> bytes:
    """Person A large, person B half as large, in one picture."""
    left, right = (Image.open(io.BytesIO(data)).convert("RGB") for data in (people.a1, people.b1))
    picture = Image.new("RGB", (left.width + right.width, left.height), "white")
    picture.paste(left, (right.width // 2, 0))
    picture.paste(right.resize((right.width // 2, right.height // 2)), (0, 0))
    return png(picture)


def test_the_largest_face_is_used(build: Build, people: People, crowd: bytes) -> None:
    model = build()
    alone, among = model.analyse(people.a1)[0], model.analyse(crowd)[0]
    assert (alone.faces, among.faces) == (1, 2)
    assert model.compare(alone.embedding, among.embedding).similarity > 0.97


def test_policy_single_refuses_several(build: Build, people: People, crowd: bytes) -> None:
    model = build(contract=EmbeddingContract(detector=DetectorSettings(which="single")))
    assert model.analyse(people.a1)[0].faces == 1
    with pytest.raises(InputError) as refusal:
        model.analyse(crowd)
    assert refusal.value.code == "several_faces"


def test_every_face_is_what_it_is_alone_the_largest_first(build: Build, people: People, crowd: bytes) -> None:
    model = build(contract=EmbeddingContract(detector=DetectorSettings(which="single")))  # the policy does not matter
    large, small = model.analyse_faces(crowd)[0]
    assert (large.faces, small.faces, large.width) == (2, 2, small.width)
    assert model.compare(large.embedding, model.analyse(people.a1)[0].embedding).similarity > 0.97
    assert large.face.quality["inter_eye_distance"] > 1.5 * small.face.quality["inter_eye_distance"]
    [alone] = model.analyse_faces(people.a1)[0]
    np.testing.assert_allclose(alone.embedding, model.analyse(people.a1)[0].embedding, atol=1e-6)
    assert alone.face == model.analyse(people.a1)[0].face
    with pytest.raises(InputError) as refusal:
        model.analyse_faces(png(Image.new("RGB", (100, 100))))
    assert refusal.value.code == "no_face"


@pytest.mark.parametrize("policy", ["largest", "annotated", "center", "single"])
def test_which_face_is_asked_for_goes_before_the_policy(
    build: Build, people: People, crowd: bytes, policy: Literal["largest", "annotated", "center", "single"]
) -> None:
    """By the endpoints' own path, with an engine and a cache without Redis."""
    model = build(contract=EmbeddingContract(detector=DetectorSettings(which=policy)))
    largest = model.analyse_faces(crowd)[0][0].embedding

    async def outcome(which: Literal["largest", "single"]) -> Any:
        engine = Engine(concurrency=1, waiting=1, max_batch=1)
        cache = EmbeddingCache(None, Keyring.ephemeral(), ttl_s=1)
        state: Any = SimpleNamespace(engine=engine, cache=cache)
        request: Any = SimpleNamespace(receive=asyncio.Event().wait)
        call = Call(request, state, model, Caller("t", "k", frozenset()), BodyMemory().share().__enter__(), 0.0)
        try:
            [one] = await call.analyse_each([("image", crowd)], which)
            uncached = await call.analyse_uncached([("image", crowd)], which) if which == "largest" else [None]
            return one, uncached[0]
        finally:
            engine.close()

    cached, uncached = asyncio.run(outcome("largest"))
    np.testing.assert_allclose(cached[0].embedding, largest, atol=1e-6)
    np.testing.assert_allclose(uncached.embedding, largest, atol=1e-6)
    refused, _ = asyncio.run(outcome("single"))
    assert isinstance(refused, RejectionError) and (refused.code, refused.field) == ("several_faces", "image")


def test_the_threshold_of_the_calibration_decides(build: Build, people: People) -> None:
    strict, lax = build(threshold=1.1), build(threshold=-1.0)
    for model, word in ((strict, "different"), (lax, "same")):
        verdict = model.compare(model.analyse(people.a1)[0].embedding, model.analyse(people.a2)[0].embedding)
        assert verdict.word == word and verdict.same_at_threshold is (word == "same")
        assert verdict.false_match_rate == model.calibration.fmr_at(verdict.similarity)


def test_the_contract_is_honoured(build: Build, people: People) -> None:
    plain = build().analyse(people.a1)[0].embedding
    bgr = build(contract=EmbeddingContract(color="BGR")).analyse(people.a1)[0].embedding
    assert plain @ bgr < 0.995


def test_stages_are_timed(build: Build, people: People) -> None:
    assert set(build().analyse(people.a1)[1]) == {"decode", "detect", "embed"}


def test_a_config_that_contradicts_the_network_is_refused(tmp_path: Path, package: ModelPackage) -> None:
    wrong = ModelPackage(package.artifact, package.backbone, 128, package.contract)
    with pytest.raises(InputError, match="expected 128 as in config"):
        ServedModel(wrong, Settings(model=package.path))


@pytest.mark.parametrize("size", [(41, 6000), (6000, 41), (53, 53)])
def test_odd_sizes_have_no_face_and_do_no_harm(build: Build, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    with pytest.raises(InputError) as refusal:
        build().analyse(png(Image.fromarray(noise)))
    assert refusal.value.code == "no_face"


def test_inside_the_interval_of_the_threshold_nothing_is_decided(build: Build) -> None:
    model = build(threshold=0.5)
    low, high = model.calibration.threshold_interval
    words = [model.judge(value).word for value in (low - 1e-6, low, 0.5, high - 1e-6, high)]
    assert words == ["different", "undecided", "undecided", "undecided", "same"]
    assert [model.judge(value).same_at_threshold for value in (0.4999, 0.5)] == [False, True]
    verdict = model.judge(0.6)
    assert verdict.false_match_rate is not None and verdict.false_match_rate_interval is not None
    below, above = verdict.false_match_rate_interval
    assert below <= verdict.false_match_rate <= above


def test_the_rule_of_quality_can_be_switched_off(tmp_path: Path, detector_folder: Path, people: People) -> None:
    package = tiny_package.write(tmp_path / "one", detector_folder, region=tiny_package.REGION)
    poor = png(Image.open(io.BytesIO(people.a1)).convert("RGB").filter(ImageFilter.GaussianBlur(5)))
    kept = []  # as the cache has them when the setting changes
    for on in (True, False):
        model = ServedModel(package, Settings(model=package.path, quality_rule=on))
        assert model.quality_rule == ("on" if on else "off")
        kept.append(model.analyse(poor)[0])
        face = kept[-1].face
        assert face.reasons == (("blurred",) if on else ())
        assert all(model.judge_quality(analysis).face == face for analysis in kept)
        verdict = model.judge(1.0, {"image1": face.reasons, "image2": ()})
        assert verdict.word == ("undecided" if on else "same") and (verdict.false_match_rate is None) == on


def test_reasons_of_both_photos_come_most_severe_first(build: Build) -> None:
    verdict = build().judge(0.99, {"image1": ("blurred", "too_dark"), "image2": ("face_cut",)})
    assert verdict.reasons == (("image2", "face_cut"), ("image1", "blurred"), ("image1", "too_dark"))
    assert verdict.same_at_threshold and verdict.word == "undecided"
