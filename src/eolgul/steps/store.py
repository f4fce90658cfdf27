"""The artifacts of a workspace by content: what has been made from the same inputs with the same options is made once.

Below the workspace (a path or an `s3://` prefix) lie

- `artifacts/<step>/<name>-<digest>/`: the artifacts. A place belongs to one content and is never changed.
- `made/<step>/<key>.json`: the key is of the step, its version, its options and the digests of its inputs; the record says
  which artifact came of it, with its figures. It is written last, once: the first of several writers counts.
- `making/`: leases of what is being made now (`eolgul.steps.lease`), and `parts/`: its finished parts (`eolgul.steps.parts`).
- `runs/<run>/`: what each run made or found, one record per task; `outcomes/<run>/`: how it ended (`eolgul.steps.outcome`).

So any number of runs, repeated tasks and recurring runs may share a workspace: none sees half of another's work, and none
does again what is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eolgul import storage
from eolgul.artifact import CARDS, canonical_json, open_artifact, recipe_digest
from eolgul.dataset import SHARDS
from eolgul.errors import InputError
from eolgul.files import sha256_bytes
from eolgul.steps import lease
from eolgul.steps.outcome import told
from eolgul.steps.parts import kept
from eolgul.steps.places import Facts, reference
from eolgul.storage.s3 import settings

SHORT = 16  # hexadecimal digits of a digest in a name; the whole digest is in the reference


@dataclass(frozen=True, slots=True)
class Job:
    """Something to make: everything that its result depends on.

    Attributes:
        step: The step's name.
        version: The step's version of its results.
        name: What the artifact is called for people.
        recipe: The options that the result depends on.
        inputs: The digests of its inputs, in order.
        refer_to: Artifacts in S3 whose shards the result has: they are referred to and not stored again.
        parts: Whether the step makes a FaceDataset shard by shard, so that finished ones are kept.
    """

    step: str
    version: int
    name: str
    recipe: Mapping[str, Any]
    inputs: Sequence[str]
    parts: bool = False
    refer_to: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """The job as JSON values; the name is none of what decides."""
        return {
            "step": self.step,
            "version": self.version,
            "recipe": dict(self.recipe),
            "inputs": list(self.inputs),
        }

    @property
    def key(self) -> str:
        """The SHA-256 (hex) of everything that decides the result."""
        return recipe_digest(self.to_json())


@dataclass(frozen=True, slots=True)
class Store:
    """The store of a workspace, as one run sees it.

    Attributes:
        workspace: A path or an `s3://` prefix.
        run: The run's id; "" keeps no record of the run.
        patience: How long to wait for another run that makes the same.
    """

    workspace: str
    run: str = ""
    patience: lease.Patience = field(default_factory=lease.Patience)

    def obtain(self, job: Job, make: Callable[[str], Facts]) -> Facts:
        """The artifact of a job: what is there already, or what `make` makes now.

        Args:
            job: What to make.
            make: Makes it at a local path, which it is given, and returns its facts (JSON values and others; those are
                not kept). A killed one is called again with the same path on the same machine.

        Returns:
            The facts, with `artifact` (its place), `reference` (place and digest) and `reused`.

        Raises:
            InputError: What `make` raises, or S3 does not answer.
        """
        with told(self.workspace, self.run, f"{job.step} {job.name}"):
            found = self._obtain(job, make)
        self._note(job, found)
        return found

    def _obtain(self, job: Job, make: Callable[[str], Facts]) -> Facts:
        found = self.find(job)
        if found is None:
            what, place = f"{job.step} {job.name}", self._place("making", f"{job.key}.json")
            with lease.held(place, what, self.run, lambda: self.find(job) is not None, self.patience) as mine:
                found = self.find(job) if mine else self._record(job)
                if found is None:
                    found = self._make(job, make)
        return found

    def find(self, job: Job) -> Facts | None:
        """The facts of a job that was done before; None when it was not, or its artifact is gone."""
        facts = self._record(job)
        if facts is None:
            return None
        card = storage.read_bytes(storage.join(facts["artifact"], CARDS[facts["kind"]]))
        if card is None or sha256_bytes(card) != facts["digest"]:
            storage.remove_object(self._record_place(job))
            return None
        return facts

    def _record(self, job: Job) -> Facts | None:
        data = storage.read_bytes(self._record_place(job))
        return None if data is None else self._facts(data, self._record_place(job)) | {"reused": True}

    def _make(self, job: Job, make: Callable[[str], Facts]) -> Facts:
        work = self._work(job)
        work.parent.mkdir(parents=True, exist_ok=True)
        # The parts stay until the record is there: a pod may also be killed while it publishes what it has made of them.
        with kept(work, self._place("parts", job.key)) if job.parts else nullcontext():
            facts = make(str(work))
            made = open_artifact(work, without=(SHARDS,) if job.refer_to else ())
            below = f"artifacts/{job.step}/{job.name}-{made.digest[:SHORT]}"
            storage.add_artifact(work, self._place(below), refer_to=job.refer_to)
            with suppress(OSError):  # another work of this job lies there
                work.parent.rmdir()
            record = {"job": job.to_json(), "place": below, "digest": made.digest, "facts": _json_only(facts)}
            there = storage.put_if_absent(self._record_place(job), canonical_json(record))
        found = self._facts(there, self._record_place(job)) | {"reused": False}
        if found["digest"] == made.digest:
            return facts | found
        return found  # another run was first

    def _facts(self, data: bytes, place: str) -> Facts:
        try:
            record = json.loads(data)
            below, digest, facts = str(record["place"]), str(record["digest"]), dict(record["facts"])
            if ".." in below.split("/") or facts["kind"] not in CARDS:
                raise ValueError(below)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{place}: not a record of a workspace's store; delete it") from error
        artifact = self._place(below)
        return facts | {"artifact": artifact, "digest": digest, "reference": reference(artifact, digest)}

    def _note(self, job: Job, facts: Facts) -> None:
        """Write down what this run has, so that people find it and know what is still in use."""
        if not self.run:
            return
        keys = ("artifact", "digest", "reference", "reused", "seconds")
        entry = {"step": job.step, "name": job.name, "key": job.key, **{key: facts.get(key) for key in keys}}
        storage.write_bytes(self._place("runs", self.run, f"{job.step}-{job.name}.json"), canonical_json(entry))

    def _work(self, job: Job) -> Path:
        root = settings().cache if storage.is_s3(self.workspace) else Path(self.workspace)
        return root / ".making" / job.key[:SHORT] / job.name

    def _record_place(self, job: Job) -> str:
        return self._place("made", job.step, f"{job.key}.json")

    def _place(self, *below: str) -> str:
        return storage.join(self.workspace, *below)


def runs(workspace: str) -> list[str]:
    """The ids of the runs that have records in a workspace."""
    return storage.list_names(storage.join(workspace, "runs"))


def references(workspace: str, run: str) -> dict[str, str]:
    """What a run has made or found, by `<step>-<name>`."""
    place = storage.join(workspace, "runs", run)
    return {
        name.removesuffix(".json"): str(json.loads(storage.read_bytes(storage.join(place, name)) or b"{}")["reference"])
        for name in storage.list_names(place)
    }


def _json_only(facts: Facts) -> Facts:
    """The facts that are JSON values: a record holds figures, not objects."""
    kept_facts = {}
    for name, value in facts.items():
        try:
            canonical_json(value)
        except (TypeError, ValueError):
            continue
        kept_facts[name] = value
    return kept_facts
