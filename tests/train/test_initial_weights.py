"""Fine-tuning: a run begins with another model's weights, sees faces as it did, and says so; what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.datasets import make_dataset
from support.training import TinyNet, tiny, write_assembled

from eolgul.artifact import Artifact, canonical_json, open_artifact, seal, writing
from eolgul.errors import InputError
from eolgul.images.decode import encode_png
from eolgul.model.package import EmbeddingContract, ModelPackage
from eolgul.model.provenance import Provenance
from eolgul.promote.step import promote
from eolgul.train.backbones import build, epsilon_of, set_epsilon
from eolgul.train.config import TrainConfig
from eolgul.train.head_rows import HEAD_FILE, hashed, read_head
from eolgul.train.initial_weights import read_initial
from eolgul.train.loop import train
from eolgul.train.optim import learning_rate
from eolgul.train.package import write_network
from eolgul.train.recipe import Recipe

Train = Callable[..., tuple[Artifact, list[dict[str, Any]]]]
FROZEN = ["backbone=init", "freeze_epochs=2"]


def fit(data: Path, out: Path, *options: str, **more: Any) -> tuple[Artifact, list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    made = train(data, out, recipe=tiny(*options), report=rows.append, workers=0, **more)
    assert made is not None
    return made, rows


def facts_of(made: Artifact) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((made.path / "training.json").read_text())
    return facts


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Other people than the toy's, of colours that are close together: four to train on and four to validate with."""
    colours = {"p": (190, 150, 60), "q": (60, 150, 190), "r": (120, 190, 60), "s": (190, 60, 130),
               "t": (150, 120, 80), "u": (80, 120, 150), "v": (110, 150, 90), "w": (150, 90, 120)}  # fmt: skip
    return write_assembled(tmp_path / "few", colours, np.random.default_rng(9), validation=("t", "u", "v", "w"))


def package(out: Path, contract: EmbeddingContract, network: torch.nn.Module | None = None, size: int = 16) -> Path:
    """A package of a tiny network, as an import makes it."""
    torch.manual_seed(1)
    network = (network or TinyNet(size)).eval()
    with writing(out) as folder:
        probe = np.random.default_rng(0).normal(size=(4, 3, 112, 112)).astype(np.float32)
        write_network(network, folder, backbone="tiny", embedding_size=size, contract=contract, probe=probe)
        (folder / "training.json").write_bytes(canonical_json({}))
        seal(folder, "ModelPackage", step="import", version=1, recipe={}, inputs=[], contents={}, synthetic=False)
    return out


def patterns(out: Path, train: int, validation: int, seed: int) -> Path:
    """People as faint 4x4 patterns under noise and casts of colour: too hard to learn in a few steps."""
    with make_dataset(out, step="assemble", recipe={}, inputs=[], synthetic=True) as writer:
        for person in range(train + validation):
            pattern = np.kron(np.random.default_rng((seed, person)).normal(0, 28, (4, 4, 3)), np.ones((28, 28, 1)))
            rng = np.random.default_rng((seed, person, 1))
            for image in range(12):
                face = 128 + pattern + rng.normal(0, 25, (112, 112, 3)) + rng.normal(0, 20, 3)
                name, data = f"t{seed}.p{person}", encode_png(np.clip(face, 0, 255).astype(np.uint8))
                writer.add(f"{name}/{image}", name, data, extension="png", size=(112, 112), source=f"t{seed}",
                           facts={"split": "train" if person < train else "validation"})  # fmt: skip
        writer.describe(name="assembled", identities_known=True, aligned="arcface-112-v1", detector=None, splits={})
    return out


def test_a_fine_tuned_model_is_better_than_one_from_scratch_at_equal_steps(tmp_path: Path) -> None:
    """Six steps on six people: over seeds 0, 1, 2 the difference in AUC is 0.14, 0.17, 0.12."""
    many, few = patterns(tmp_path / "many", 24, 4, seed=1), patterns(tmp_path / "few", 6, 8, seed=2)
    base, _ = fit(many, tmp_path / "base" / "model", "epochs=10")
    short = ["epochs=2", "margin_warmup_epochs=0"]
    scratch, _ = fit(few, tmp_path / "scratch" / "model", *short)
    tuned, _ = fit(few, tmp_path / "tuned" / "model", *short, "backbone=init", init=base.path)
    one, other = (facts_of(made)["curve"][-1]["validation"] for made in (scratch, tuned))
    assert other["auc"] > one["auc"] + 0.08 and other["accuracy"] > one["accuracy"] + 0.05


def test_frozen_epochs_change_nothing_of_the_network(
    toy: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eolgul.train import validate

    base, _ = fit(toy, tmp_path / "base" / "model")
    began = load_file(base.path / "model.safetensors")
    seen: list[dict[str, torch.Tensor]] = []
    embed = validate.Validation.embed

    def watch(self: validate.Validation, network: torch.nn.Module, device: torch.device) -> Any:
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        return embed(self, network, device)

    monkeypatch.setattr(validate.Validation, "embed", watch)
    for options in ([], ["optimizer=adamw", "learning_rate=0.003", "ema=0.5"], ["sample=0.6", "precision=bf16"]):
        seen.clear()
        _, rows = fit(few, tmp_path / f"tuned{len(options)}" / "model", *FROZEN, *options, init=base.path)
        same = [all(torch.equal(began[name], state[name]) for name in began) for state in seen]
        assert same == [True, True, False, False]
        moved = [name for name in began if not torch.equal(began[name], seen[-1][name])]
        assert {"features.1.running_mean", "features.1.running_var", "out.2.weight"} <= set(moved)
        losses = [row["train_loss"] for row in rows if "validation" in row]
        assert losses[1] < losses[0]  # the head learns meanwhile


def test_the_rate_while_frozen_and_after() -> None:
    recipe = Recipe.load("finetune-kface")
    assert (recipe.backbone, recipe.freeze_epochs, recipe.warmup_epochs) == ("init", 1.0, 1.0)
    rates = [learning_rate(recipe, place) for place in (0.0, 0.99, 1.0, 1.5, 2.0, 8.0)]
    assert rates == pytest.approx([0.01, 0.01, 1e-4, 0.00505, 0.01, 0.0], abs=1e-9)


def test_what_a_run_began_with_is_in_the_card_and_makes_another_run(toy: Path, few: Path, tmp_path: Path) -> None:
    base, _ = fit(toy, tmp_path / "base" / "model", "epochs=1")
    other, _ = fit(toy, tmp_path / "other" / "model", "epochs=2")
    made, _ = fit(few, tmp_path / "model", "backbone=init", "epochs=1", init=base.path)
    assert made.card["inputs"][1] == {"kind": "ModelPackage", "digest": base.digest}
    facts = facts_of(made)
    tensors = len(load_file(base.path / "model.safetensors"))
    assert facts["init"] == {
        "kind": "ModelPackage", "digest": base.digest, "color": "RGB", "tensors": tensors,
        "head_rows": {"taken": 0, "new": 4, "left": 0},
    }  # fmt: skip
    assert facts["recipe"]["backbone"] == "tiny" and facts["recipe"]["embedding_size"] == 16
    card = (made.path / "CARD.md").read_text()
    assert base.digest in card and "Fine-tuned" in card and "frozen" not in card
    again, rows = fit(few, tmp_path / "model", "backbone=init", "epochs=1", init=base.path)
    assert (again.digest, rows) == (made.digest, [])
    changed, rows = fit(few, tmp_path / "model", "backbone=init", "epochs=1", init=other.path)
    assert changed.digest != made.digest
    assert next(row["note"] for row in rows if "note" in row).startswith(
        f"starting afresh, because the run begins with ModelPackage {other.digest[:12]} (there ModelPackage {base.digest[:12]})"
    )


@pytest.mark.parametrize("stops", [[1], [7, 6], [13, 2]])
def test_a_fine_tuning_that_was_stopped_ends_bit_identical(
    toy: Path, few: Path, tmp_path: Path, stops: list[int]
) -> None:
    base, _ = fit(toy, tmp_path / "base" / "model", "keep_head=true", "epochs=2")
    options = [*FROZEN, "keep_head=true"]
    straight, _ = fit(few, tmp_path / "straight" / "model", *options, init=base.path)
    out = tmp_path / "pieces" / "model"
    for steps in stops:
        assert train(few, out, recipe=tiny(*options), init=base.path, workers=0, max_steps=steps) is None
    pieces, _ = fit(few, out, *options, init=base.path)
    assert pieces.digest == straight.digest


@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_faces_are_seen_as_the_first_model_sees_them(few: Path, tmp_path: Path, color: str) -> None:
    """Frozen, the model is the one that it began with, so every figure is, too, when colours are in its order."""
    contract = EmbeddingContract(color=color, mean=100.0, std=80.0, flip="none")
    base = package(tmp_path / "base", contract)
    made, _ = fit(few, tmp_path / "model", "backbone=init", "freeze_epochs=1", "epochs=2", "patience=1", init=base)
    opened = ModelPackage.open(made.path)
    assert replace(opened.contract, detector=contract.detector) == contract
    card = (made.path / "CARD.md").read_text()
    assert f"{color} faces" in card and "The embedding of the image (flip: none)" in card
    summed, _ = fit(few, tmp_path / "s" / "model", "backbone=init", "epochs=1", "embed_flip=sum", init=base)
    assert ModelPackage.open(summed.path).contract == replace(opened.contract, flip="sum")
    first = facts_of(made)["curve"][0]["validation"]
    swapped = package(tmp_path / "swapped", replace(contract, color="RGB" if color == "BGR" else "BGR"))
    other, _ = fit(few, tmp_path / "o" / "model", "backbone=init", "freeze_epochs=1", "epochs=2", init=swapped)
    assert facts_of(other)["curve"][0]["validation"]["loss"] != first["loss"]


def test_head_rows_of_the_same_people_are_taken(toy: Path, tmp_path: Path) -> None:
    base, _ = fit(toy, tmp_path / "base" / "model", "keep_head=true")
    assert HEAD_FILE in base.card["files"] and "by keep_head" in (base.path / "CARD.md").read_text()
    kept = read_head(base.path)
    assert set(kept.places) == {hashed(f"toy.{name}") for name in ("red", "green", "blue", "white", "dark", "yellow")}
    assert not any(name in (base.path / HEAD_FILE).read_bytes().decode("latin-1") for name in ("toy.red", "yellow"))
    colours = {"red": (200, 60, 60), "blue": (60, 60, 200), "dark": (40, 40, 40), "a": (60, 200, 200), "b": (9, 99, 9)}
    data = write_assembled(tmp_path / "more", colours, np.random.default_rng(3), validation=("a", "b"))
    options = ["epochs=2", "freeze_epochs=1", "backbone=init", "margin_warmup_epochs=0"]
    with_rows, rows = fit(data, tmp_path / "rows" / "model", *options, "init_head=true", init=base.path)
    _, others = fit(data, tmp_path / "none" / "model", *options, init=base.path)
    assert facts_of(with_rows)["init"]["head_rows"] == {"taken": 3, "new": 0, "left": 3}
    first, second = (next(row["train_loss"] for row in found if "validation" in row) for found in (rows, others))
    assert first < second  # they are known from the first step on


def test_head_rows_go_to_the_right_people(toy: Path, tmp_path: Path) -> None:
    from eolgul.train.head import Head
    from eolgul.train.margins import Margin

    base, _ = fit(toy, tmp_path / "base" / "model", "keep_head=true", "epochs=1")
    initial = read_initial(base.path)
    assert initial.head is not None
    head = Head(16, 3, Margin())
    before = head.weight.detach().clone()
    initial.fill(head, ["toy.yellow", "toy.nobody", "toy.blue"])
    places = initial.head.places
    assert torch.equal(head.weight[0], initial.head.weight[places[hashed("toy.yellow")]])
    assert torch.equal(head.weight[1], before[1])
    assert torch.equal(head.weight[2], initial.head.weight[places[hashed("toy.blue")]])
    with pytest.raises(InputError, match=r"1 centres per identity there, 2 in the recipe; set centers=1"):
        initial.fill(Head(16, 3, Margin(), centers=2), ["toy.yellow", "b", "c"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["backbone=mobilefacenet"], "is a tiny with embeddings of 16, the recipe wants a mobilefacenet"),
        (["embedding_size=8"], "with embeddings of 16, the recipe wants a tiny of 8; set backbone=init"),
        (
            ["backbone=init", "embedding_size=8"],
            "embedding_size is 8, but the model given by --init has embeddings of 16",
        ),
        (["backbone=init", "init_head=true"], "holds no rows of its head; train it with keep_head=true"),
    ],
)
def test_what_does_not_fit_is_refused(few: Path, tmp_path: Path, options: list[str], says: str) -> None:
    base = package(tmp_path / "base", EmbeddingContract())
    with pytest.raises(InputError, match=says):
        fit(few, tmp_path / "model", *options, init=base)
    assert not (tmp_path / "model").exists()


def test_rows_of_nobody_here_are_refused(toy: Path, few: Path, tmp_path: Path) -> None:
    base, _ = fit(toy, tmp_path / "base" / "model", "keep_head=true", "epochs=1")
    with pytest.raises(InputError, match="none of the 4 training identities is one of the 6"):
        fit(few, tmp_path / "model", "backbone=init", "init_head=true", init=base.path)


@pytest.mark.parametrize("option", ["backbone=init", "freeze_epochs=1", "init_head=true"])
def test_keys_of_fine_tuning_need_a_start(toy: Path, tmp_path: Path, option: str) -> None:
    with pytest.raises(InputError, match=f"recipe: {option.partition('=')[0]}.* is for fine-tuning"):
        fit(toy, tmp_path / "model", option)


def test_another_alignment_is_refused(few: Path, tmp_path: Path) -> None:
    base = package(tmp_path / "base", EmbeddingContract(template="box-112-v1"))
    with pytest.raises(InputError, match=r"sees faces aligned to box-112-v1, but .* is aligned to arcface-112-v1"):
        fit(few, tmp_path / "model", "backbone=init", init=base)


def test_a_model_states_the_alignment_that_it_learned_from(few: Path, tmp_path: Path) -> None:
    """And the service, which has one alignment, does not take a model of another."""
    card = few / "dataset.json"
    card.write_text(card.read_text().replace("arcface-112-v1", "box-112-v1"))
    made, _ = fit(few, tmp_path / "model", "epochs=1")
    package = ModelPackage.open(made.path)
    assert package.contract.template == "box-112-v1"
    assert "aligned to `box-112-v1`" in (made.path / "CARD.md").read_text()
    with pytest.raises(
        InputError, match=r"sees faces aligned to box-112-v1, but the service aligns them to arcface-112-v1"
    ):
        package.check_served()
    with pytest.raises(InputError, match="sees faces aligned to box-112-v1"):
        promote(made.path, tmp_path / "evaluation", str(tmp_path / "registry"))
    assert not (tmp_path / "registry").exists()


def test_the_epsilon_of_batch_norms_is_kept(few: Path, tmp_path: Path) -> None:
    """MagFace's is twice torch's, and the parameters do not hold it."""
    network = TinyNet(16)
    set_epsilon(network, 0.5)
    base = package(tmp_path / "base", EmbeddingContract(), network)
    assert epsilon_of(read_initial(base).network()) == 0.5
    made, _ = fit(few, tmp_path / "model", "backbone=init", "epochs=1", init=base)
    assert epsilon_of(read_initial(made.path).network()) == 0.5
    # An import of an older version names the project alone.
    with writing(tmp_path / "older") as folder:
        shutil.copytree(base, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        config = json.loads((base / "config.json").read_text())
        del config["batch_norm_epsilon"]
        (folder / "config.json").write_bytes(canonical_json(config))
        seal(folder, "ModelPackage", step="import", version=2, recipe={"layout": "magface"}, inputs=[], contents={},
             synthetic=False)  # fmt: skip
    assert epsilon_of(read_initial(tmp_path / "older").network()) == 2e-5


def test_places_that_are_no_start(few: Path, tmp_path: Path) -> None:
    base = package(tmp_path / "base", EmbeddingContract(color="BGR"))
    with pytest.raises(InputError, match=r"init_color RGB: .* says itself that it was trained on BGR"):
        read_initial(base, "RGB")
    with pytest.raises(InputError, match="is part of a ModelPackage; give its folder"):
        read_initial(base / "model.safetensors")
    with pytest.raises(InputError, match="is a FaceDataset, expected a ModelPackage"):
        read_initial(few)
    with pytest.raises(InputError, match="no such file"):
        read_initial(tmp_path / "nothing.pth")
    with pytest.raises(InputError, match="init_color RGB: is only for --init"):
        TrainConfig(init_color="RGB")
    with pytest.raises(InputError, match="init_color 'rbg': expected RGB or BGR"):
        TrainConfig(init="x", init_color="rbg")


def test_drawn_people_stay_marked(few: Path, tmp_path: Path, assembled_writer: Callable[..., Path]) -> None:
    """The toy says that it is drawn; what is fine-tuned on photos from a model of it is still synthetic."""
    base, _ = fit(few, tmp_path / "base" / "model", "epochs=1")
    assert read_initial(base.path).synthetic
    card = json.loads((few / "dataset.json").read_text())
    card["synthetic"] = False
    (few / "dataset.json").write_bytes(canonical_json(card))
    assert not open_artifact(few).synthetic
    made, _ = fit(few, tmp_path / "model", "epochs=1", "backbone=init", init=base.path)
    assert made.synthetic


def test_a_weights_file_finds_its_network(tmp_path: Path) -> None:
    network = build("iresnet18", 128)
    save_file(
        {f"module.{name}": value.contiguous() for name, value in network.state_dict().items()},
        tmp_path / "a.safetensors",
    )
    found = read_initial(tmp_path / "a.safetensors")
    assert (found.backbone, found.embedding_size, found.contract.color) == ("iresnet18", 128, "RGB")
    assert "taken for arcface_torch's" in found.doubt and "magface's have" in found.doubt
    assert found.reference["kind"] == "Weights"
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in found.network().state_dict().items())
    torch.save(build("mobilefacenet", 64).state_dict(), tmp_path / "b.pth")
    with pytest.raises(InputError, match="--init-color"):
        read_initial(tmp_path / "b.pth")
    found = read_initial(tmp_path / "b.pth", "BGR")
    assert (found.backbone, found.embedding_size, found.contract.color) == ("mobilefacenet", 64, "BGR")
    with pytest.raises(InputError, match=r"b\.pth"):
        read_initial(tmp_path / "b.pth", "BGR", backbone="irse50")


def test_the_past_of_the_start_is_the_models_past_too(toy: Path, few: Path, tmp_path: Path) -> None:
    """Known people of the first training stay known; of weights with an unknown past it stays unknown."""
    base, _ = fit(toy, tmp_path / "base" / "model", "epochs=1")
    first = Provenance.read(base.path)
    assert first is not None and first.complete and first.datasets == (open_artifact(toy).digest,)
    made, _ = fit(few, tmp_path / "tuned" / "model", "backbone=init", "epochs=1", init=base.path)
    both = Provenance.read(made.path)
    assert both is not None and both.complete
    assert both.datasets == tuple(sorted([open_artifact(toy).digest, open_artifact(few).digest]))
    assert np.isin(first.images, both.images).all() and both.knows_people(["toy.p", "toy.q"], "").all()
    assert not both.knows_people(["toy.t"], "").any(), "validation people are not learned from"
    assert facts_of(made)["learned_from"] == both.facts() == made.contents["learned_from"]

    unknown = package(tmp_path / "imported", EmbeddingContract())
    made, _ = fit(few, tmp_path / "half" / "model", "backbone=init", "epochs=1", init=unknown)
    half = Provenance.read(made.path)
    assert half is not None and not half.complete and half.datasets == (open_artifact(few).digest,)
    assert "is unknown in part or whole" in (made.path / "CARD.md").read_text()
