"""Load the model in the background and follow the registry: a newly promoted model replaces the served one.

A request reads `Loader.model` once and keeps that object to its end, so a swap does not affect it; the old model is freed
when the last such request is answered.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import threading
import time
from concurrent.futures import Future, wait
from pathlib import Path

from eolgul import storage
from eolgul.artifact import canonical_json
from eolgul.errors import InputError, one_line
from eolgul.model.package import ModelPackage
from eolgul.registry import store as registry
from eolgul.serving import LOADING, REPEAT_S, metrics
from eolgul.serving.inference.model import ServedModel, trusted_keys
from eolgul.serving.problems import RejectionError
from eolgul.serving.settings import Settings

logger = logging.getLogger("eolgul.model")
_LONGEST_PAUSE_S = 300.0
_POINTER_TIMEOUT_S = 15.0  # a store that refuses connections fails after about 10 s, one that hangs after minutes


class Loader:
    """Holds the served model. `failure` is the reason of the last failed attempt, in one sentence.

    Without a model it checks every `retry_s` seconds, with one every `follow_s`. A refused model is tried again when the
    pointer names another one, or after a pause that doubles from `retry_s` to five minutes: the cause may have been
    repaired, but a download must not be repeated without end. Start it once; `stop` ends the thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model: ServedModel | None = None
        self.failure = LOADING
        self._said_at = 0.0
        self._refused = ""  # the digest refused last; it is tried again at `_retry_at`
        self._pause_s, self._retry_at = settings.retry_s, 0.0
        self._pending: Future[registry.Production | None] | None = None  # a read of the pointer under way
        self._first_load = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eolgul-model-loader", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the current check."""
        self._stopping.set()

    async def wait_first_load(self) -> None:
        """Wait until the first attempt has ended: there is a model now, or `failure` gives the reason."""
        while not self._first_load.is_set():
            await asyncio.sleep(0.05)

    @property
    def ready(self) -> bool:
        """Whether there is a model."""
        return self._model is not None

    @property
    def model(self) -> ServedModel:
        """The loaded model. RejectionError `model_not_ready` if there is none yet."""
        model = self._model
        if model is None:
            raise RejectionError("the service has no model yet; /readyz says why", "model_not_ready")
        return model

    def update(self) -> None:
        """Check once which model should be served, and load it if it is another one. Never raises: see `failure`."""
        try:
            self._settings.source()
            if self._settings.model is not None:
                self._load(ModelPackage.open(self._settings.model))
                return
        except Exception as error:
            self._fail(error, "refused")
            return
        try:
            production = self._production()
        except Exception as error:  # an unreachable store raises many kinds
            self._fail(error, "unreachable")
            return
        if production is None:
            self._fail(InputError(f"{self._settings.registry}: no model has been promoted yet; run `eolgul promote`"))
            return
        digest = production.digest
        if self._model is not None and self._model.digest == digest:
            self._refused, self.failure = "", ""
            return
        if digest != self._refused:
            self._pause_s = self._settings.retry_s
        elif time.monotonic() < self._retry_at:
            return
        try:
            package = registry.download(self._settings.registry, digest, trusted_keys(self._settings))
            self._load(package)
        except Exception as error:  # whatever is wrong with the new model, the old one stays
            self._refused, self._retry_at = digest, time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            self._fail(error, "refused")
            return
        self._refused = ""
        try:
            _write_note(self._settings, package)
        except Exception as error:  # the model serves; only a start without the registry would not find it
            logger.warning("model %s could not be recorded for a start without the registry: %s", digest, error)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.update()
            self._first_load.set()
            if self.ready and self._settings.model is not None:
                return
            self._stopping.wait(self._settings.follow_s if self.ready else self._settings.retry_s)

    def _production(self) -> registry.Production | None:
        """Read the registry's pointer. InputError if that takes too long; the next call then waits for the same read."""
        if self._pending is None:
            self._pending = Future()
            threading.Thread(
                target=self._read_pointer, args=(self._pending,), name="eolgul-pointer", daemon=True
            ).start()
        pending = self._pending
        if not wait([pending], _POINTER_TIMEOUT_S).done:
            raise InputError(f"{self._settings.registry}: no answer within {_POINTER_TIMEOUT_S:g} s")
        self._pending = None
        return pending.result()

    def _read_pointer(self, pending: Future[registry.Production | None]) -> None:
        try:
            pending.set_result(registry.read_production(self._settings.registry))
        except Exception as error:
            pending.set_exception(error)

    def _load(self, package: ModelPackage) -> None:
        """Load and warm the model, then swap it in by one assignment. If the package cannot serve, it raises and nothing changes."""
        model, old = ServedModel(package, self._settings), self._model
        metrics.MODEL_INFO.labels(*_labels(model)).set(1)
        self._model, self.failure = model, ""
        if old is not None:
            if _labels(old) != _labels(model):
                metrics.MODEL_INFO.labels(*_labels(old)).set(
                    0
                )  # a label cannot be removed, since workers share the files
            metrics.SWAPS.labels("swapped").inc()
        logger.info("serving model %s (%s)", model.digest, model.package.backbone)

    def _fail(self, error: Exception, outcome: str = "") -> None:
        sentence = str(error)
        if not isinstance(error, InputError):
            sentence = f"the model could not be loaded ({type(error).__name__}: {error})"
        if outcome:
            metrics.SWAPS.labels(outcome).inc()
        now = time.monotonic()
        if sentence != self.failure or now - self._said_at >= REPEAT_S:
            self._said_at = now
            state = f"model {self._model.digest[:12]} stays" if self._model else "no model from the registry"
            logger.error("%s: %s", state, sentence, exc_info=None if isinstance(error, InputError | OSError) else error)
        if outcome and self._model is None and self._settings.registry:
            self._fall_back()  # before `failure` is set: a client that waits for readiness gives up on it
        self.failure = sentence

    def _fall_back(self) -> None:
        """Without any model, serve the last verified one that is on this disk, after verifying it again."""
        try:
            package = _read_note(self._settings)
            if package is None:
                return
            self._load(package)
        except Exception as error:
            logger.error("the last model on this disk cannot be served either: %s", error)
            return
        logger.warning("serving %s, the last verified model on this disk", package.digest)


def _labels(model: ServedModel) -> tuple[str, str, str]:
    return model.digest, model.package.backbone, str(model.synthetic).lower()


def _note_file(settings: Settings) -> Path:
    """The file that records the last verified model of this registry; one cache may serve several registries."""
    name = hashlib.sha256(settings.registry.rstrip("/").encode()).hexdigest()[:16]
    return storage.S3Settings().cache / f"served-{name}.json"


def _write_note(settings: Settings, package: ModelPackage) -> None:
    """Record the verified model, for a start when the pointer cannot be read."""
    note = {"digest": package.digest, "path": str(package.path.resolve())}
    if settings.trusted_keys_file:
        signature = storage.read_bytes(registry.signature_uri(settings.registry, package.digest)) or b""
        note["signature"] = base64.b64encode(signature).decode()
    storage.write_bytes(str(_note_file(settings)), canonical_json(note))


def _read_note(settings: Settings) -> ModelPackage | None:
    """The recorded model, with its digests and signature checked again; None without a record. InputError if damaged."""
    file = _note_file(settings)
    data = storage.read_bytes(str(file))
    if data is None:
        return None
    try:
        note = json.loads(data)
        digest, path = str(note["digest"]), Path(note["path"])
        signature = base64.b64decode(note["signature"]) if "signature" in note else None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: expected the digest and path of the last served model ({one_line(error)})"
        ) from error
    if trusted := trusted_keys(settings):
        trusted.check(digest, signature, str(file))
    package = ModelPackage.open(path, check="sha256")
    if package.digest != digest:
        raise InputError(f"{path}: the digest is {package.digest}, expected {digest} as in {file.name}")
    return package
