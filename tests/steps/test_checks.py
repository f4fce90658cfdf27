"""The first task of a run: everything that is wrong, at once, before hours of work."""

from __future__ import annotations

import inspect
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from support.components import run_component

from eolgul import storage
from eolgul.components.promote.check import check
from eolgul.errors import InputError
from eolgul.pipelines.face_recognition import face_recognition
from eolgul.registry.signing import SigningKey
from eolgul.steps import checks


def given(tmp_path: Path, **other: Any) -> dict[str, Any]:
    """The pipeline's defaults, with places of this machine."""
    (tmp_path / "raw" / "kim").mkdir(parents=True, exist_ok=True)
    (tmp_path / "raw" / "kim" / "1.jpg").write_bytes(b"jpeg")
    defaults = {name: item.default for name, item in face_recognition.component_spec.inputs.items()}
    taken = inspect.signature(check.python_func).parameters
    words = {name: value for name, value in defaults.items() if name in taken}
    places = {"workspace": str(tmp_path / "w"), "registry": str(tmp_path / "registry"), "benchmarks": []}
    places |= {"pipeline": "face-recognition", "run": "first"}
    return {**words, **places, "sources": [str(tmp_path / "raw")], **other}


def test_a_run_with_nothing_wrong_is_told_what_it_will_do(tmp_path: Path) -> None:
    ran = run_component(check, tmp_path / "out", **given(tmp_path))
    assert ran.outputs == {
        "sources": [str(tmp_path / "raw")],
        "model": "",
        "uri": "",
        "pod_gpus": "1",
        "parts": ["1/1"],
    }
    plan = ran.files["plan"].read_text()
    for said in ("## What will run", "irse50-ms1m-kface (irse50", "mobilefacenet-ms1m-kface (mobilefacenet", "1 files",
                 "read, write and write-if-absent work", "no model in production yet", "a promoted model is not signed",
                 "disk of a pod", "on one GPU"):  # fmt: skip
        assert said in plan, said
    assert not list((tmp_path / "w").rglob("check-*"))


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EOLGUL_POD_LIMITS", '{"shm": 67108864, "scratch": 1000000}')
    monkeypatch.setenv("EOLGUL_SIGNING_KEY_FILE", str(tmp_path / "no-key"))
    words = given(
        tmp_path,
        align_which="biggest",
        evaluate_fmr=7.0,
        promote_require=["great"],
        train_recipes=["iresnet50-ms1m"],
        train_workers=4,
        sources=[str(tmp_path / "raw"), str(tmp_path / "nowhere")],
        extract_identities=str(tmp_path / "people.txt"),
    )
    with pytest.raises(InputError) as raised:
        run_component(check, tmp_path / "out", **words)
    sentence = str(raised.value)
    for said in ("which 'biggest': expected one of", "fmr 7.0: expected", "nowhere: nothing there", "great",
                 "people.txt: nothing there", "MB of /dev/shm, a pod has 67 MB", "no-key: the signing key"):  # fmt: skip
        assert said in sentence, (said, sentence)
    assert "things are wrong" in (tmp_path / "out" / "plan").read_text()


@pytest.mark.parametrize(
    ("recipes", "overrides", "says"),
    [
        (["irse5"], [], "recipe 'irse5': expected a .toml file or one of"),
        ([], [], "names no recipe"),
        (["demo", "demo"], [], "demo is named twice"),
        (["demo"], ["epochz=3"], "unknown key 'epochz'"),
    ],
)
def test_a_wrong_recipe_is_found_before_anything_is_made(
    tmp_path: Path, recipes: list[str], overrides: list[str], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        run_component(check, tmp_path / "out", **given(tmp_path, train_recipes=recipes, train_overrides=overrides))


def test_the_need_for_shared_memory_is_the_loaders() -> None:
    from eolgul.train import loader
    from eolgul.train.recipe import Recipe

    recipe = Recipe.load("demo")
    need = checks.shared_memory_of(recipe, 4)
    assert need == recipe.batch_size * 3 * 112 * 112 * (4 * loader._AHEAD + 2)
    assert checks.shared_memory_of(recipe, 0) == 0


def test_rights_in_s3(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.rights(f"{s3}/rights") == "read, write and write-if-absent work"
    assert not storage.exists(f"{s3}/rights")

    def careless(uri: str, data: bytes) -> bytes:
        storage.write_bytes(uri, data)
        return data

    monkeypatch.setattr(checks.storage, "put_if_absent", careless)
    with pytest.raises(InputError, match="this S3 replaces an object in spite of If-None-Match"):
        checks.rights(f"{s3}/rights")


def test_what_a_killed_check_has_left_is_removed_by_a_later_one(s3: str) -> None:
    now, folder = int(time.time()), f"{s3}/left/making"
    old, young = (f"check-{begun}-{uuid.uuid4().hex}" for begun in (now - 2 * 3600, now - 60))
    for name in (old, young, "0123.json"):  # the last one is a lease
        storage.write_bytes(f"{folder}/{name}", b"first")
    checks.rights(f"{s3}/left")
    assert sorted(storage.list_names(folder)) == ["0123.json", young]  # another run's check may write the young one now


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"gpus": 4, "nodes": 1, "device": "auto"}, "4"),
        ({"gpus": 4, "nodes": 2, "device": "auto"}, "0"),  # the nodes' pods have them
        ({"gpus": 1, "nodes": 1, "device": "cpu"}, "0"),
    ],
)
def test_a_pod_asks_for_the_gpus_that_it_uses(tmp_path: Path, options: dict[str, Any], asked: str) -> None:
    words = given(tmp_path, **{f"train_{name}": value for name, value in options.items()})
    assert run_component(check, tmp_path / "out", **words).outputs["pod_gpus"] == asked


def test_a_key_is_used_where_one_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EOLGUL_SIGNING_KEY_FILE", raising=False)
    monkeypatch.setenv("EOLGUL_SIGNING_FOLDER", str(tmp_path))
    assert checks.signing().startswith("none")
    key = SigningKey.new(tmp_path / "key")
    assert checks.signing() == f"signs with {key.key_id}"
