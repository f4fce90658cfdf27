"""What the Kubeflow components do: each step for all sources of a run, with the artifacts of the workspace's store.

Inputs and results are references (`place#sha256:<digest>`). What was made before from the same inputs with the same
options is found by its key, without fetching anything.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from eolgul import storage
from eolgul.align.config import AlignConfig
from eolgul.artifact import Artifact, canonical_json
from eolgul.assemble.config import AssembleConfig
from eolgul.audit.config import AuditConfig
from eolgul.config import parse_part
from eolgul.errors import InputError
from eolgul.evaluate.config import EvaluateConfig
from eolgul.evaluation.schema import Metrics
from eolgul.extract.config import WITH_PEOPLE, ExtractConfig
from eolgul.files import sha256_bytes
from eolgul.model.contracts import find_contract
from eolgul.steps import data, models
from eolgul.steps.places import (
    Facts,
    bring,
    card_of,
    find_card,
    found_facts,
    place_of,
    places_of,
    reference,
    split_reference,
    stamp,
)
from eolgul.steps.progress import MinuteLines
from eolgul.steps.sources import Extraction, check_lists, find_kind, plan_extraction
from eolgul.steps.store import SHORT, Job, Store
from eolgul.train.config import VERSION as TRAINING
from eolgul.train.config import TrainConfig

Say = Callable[[str], None]


def extract_all(
    store: Store,
    sources: Sequence[str],
    benchmarks: Sequence[str],
    config: ExtractConfig,
    *,
    benchmark_pairs: Sequence[str] = (),
    benchmark_selection: str | None = None,
    benchmark_identities: str | None = None,
    parts: Sequence[Sequence[str]] = (),
) -> tuple[list[Facts], list[Facts]]:
    """Step 1 for all sources and benchmarks of a run; the arguments are those of `plan_extraction`.

    FaceDatasets among them are handed on as they are. The facts are in the order of what is given. `parts` has the
    references of each part's task, as `extract_part_of` gives them: they are put together.
    """
    ready = {place: found_facts(place, card) for place in (*sources, *benchmarks) if (card := _ready(place))}
    learned, measured = plan_extraction(
        [source for source in sources if source not in ready],
        [benchmark for benchmark in benchmarks if benchmark not in ready],
        config,
        benchmark_pairs=benchmark_pairs,
        benchmark_selection=benchmark_selection,
        benchmark_identities=benchmark_identities,
        kind=lambda source, options: _kind(store, source, options),
    )
    shares = {
        source: [part[at] for part in parts if part[at]]
        for at, source in enumerate(source for source in sources if source not in ready)
    }
    first = [_extract(store, extraction, shares[extraction.source]) for extraction in learned]
    check_lists(learned, first)
    second = [_extract(store, extraction) for extraction in measured]
    return _in_order(sources, ready, learned, first), _in_order(benchmarks, ready, measured, second)


def extract_part_of(store: Store, sources: Sequence[str], config: ExtractConfig) -> list[str]:
    """One share (`config.share`) of the shards of every source that is raw.

    Returns:
        One reference per raw source; "" where nothing is to be done: there is one share, it is of a kind that has none, or
        the whole is there already.
    """
    learned, _ = plan_extraction(
        [source for source in sources if _ready(source) is None],
        (),
        replace(config, share=None),
        kind=lambda source, options: _kind(store, source, options),
    )
    if config.share is None or parse_part(config.share)[1] == 1:
        return ["" for _ in learned]
    return [_extract_part(store, extraction, config.share) for extraction in learned]


def _extract_part(store: Store, extraction: Extraction, share: str) -> str:
    source, config = extraction
    whole = _extraction(extraction)
    if _kind(store, source, config) not in WITH_PEOPLE or store.find(whole) is not None:
        return ""
    config = replace(config, share=share)
    job = _extraction(Extraction(source, config))
    lines = MinuteLines(f"extracting {job.name}")
    # The whole's key, not the share's: by it the merge knows that all shares are of one source.
    made = store.obtain(job, lambda out: data.extract(source, out, config, known_by=whole.key, progress=lines))
    return str(made["reference"])


def _ready(place: str) -> Artifact | None:
    """The card of a FaceDataset among the sources; None for a raw one."""
    card = find_card(place)
    if card is not None and card.kind != "FaceDataset":
        raise InputError(f"{place}: is a {card.kind}, expected a raw source or a FaceDataset")
    return card


def _in_order(
    given: Sequence[str], ready: Mapping[str, Facts], extractions: Sequence[Extraction], made: Sequence[Facts]
) -> list[Facts]:
    """The facts of what was ready and what was made, in the order in which the places are given."""
    found: dict[str, list[Facts]] = {place: [facts] for place, facts in ready.items()}
    for extraction, facts in zip(extractions, made, strict=True):
        found.setdefault(extraction.source, []).append(facts)
    return [facts for place in dict.fromkeys(given) for facts in found[place]]


def _kind(store: Store, source: str, config: ExtractConfig | None) -> str:
    """The kind of a source; remembered in the store, because telling it takes the source itself."""
    options = None if config is None else {"kind": config.kind, "identity_from": config.identity_from}
    key = sha256_bytes(canonical_json({"source": stamp(source), "options": options}))
    place = storage.join(store.workspace, "made", "kind", f"{key}.json")
    known = storage.read_bytes(place)
    if known is None:
        known = storage.put_if_absent(place, json.dumps({"kind": find_kind(source, config)}).encode())
    return str(json.loads(known)["kind"])


def _extract(store: Store, extraction: Extraction, shares: Sequence[str] = ()) -> Facts:
    source, config = extraction
    refer = storage.is_s3(store.workspace)
    job = _extraction(extraction, places_of(item for item in shares if refer and storage.is_s3(item)))
    lines = MinuteLines(f"extracting {config.name}")
    return store.obtain(
        job,
        lambda out: data.extract(source, out, config, known_by=job.key, merge=shares, refer=refer, progress=lines),
    )


def _extraction(extraction: Extraction, refer_to: Sequence[str] = ()) -> Job:
    """What extracting a source makes; `refer_to` are shares in S3 that it is put together from."""
    from eolgul.extract.about import VERSION

    source, config = extraction
    local = data.with_local_files(config)
    inputs = [stamp(source), *([stamp(config.root)] if config.root else [])]
    name = str(config.name) + (f"-part-{config.share.replace('/', '-of-')}" if config.share else "")
    return Job("extract", VERSION, name, local.to_recipe(), inputs, parts=True, refer_to=refer_to)


def align_part_of(store: Store, datasets: Sequence[str], config: AlignConfig) -> list[str]:
    """One part (`config.part`) of every data set's alignment.

    Returns:
        One reference per data set; "" where nothing is to be done: it is aligned, or its whole alignment is there already.
    """
    _check_alignment(store, datasets, config)
    return [_align_part(store, dataset, config) for dataset in datasets]


def _align_part(store: Store, dataset: str, config: AlignConfig) -> str:
    card = card_of(dataset)
    whole = _alignment(card, replace(config, part=""))
    if whole is None or store.find(whole) is not None:
        return ""
    job = _alignment(card, config)
    assert job is not None
    lines = MinuteLines(f"aligning {job.name}, part {config.part}")
    made = store.obtain(job, lambda out: data.align(dataset, out, config, keep_aligned=True, progress=lines))
    return str(made["reference"])


def align_all(
    store: Store, datasets: Sequence[str], config: AlignConfig, parts: Sequence[Sequence[str]] = ()
) -> list[Facts]:
    """Step 2 for several data sets; `parts` has the references of each part's task, as `align_part_of` gives them."""
    if not parts:
        _check_alignment(store, datasets, config)
    return [_align(store, dataset, config, [part[at] for part in parts]) for at, dataset in enumerate(datasets)]


def _align(store: Store, dataset: str, config: AlignConfig, parts: Sequence[str]) -> Facts:
    card = card_of(dataset)
    job = _alignment(card, config)
    if job is None:
        return found_facts(dataset, card)
    lines = MinuteLines(f"aligning {job.name}")
    merge, refer = [part for part in parts if part], storage.is_s3(store.workspace)
    job = replace(job, refer_to=places_of(item for item in merge if refer and storage.is_s3(item)))
    return store.obtain(
        job,
        lambda out: data.align(dataset, out, config, merge=merge, keep_aligned=True, refer=refer, progress=lines),
    )


def _alignment(card: Artifact, config: AlignConfig) -> Job | None:
    """What aligning a data set makes; None when it is aligned already."""
    from eolgul.align.step import VERSION, is_aligned

    if is_aligned(card):
        return None
    name = str(card.contents["name"])
    if config.part:
        name += f"-part-{config.part.replace('/', '-of-')}"
    return Job("align", VERSION, name, config.to_recipe(), [card.digest], parts=True)


def _check_alignment(store: Store, datasets: Sequence[str], config: AlignConfig) -> None:
    """As `check_alignment`, without fetching the data sets when no option is only for some, or all is done."""
    if config.which != "annotated" and config.anchor != "rig":
        return
    jobs = [_alignment(card_of(dataset), replace(config, part="")) for dataset in datasets]
    if any(job is not None and store.find(job) is None for job in jobs):
        data.check_alignment(datasets, config)


def assemble_all(store: Store, datasets: Sequence[str], config: AssembleConfig) -> Facts:
    """Step 3."""
    from eolgul.assemble.step import VERSION

    excluded = [split_reference(place)[1] or stamp(place) for place in config.exclude]
    inputs = [*(card_of(dataset).digest for dataset in datasets), *excluded]
    refer = storage.is_s3(store.workspace) and not config.copy
    far = places_of(item for item in datasets if refer and storage.is_s3(item))
    job = Job("assemble", VERSION, "assembled", config.to_recipe(), inputs, parts=True, refer_to=far)
    lines = MinuteLines("assembling")
    return store.obtain(job, lambda out: data.assemble(datasets, out, config, refer=refer, progress=lines))


def train_one(
    store: Store, dataset: str, config: TrainConfig, report: Callable[[dict[str, Any]], None] | None = None
) -> Facts:
    """Step 4. The facts include `figures`, those of the best epoch, also when the model was trained before."""
    recipe = config.load_recipe().to_json() | {"init_color": config.init_color}
    begins = [split_reference(config.init)[1] or stamp(config.init)] if config.init else []
    job = Job("train", TRAINING, recipe_name(config.recipe), recipe, [card_of(dataset).digest, *begins])
    config = replace(config, checkpoints=config.checkpoints or storage.join(store.workspace, "checkpoints"))

    # Other machines cannot write to this one's disk: theirs is a place of the workspace, and brought here.
    elsewhere = storage.join(store.workspace, "making", f"{job.name}-{job.key[:SHORT]}") if config.nodes > 1 else ""

    def make(out: str) -> Facts:
        place = elsewhere or out
        facts = models.train(dataset, place, config, report=report)
        if place != out:
            shutil.copytree(bring(place), out, dirs_exist_ok=True)
        return facts | {"figures": training_figures(json.loads((Path(out) / "training.json").read_bytes()))}

    made = store.obtain(job, make)
    if elsewhere:  # a killed attempt may have left it, too
        storage.remove_below(elsewhere)
    return made


def recipe_name(recipe: str) -> str:
    """What a recipe is called: its name, or that of its file."""
    return recipe.rstrip("/").rpartition("/")[2].removesuffix(".toml")


def training_figures(training: dict[str, Any]) -> dict[str, float]:
    """The figures of the best epoch in a package's `training.json`."""
    best = training["best_epoch"]
    figures: dict[str, float] = {"best_epoch": best}
    for row in training["curve"]:
        if row["epoch"] == best:
            figures["train_loss"] = row["train_loss"]
            figures |= {f"validation_{name}": value for name, value in row["validation"].items()}
            figures |= {f"training_people_{name}": value for name, value in (row["training_people"] or {}).items()}
    return figures


def evaluate_one(
    store: Store, model: str, dataset: str, benchmarks: Sequence[str], config: EvaluateConfig, say: Say, name: str = ""
) -> Facts:
    """Step 5 for one model, a ModelPackage or, with a contract, an ONNX file.

    `name` is what its Evaluation is called; "" takes that of its place without the digest.
    """
    from eolgul.evaluate.step import VERSION

    recipe = config.to_recipe()
    if config.contract:
        contract = local_contract(config.contract)
        config = replace(config, contract=contract)
        recipe |= {"contract": find_contract(contract).to_json()}
        digest, name = stamp(model), name or _end_of(model).removesuffix(".onnx")
    else:
        digest = card_of(model).digest
        name = name or _model_name(model, digest)
    inputs = [digest, *(card_of(item).digest for item in (dataset, *benchmarks) if item)]
    job = Job("evaluate", VERSION, name, recipe, inputs)
    return store.obtain(job, lambda out: models.evaluate(model, dataset, benchmarks, out, config, progress=say))


def _end_of(place: str) -> str:
    return place_of(place).rstrip("/").rpartition("/")[2]


def _model_name(model: str, digest: str) -> str:
    """What a model is called: the end of its place without its digest."""
    end = _end_of(model)
    return digest[:12] if end == digest else end.removesuffix(f"-{digest[:SHORT]}")  # the registry's places are digests


def local_contract(contract: str) -> str:
    """The name of a known embedding contract, or the path of a contract's file, fetched when it is in S3."""
    return str(bring(contract)) if storage.is_s3(contract) else contract


def as_measured(evaluation: str, *, device: str, threads: int) -> EvaluateConfig:
    """The options by which an Evaluation was made, so that another model is measured in the same way."""
    recipe = card_of(evaluation).card["recipe"]
    known = {item.name for item in fields(EvaluateConfig)}
    if unknown := sorted(set(recipe) - known):
        raise InputError(f"{evaluation}: was made by another version, with the option {unknown[0]}; evaluate again")
    return EvaluateConfig(**recipe, device=device, threads=threads)


def others_needed(evaluation: str, registry: str) -> bool:
    """Whether `evaluate_others` has anything to measure."""
    from eolgul.promote.step import needed_evaluations

    return bool(needed_evaluations(bring(evaluation), registry))


def evaluate_others(
    store: Store,
    evaluation: str,
    dataset: str,
    benchmarks: Sequence[str],
    registry: str,
    config: EvaluateConfig,
    say: Say,
) -> tuple[str, str]:
    """Measure production's model and the registry's reference on a candidate's data where `promote` needs that.

    Returns:
        The references of production's and of the reference model's Evaluation, "" for what is not needed.
    """
    from eolgul.model.provenance import Provenance
    from eolgul.promote.step import needed_evaluations
    from eolgul.registry.store import download, model_uri

    found = {"current": "", "reference": ""}
    for role, digest in needed_evaluations(bring(evaluation), registry).items():
        known = Provenance.read(download(registry, digest).path) is not None
        options = replace(config, unseen_only=config.unseen_only or known)
        model = reference(model_uri(registry, digest), digest)
        made = evaluate_one(store, model, dataset, benchmarks, options, say, name=f"{role}-{digest[:12]}")
        found[role] = str(made["reference"])
    return found["current"], found["reference"]


def audit_one(
    store: Store, model: str, dataset: str, benchmarks: Sequence[str], config: AuditConfig, say: Say
) -> Facts:
    """Look for the held-out people and the benchmarks in the training split with the trained model."""
    from eolgul.audit.step import VERSION

    card = card_of(model)
    inputs = [*(card_of(item).digest for item in (dataset, *benchmarks)), card.digest]
    job = Job("audit", VERSION, _model_name(model, card.digest), config.to_recipe(), inputs)
    return store.obtain(job, lambda out: data.audit([dataset], benchmarks, out, config, model=model, progress=say))


def metrics_of(evaluation: str) -> Metrics:
    """The figures of an Evaluation, without its other files."""
    place = storage.join(place_of(evaluation), "metrics.json")
    content = storage.read_bytes(place)
    if content is None:
        raise InputError(f"{place}: nothing there")
    return Metrics.model_validate_json(content)
