"""The demo itself, to be read from top to bottom."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from eolgul import storage
from eolgul.artifact import open_artifact
from eolgul.dataset import FaceDataset
from eolgul.demo import data, embedded
from eolgul.demo.options import Options
from eolgul.errors import InputError
from eolgul.evaluation.reader import read_metrics
from eolgul.images.decode import EXTENSIONS, decode, encode_png, probe
from eolgul.registry.store import Production, download, read_production
from eolgul.train.recipe import Recipe

BUCKET = "s3://eolgul"
_DISK_GB = 3.0
_SHARES = {"validation": 0.05, "calibration": 0.15, "test": 0.15}
_PICTURES_SHOWN, _LEAST_EPOCHS, _MOST_EPOCHS = 15_000, 5, 15
_FMR = 1e-2  # a demo's few people cannot support a finer one
_MOVED = ("eolgul_requests_total", "eolgul_cache_total", "eolgul_verdicts_total", "eolgul_rejections_total")


def run(options: Options) -> dict[str, Any]:
    """Walk the whole road and say what happens; returns the facts that are printed as the last line (JSON).

    Everything lies below `options.work`; a second call reuses what has not changed. Nothing is left running.
    InputError when something that is needed is missing, or a step failed.
    """
    started = time.monotonic()
    say = _Narrator(started)
    Recipe.load(options.recipe, options.overrides)  # before minutes of drawing
    embedded.check_port(options.port)
    embedded.check_disk(options.work, _DISK_GB)
    seconds: dict[str, float] = {}
    with (
        say.step("start S3 (SeaweedFS) and Redis", seconds, "start"),
        embedded.redis(options.work / "redis") as redis_url,
        embedded.s3(options.work / "s3") as s3,
    ):
        os.environ.update(s3.environment(options.work / "cache"))
        storage.forget_settings()
        storage.make_bucket(BUCKET)
        say(f"  S3 at {s3.endpoint}, Redis at {redis_url}")
        return _road(options, say, seconds, redis_url, started)


def _road(
    options: Options, say: _Narrator, seconds: dict[str, float], redis_url: str, started: float
) -> dict[str, Any]:
    with say.step("raw data", seconds, "data"):
        raw = (data.own_photos if options.source else data.drawn)(options, BUCKET, say)
    workspace = f"{BUCKET}/runs/{raw.faces}"
    registry = f"{BUCKET}/registry/{raw.faces}"
    with say.step("pipeline face-recognition (KFP local runner)", seconds, "pipeline"):
        arguments = {
            "workspace": workspace,
            "sources": raw.sources,
            "benchmarks": raw.benchmarks,
            "registry": registry,
            "train_checkpoints": f"{BUCKET}/checkpoints",
            "extract_selection": "",
            "align_which": options.which,
            "train_recipe": options.recipe,
            "train_overrides": [*_epochs(options, raw), *options.overrides],
            "evaluate_fmr": _FMR,
            "extract_workers": options.workers,
            "align_workers": options.workers,
            "train_workers": options.workers,
            "evaluate_threads": options.workers,
            **{f"assemble_{split}": share for split, share in _SHARES.items()},
        }
        _pipeline(options.work, arguments, say, seconds)
    evaluation = storage.fetch(f"{workspace}/evaluation")
    metrics = read_metrics(evaluation)
    report = options.work / "report.html"
    shutil.copyfile(evaluation / "report.html", report)
    production = _promoted(workspace, registry, report)
    _tell_figures(metrics, say)

    from eolgul.serving import launch

    with (
        say.step("service (BentoML) on the promoted model", seconds, "service"),
        (options.work / "service.log").open("wb") as log,
        launch.running(
            port=options.port, registry=registry, redis_url=redis_url, gallery_url=redis_url, output=log
        ) as service,
    ):
        say(f"  serving model {production.digest[:12]} at {service.url}")
        with say.step("verify people the model never saw, twice", seconds, "verify"):
            before = _counters(service.url)
            verdicts = _verify(service.url, service.headers, workspace, raw.faces, options.work / "pairs", say)
            moved = {name: value - before.get(name, 0.0) for name, value in _counters(service.url).items()}
            moved = {name: value for name, value in moved.items() if value}
            for name, value in sorted(moved.items()):
                say(f"  metric {name} +{value:g}")
        facts = {
            "model": production.digest,
            "verdicts": verdicts,
            "metrics_moved": moved,
            "held_out": _headline(metrics["sets"]["held-out"]),
            "threshold": metrics["calibration"]["threshold"],
            "report": str(report),
            "page": service.page,
            "data": str(raw.local),
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
        }
        say("")
        say(f"report   {report}")
        say(f"page     {service.page}" + ("" if options.keep else "   (make demo KEEP=1 leaves it up)"))
        say(f"data     {raw.local}   bucket in {options.work / 's3'}")
        say(f"in all   {time.monotonic() - started:.0f} s")
        print(json.dumps(facts), flush=True)
        if options.keep:
            say("the service stays up until Ctrl-C")
            _until_interrupted()
    return facts


def _promoted(workspace: str, registry: str, report: Path) -> Production:
    """The pointer at this run's model; InputError with the reasons when another one, or none, is in production."""
    production = read_production(registry)
    trained = open_artifact(storage.fetch(f"{workspace}/model")).reference
    if production is not None and trained in download(registry, production.digest).artifact.card["inputs"]:
        return production
    decisions = (storage.read_bytes(f"{registry}/history.jsonl") or b"").decode().splitlines()
    why = "; ".join(json.loads(decisions[-1])["reasons"]) if decisions else "no decision was written"
    keeps = f"model {production.digest[:12]} stays in production (another WORK= starts afresh)" if production else ""
    raise InputError(f"the model was not promoted: {why}; {keeps or 'none is in production'}; the report is {report}")


def _epochs(options: Options, raw: data.Raw) -> list[str]:
    """Own photos may be few or many: as many epochs as show about as many pictures as the drawn demo does."""
    if options.source is None or options.recipe != "demo":
        return []
    training = sum(1 for file in raw.local.rglob("*") if file.is_file()) * (1 - sum(_SHARES.values()))
    return [f"epochs={min(_MOST_EPOCHS, max(_LEAST_EPOCHS, round(_PICTURES_SHOWN / training)))}"]


class _Narrator:
    """Progress lines on stderr, with the time since the demo began."""

    def __init__(self, started: float) -> None:
        self._started = started

    def __call__(self, text: str) -> None:
        print(f"[{time.monotonic() - self._started:6.1f} s] {text}", file=sys.stderr, flush=True)

    @contextmanager
    def step(self, what: str, seconds: dict[str, float], key: str) -> Iterator[None]:
        """Announce a step; what it took until the next one begins (or it ends) goes into `seconds`."""
        self(what)
        begun = time.monotonic()
        try:
            yield
        finally:
            seconds[key] = time.monotonic() - begun


_TASK = re.compile(r"(?:Executing task|Task) \W*'?(extract|align|assemble|train|evaluate|promote)'?")
_WORTH_SAYING = re.compile(r"^(epoch \d|calibrat|threshold|scoring|writing)")


def _pipeline(work: Path, arguments: Mapping[str, Any], say: _Narrator, seconds: dict[str, float]) -> None:
    """Run the pipeline in a process group of its own; its whole output goes to pipeline.log, the gist is said."""
    log_path = work / "pipeline.log"
    shutil.rmtree(work / "kfp", ignore_errors=True)
    words = [word for name, value in arguments.items() for word in ("--param", f"{name}={_word(value)}")]
    argv = [sys.executable, "-P", "-m", "eolgul", "pipeline", "run", "--root", str(work / "kfp"), *words]
    # Threads that wait by sleeping: 5 % slower on an idle machine, a third faster beside two busy loops (13 → 18 images/s).
    # Nothing is imported from the working directory (PYTHONSAFEPATH), in the pipeline's own child processes neither.
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | {"PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )
    running: tuple[str, float] | None = None
    begun: dict[str, float] = {}
    last_error = ""
    try:
        assert process.stdout is not None
        with log_path.open("w", encoding="utf-8") as log:
            for raw_line in process.stdout:
                line = re.sub(r"\x1b\[[0-9;]*m", "", raw_line.decode(errors="replace")).rstrip()
                log.write(line + "\n")
                task = _TASK.search(line)
                if task and "xecuting" in line:
                    name = task.group(1)  # a step may be several tasks: alignment's plan, its parts, their merge
                    if name not in begun:
                        say(f"  {name} …")
                    running = (name, begun.setdefault(name, time.monotonic()))
                elif running and "finished with status" in line:
                    seconds[running[0]] = time.monotonic() - running[1]
                    say(f"  {running[0]} done in {seconds[running[0]]:.1f} s")
                    running = None
                elif "InputError: " in line:
                    last_error = line.partition("InputError: ")[2]
                elif _WORTH_SAYING.match(line.strip()):
                    say(f"    {line.strip()}")
        status = process.wait()
    finally:
        embedded.stop(process, patient=False)
    if status != 0:
        where = f" in {running[0]}" if running else ""
        raise InputError(f"the pipeline failed{where}: {last_error or f'exit status {status}'} (all of it: {log_path})")


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _headline(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {"accuracy": figures["accuracy"], "auc": figures["auc"], "eer": figures["eer"], "pairs": figures["pairs"]}


def _tell_figures(metrics: Mapping[str, Any], say: _Narrator) -> None:
    kind = "drawn people (synthetic)" if metrics["synthetic"] else "people"
    for name, figures in metrics["sets"].items():
        at = figures["at_threshold"]
        say(
            f"  {name}: {figures['pairs']} pairs of {kind} it never saw: accuracy {100 * figures['accuracy']['mean']:.2f} ± "
            f"{100 * figures['accuracy']['std']:.2f} %, AUC {figures['auc']:.4f}, EER {100 * figures['eer']:.2f} %; "
            f"at the one threshold FMR {100 * at['fmr']:.2f} %, FNMR {100 * at['fnmr']:.2f} %"
        )


def _verify(
    url: str, headers: Mapping[str, str], workspace: str, name: str, folder: Path, say: _Narrator
) -> list[dict[str, Any]]:
    """A genuine and an impostor pair of test people, in their original pictures, each asked twice."""
    verdicts = []
    for expected, (left, right) in _pairs(workspace, name, folder).items():
        for time_asked in ("first", "second"):
            with left.open("rb") as one, right.open("rb") as other:
                files = {"image1": one, "image2": other}
                response = httpx.post(f"{url}/v1/verify", files=files, headers=headers, timeout=60)
            answer = response.json()
            if response.is_error:
                raise InputError(f"the service refused {left.name} and {right.name}: {answer.get('detail', answer)}")
            verdicts.append({"expected": expected, **answer})
            right_or_wrong = {expected: "right", "undecided": "within the threshold's interval"}.get(
                answer["verdict"], "WRONG"
            )
            say(
                f"  {expected} person, asked a {time_asked} time: {answer['verdict']} ({right_or_wrong}), similarity "
                f"{answer['similarity']:.3f}, threshold {answer['threshold']:.3f}, false match rate there "
                f"{answer['false_match_rate']:.3g}, {answer['timings_ms']['total']:.0f} ms, cached {answer['cached']}"
            )
    return verdicts


def _pairs(workspace: str, name: str, folder: Path) -> dict[str, tuple[Path, Path]]:
    """Pictures of two test people, drawn by lot (a fixed one), as they came: {"same": …, "different": …}."""
    assembled = FaceDataset(storage.fetch(f"{workspace}/assembled"))
    originals = FaceDataset(storage.fetch(f"{workspace}/extracted/{name}"))
    place = {image_id: row for row, image_id in enumerate(originals.column("image_id"))}
    ids, identities = assembled.column("image_id"), assembled.column("identity")
    people: dict[str, list[int]] = {}
    for row in assembled.rows("test"):
        prefix, _, image_id = ids[row].partition(".")
        if prefix == name and image_id in place:
            people.setdefault(identities[row], []).append(place[image_id])
    rng = np.random.default_rng(0)
    pairs = [rows for rows in people.values() if len(rows) > 1]
    if len(people) < 2 or not pairs:
        raise InputError(f"{workspace}/assembled: the test split holds no two people of {name} with two pictures")
    mine = pairs[rng.integers(len(pairs))]
    one, two = rng.choice(mine, 2, replace=False)
    other = next(rows for rows in people.values() if rows is not mine)
    folder.mkdir(parents=True, exist_ok=True)

    def write(label: str, row: int) -> Path:
        picture = originals.read(int(row))
        kind = probe(picture).format
        if kind not in ("JPEG", "PNG", "WEBP"):  # what the service takes; PNG loses nothing
            picture, kind = encode_png(decode(picture)[0]), "PNG"
        path = folder / f"{label}.{EXTENSIONS[kind]}"
        path.write_bytes(picture)
        return path

    first = write("person-a-1", one)
    return {
        "same": (first, write("person-a-2", two)),
        "different": (first, write("person-b", rng.choice(other))),
    }


def _counters(url: str) -> dict[str, float]:
    """The service's counters, as Prometheus reads them."""
    values = {}
    for line in httpx.get(f"{url}/metrics", timeout=30).text.splitlines():
        if line.startswith(_MOVED):
            name, _, value = line.rpartition(" ")
            values[name] = float(value)
    return values


def _until_interrupted() -> None:
    while True:
        time.sleep(3600)
