"""The demo, to be read from top to bottom: start the stores, make raw data, run the pipeline, serve, verify."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from eolgul import storage
from eolgul.client import Client
from eolgul.demo import data, embedded
from eolgul.demo.options import DemoOptions
from eolgul.demo.pipeline import run_pipeline
from eolgul.demo.progress import Progress
from eolgul.demo.verification import choose_pairs, read_counters, verify_pairs
from eolgul.errors import InputError
from eolgul.evaluation.reader import HELD_OUT, read_metrics
from eolgul.evaluation.schema import Metrics
from eolgul.registry.store import Production, download, read_production
from eolgul.steps import bring
from eolgul.steps.places import card_of
from eolgul.steps.tasks import recipe_name
from eolgul.train.recipe import Recipe

BUCKET = "s3://eolgul"
_DISK_GB = 3.0
_SHARES = {"validation": 0.05, "calibration": 0.15, "test": 0.15}
_IMAGES_SEEN, _MIN_EPOCHS, _MAX_EPOCHS = 15_000, 5, 15
_FMR = 1e-2  # the few people of a demo cannot show a smaller false match rate
_QUALITY_IMAGES = 40  # degraded in forty ways: ten seconds


def run(options: DemoOptions) -> dict[str, Any]:
    """Run the demo and print its facts: one JSON line where stdout is not a terminal or `options.json` asks for it.

    Everything lies below `options.work`; a second call reuses what has not changed. No process is left running.

    Returns:
        The facts of the JSON line.

    Raises:
        InputError: something that is needed is missing, or a step failed.
    """
    progress = Progress()
    recipe = options.amounts.recipe
    Recipe.load(recipe, options.overrides)  # an unknown key ends here, not after minutes of drawing
    embedded.check_port(options.port)
    embedded.check_disk(options.work, _DISK_GB)
    with ExitStack() as processes:
        with progress.stage("start", "Start an S3 store (SeaweedFS) and Redis on this machine"):
            redis_url = processes.enter_context(embedded.redis(options.work / "redis"))
            s3 = processes.enter_context(embedded.s3(options.work / "s3"))
            os.environ.update(s3.environment(options.work / "cache"))
            storage.forget_settings()
            storage.make_bucket(BUCKET)
            progress.detail(f"S3 at {s3.endpoint}, Redis at {redis_url}")

        with progress.stage("data", f"Raw data: {'your own photos' if options.source else 'people who do not exist'}"):
            raw = (data.own_photos if options.source else data.drawn)(options, BUCKET, progress.detail)

        workspace, registry = f"{BUCKET}/runs", f"{BUCKET}/registry/{raw.faces}"
        report = options.work / "report.html"
        with progress.stage("pipeline", "Pipeline: extract, align, assemble, train, evaluate, promote (KFP, local)"):
            arguments = {
                "workspace": workspace,
                "sources": raw.sources,
                "benchmarks": raw.benchmarks,
                "registry": registry,
                "extract_selection": "",
                "align_which": options.which,
                "train_recipes": [recipe],
                "train_overrides": [*_choose_epochs(options, raw), *options.overrides],
                "evaluate_fmr": _FMR,
                "evaluate_quality_images": _QUALITY_IMAGES,
                "extract_workers": options.workers,
                "align_workers": options.workers,
                "train_workers": options.workers,
                "evaluate_threads": options.workers,
                **{f"assemble_{split}": share for split, share in _SHARES.items()},
            }
            made = run_pipeline(options.work, arguments, progress)
            trained = recipe_name(recipe)
            evaluation = bring(made[f"evaluate-{trained}"])
            metrics = read_metrics(evaluation)
            shutil.copyfile(evaluation / "report.html", report)
            production = _check_promoted(made[f"train-{trained}"], registry, report)
            _print_figures(metrics, progress)

        with progress.stage("service", "Service: BentoML with the promoted model"):
            from eolgul.serving import launch

            log = processes.enter_context((options.work / "service.log").open("wb"))
            service = processes.enter_context(
                launch.running(
                    port=options.port, registry=registry, redis_url=redis_url, gallery_url=redis_url, output=log
                )
            )
            progress.detail(f"model {production.digest[:12]} at {service.url}")

        with progress.stage("verify", "Verify people of the test split, each pair twice"):
            pairs = choose_pairs(
                made["assemble-assembled"], made[f"extract-{raw.faces}"], raw.faces, options.work / "pairs"
            )
            before = read_counters(service.url)
            with Client(service.url, api_key=service.key, timeout_s=60) as client:
                verdicts = verify_pairs(client, pairs, progress)
            after = read_counters(service.url)
            moved = {name: value - before.get(name, 0.0) for name, value in after.items()}
            moved = {name: value for name, value in sorted(moved.items()) if value}
            for name, value in moved.items():
                progress.detail(f"counter {name}: +{value:g}")

        held_out = metrics.sets[HELD_OUT]
        facts = {
            "model": production.digest,
            "verdicts": verdicts,
            "metrics_moved": moved,
            "held_out": held_out.model_dump(mode="json", include={"accuracy", "auc", "eer", "pairs"}),
            "threshold": None if metrics.calibration is None else metrics.calibration.threshold,
            "report": str(report),
            "page": service.page if options.keep else None,  # without `keep` it no longer answers when this is read
            "data": str(raw.local),
            "seconds": {name: round(value, 1) for name, value in progress.seconds.items()},
        }
        progress(f"Done in {progress.elapsed():.0f} s")
        progress.detail(f"report    {report}")
        progress.detail(f"raw data  {raw.local} (the bucket: {options.work / 's3'})")
        if options.keep:
            progress.detail(f"web page  {service.page}")
            progress.detail("the service runs until Ctrl-C")
        else:
            progress.detail("web page  `make demo KEEP=1` (`eolgul demo --keep`) leaves the service running for it")
        if options.json or not sys.stdout.isatty():
            print(json.dumps(facts), flush=True)
        while options.keep:  # until Ctrl-C or SIGTERM
            time.sleep(3600)
    return facts


def _choose_epochs(options: DemoOptions, raw: data.RawData) -> list[str]:
    """Recipe override for own photos: train on about as many images in all as the drawn demo does."""
    if raw.images is None or options.recipe:
        return []
    training = raw.images * (1 - sum(_SHARES.values()))
    return [f"epochs={min(_MAX_EPOCHS, max(_MIN_EPOCHS, round(_IMAGES_SEEN / training)))}"]


def _check_promoted(model: str, registry: str, report: Path) -> Production:
    """The registry's production model, which must be this run's: InputError with the reasons when it is not."""
    production = read_production(registry)
    trained = card_of(model).reference
    if production is not None and trained in download(registry, production.digest).artifact.card["inputs"]:
        return production
    decisions = (storage.read_bytes(f"{registry}/history.jsonl") or b"").decode().splitlines()
    reasons = "; ".join(json.loads(decisions[-1])["reasons"]) if decisions else "the registry holds no decision"
    current = (
        f"model {production.digest[:12]} stays in production (another WORK= starts with an empty registry)"
        if production
        else "no model is in production"
    )
    raise InputError(f"the model was not promoted: {reasons}; {current}; the report is {report}")


def _print_figures(metrics: Metrics, progress: Progress) -> None:
    people = "drawn people" if metrics.synthetic else "people"
    for name, figures in metrics.sets.items():
        threshold = figures.at_threshold
        rates = (None, None) if threshold is None else (threshold.fmr, threshold.fnmr)
        progress.detail(
            f"{name}: {figures.pairs} pairs of {people} that are not in the training data: "
            f"accuracy {_percent(figures.accuracy.mean)} ± {_percent(figures.accuracy.std)}, AUC {figures.auc:.4f}, "
            f"EER {_percent(figures.eer)}; at the calibrated threshold: false match rate {_percent(rates[0])}, "
            f"false non-match rate {_percent(rates[1])}"
        )


def _percent(rate: float | None) -> str:
    return "unknown" if rate is None else f"{100 * rate:.2f} %"
