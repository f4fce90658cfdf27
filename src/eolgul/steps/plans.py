"""The first task of each pipeline: what can be known to be wrong before anything is made, and what was found for the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eolgul.align.config import AlignConfig
from eolgul.assemble.config import AssembleConfig
from eolgul.errors import InputError
from eolgul.evaluate.config import EvaluateConfig
from eolgul.extract.config import ExtractConfig
from eolgul.model.contracts import find_contract
from eolgul.promote.config import PromoteConfig
from eolgul.steps import checks
from eolgul.steps.checks import Checked
from eolgul.steps.lookup import parents
from eolgul.steps.places import card_of, reference, split_reference
from eolgul.steps.registry import find_model
from eolgul.steps.tasks import local_contract, recipe_name
from eolgul.train.config import TrainConfig
from eolgul.train.recipe import AS_INIT

Options = Mapping[str, Mapping[str, Any]]
_MOST_PARTS = 1000
_WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt")
_SPLIT = ("validation", "calibration", "test", "most_held_out", "held_out_sources", "seed")


@dataclass(frozen=True, slots=True)
class Given:
    """The parameters of a run that are no options of a step; "" and () where the pipeline has none.

    Attributes:
        workspace: Where the artifacts go.
        registry: The model registry.
        sources: What to learn from.
        benchmarks: The benchmarks.
        recipes: The candidates' recipes.
        model: The model to measure or to promote, as `find_model` takes it.
        dataset: An assembled FaceDataset.
        evaluation: The model's Evaluation.
        to: The model to roll back to.
    """

    workspace: str
    registry: str
    sources: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    model: str = ""
    dataset: str = ""
    evaluation: str = ""
    to: str = ""


def check(pipeline: str, options: Options, given: Given) -> Checked:
    """Check the parameters of a run of a pipeline.

    Args:
        pipeline: Its name.
        options: The parameters of each step by their component's names.
        given: The other parameters.

    Raises:
        InputError: There is no such pipeline; what is wrong with a run is in the result.
    """
    try:
        plan = _PLANS[pipeline]
    except KeyError as error:
        raise InputError(f"pipeline {pipeline!r}: expected one of {', '.join(_PLANS)}") from error
    return plan(options, given)


def _whole(options: Options, given: Given) -> Checked:
    shared_memory, scratch = checks.limits()
    checked = checks.check_run(
        options,
        workspace=given.workspace,
        registry=given.registry,
        sources=given.sources,
        benchmarks=given.benchmarks,
        recipes=given.recipes,
        shared_memory=shared_memory,
        scratch=scratch,
    )
    for step in ("extract", "align"):
        checked.attempt(f"{step}_parts", lambda step=step: _parts(step, options[step]))  # type: ignore[misc]
    checked.sources = list(given.sources)
    return checked


def _parts(step: str, given: Mapping[str, Any]) -> str:
    if not 1 <= given["parts"] <= _MOST_PARTS:
        raise InputError(f"{step}_parts {given['parts']}: expected 1 to {_MOST_PARTS}")
    return f"{given['parts']} beside one another"


def _retrain(options: Options, given: Given) -> Checked:
    earlier: list[str] = []
    model, init = Checked(), str(options["train"]["init"])

    def data() -> str:
        earlier.extend(parents(given.dataset, given.workspace))
        return _same_split(options["assemble"], given.dataset) + f", of {len(earlier)} data sets"

    model.attempt(f"data set {given.dataset}", data)
    if not given.sources:
        model.attempt("sources", lambda: _missing("sources: names no source of new people"))
    if init:
        model.attempt(f"weights {init}", lambda: _weights(model, options, given))
    resolved = {**options, "train": {**options["train"], "init": model.model}}
    sources = (*earlier, *given.sources)
    whole = _whole(resolved, Given(given.workspace, given.registry, sources, given.benchmarks, given.recipes))
    whole.lines[:0], whole.wrong[:0] = model.lines, model.wrong
    whole.model = model.model
    return whole


def _missing(sentence: str) -> str:
    raise InputError(sentence)


def _same_split(given: Mapping[str, Any], dataset: str) -> str:
    """Refuse another split than the data set's: people who were trained on would be among those held out."""
    card = card_of(dataset)
    recipe = dict(card.card["recipe"])
    wanted = AssembleConfig.from_parameters(given).to_recipe()
    if not recipe["held_out_sources"] and wanted["held_out_sources"] == sorted(card.contents["sources"]):
        recipe["held_out_sources"] = wanted["held_out_sources"]  # all there were
    for name in _SPLIT:
        if recipe.get(name) != wanted[name]:
            raise InputError(
                f"assemble_{name} {wanted[name]}: the data set was assembled with {recipe.get(name)}; people that models have "
                "learned from would be held out"
            )
    return "keeps its split"


def _weights(checked: Checked, options: Options, given: Given) -> str:
    """Find the model that the training begins with, and refuse recipes for another network."""
    init = str(options["train"]["init"])
    if init.endswith(_WEIGHTS):
        checked.model = init
        return checks.there(init)
    checked.model = find_model(init, given.registry)
    network = str(card_of(checked.model).contents.get("backbone", ""))
    for recipe in given.recipes:
        wanted = TrainConfig.from_parameters({**options["train"], "recipe": recipe, "init": init}).load_recipe()
        if network and wanted.backbone not in (AS_INIT, network):
            raise InputError(
                f"train_recipes: {recipe_name(recipe)} trains {wanted.backbone}, but the weights of train_init {init} are of "
                f"{network}"
            )
    return f"{checked.model}, {network}"


def _evaluation(options: Options, given: Given) -> Checked:
    checked = Checked()
    checked.options("extract", ExtractConfig, options)
    checked.options("align", AlignConfig, options)
    checked.attempt("options of evaluate", lambda: _measuring(options["evaluate"], given))
    checked.attempt(f"workspace {given.workspace}", lambda: checks.rights(given.workspace))
    checked.attempt(f"model {given.model}", lambda: _find(checked, given))
    if given.dataset:
        checked.attempt(f"data set {given.dataset}", lambda: _assembled(given.dataset))
    sizes: dict[str, tuple[int, int]] = {}
    checked.places(given.benchmarks, sizes)
    for place in (*options["extract"]["benchmark_pairs"], options["extract"]["benchmark_identities"]):
        if place:
            checked.attempt(place, lambda place=place: checks.there(place))  # type: ignore[misc]
    checked.attempt(
        "disk of a pod", lambda: checks.disk(sizes, sum(item[0] for item in sizes.values()), checks.limits()[1])
    )
    return checked


def _find(checked: Checked, given: Given) -> str:
    checked.model = find_model(given.model, given.registry)
    return checked.model


def _measuring(given: Mapping[str, Any], places: Given) -> str:
    config = EvaluateConfig.from_parameters(given)
    config.check_uses(people=bool(places.dataset))
    if config.contract and not places.model.endswith(".onnx"):
        raise InputError(
            f"evaluate_contract {config.contract}: is only for an .onnx file; a ModelPackage holds its own"
        )
    if config.contract:
        find_contract(local_contract(config.contract))
    if given.get("audit") and (not places.dataset or places.model.endswith(".onnx")):
        raise InputError("evaluate_audit: is only for a ModelPackage with a dataset, whose training split is searched")
    if not places.dataset and not places.benchmarks:
        raise InputError("benchmarks: names none and there is no dataset, so that there is nothing to measure on")
    return "accepted"


def _assembled(dataset: str) -> str:
    card = card_of(dataset)
    if card.kind != "FaceDataset" or "splits" not in card.contents:
        raise InputError(f"{dataset}: is not an assembled FaceDataset")
    return f"{card.contents['images']:,} images"


def _promotion(options: Options, given: Given) -> Checked:
    checked = Checked()
    checked.options("promote", PromoteConfig, options)
    checked.options("evaluate", EvaluateConfig, options)
    checked.attempt(f"workspace {given.workspace}", lambda: checks.rights(given.workspace))
    checked.attempt(f"registry {given.registry}", lambda: checks.in_registry(given.registry))
    checked.attempt("signing key", checks.signing)
    checked.attempt(f"model {given.model}", lambda: _find(checked, given))
    checked.attempt(f"evaluation {given.evaluation}", lambda: _of_model(checked.model, given.evaluation))
    if given.dataset:
        checked.attempt(f"data set {given.dataset}", lambda: _assembled(given.dataset))
    elif given.benchmarks:
        checked.attempt("benchmarks", lambda: _missing("benchmarks: are for a dataset, and none is given"))
    return checked


def _of_model(model: str, evaluation: str) -> str:
    card = card_of(evaluation)
    if card.kind != "Evaluation":
        raise InputError(f"{evaluation}: is a {card.kind}, expected an Evaluation")
    digest = split_reference(model)[1]
    if digest and digest not in [item["digest"] for item in card.card["inputs"]]:
        raise InputError(f"{evaluation}: evaluates another model than {digest[:12]}")
    return "of this model"


def _roll_back(options: Options, given: Given) -> Checked:
    from eolgul.promote.step import earlier_digest
    from eolgul.registry.store import model_uri

    checked = Checked()
    checked.attempt(f"workspace {given.workspace}", lambda: checks.rights(given.workspace))
    checked.attempt(f"registry {given.registry}", lambda: checks.in_registry(given.registry))
    checked.attempt("signing key", checks.signing)

    def back() -> str:
        digest = earlier_digest(given.registry, given.to)
        checked.model = reference(model_uri(given.registry, digest), digest)
        card_of(checked.model)
        return digest

    checked.attempt(f"back to {given.to}", back)
    return checked


_PLANS: Mapping[str, Callable[[Options, Given], Checked]] = {
    "face-recognition": _whole,
    "retrain": _retrain,
    "evaluate-only": _evaluation,
    "promote": _promotion,
    "roll-back": _roll_back,
}
