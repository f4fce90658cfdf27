"""Loads the model in the background and follows the registry: another model there is swapped in, a broken one is not.

A request takes `Loader.model` once and keeps that object to its end, so a swap takes nothing from it; the old model is
freed when the last such request is answered.
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
from eolgul.errors import InputError
from eolgul.model.package import ModelPackage
from eolgul.registry import store as registry
from eolgul.serving import LOADING, metrics
from eolgul.serving.inference.model import ServedModel, trusted_keys
from eolgul.serving.problems import RejectionError
from eolgul.serving.settings import Settings

logger = logging.getLogger("eolgul.model")
_LONGEST_PAUSE_S = 300.0
_PATIENCE_S = 15.0  # a store that refuses connections is given up after about 10 s, one that hangs after minutes


class Loader:
    """Holds the served model once there is one. `failure` is the sentence of the last failed try.

    Without a model it looks every `retry_s`, with one every `follow_s`. A model that is refused is tried again when the
    pointer names another, or after a pause that doubles from `retry_s` to five minutes: what was wrong may be mended,
    but a download must not be repeated without end. Started once; `stop` ends the thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model: ServedModel | None = None
        self.failure = LOADING
        self._refused = ""  # the digest that was refused last, tried again at `_again`
        self._pause_s, self._again = settings.retry_s, 0.0
        self._asked: Future[registry.Production | None] | None = None  # the question that hangs, if one does
        self._looked = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eolgul-model-loader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    async def looked(self) -> None:
        """Return once the first look is over: there is a model now, or `failure` says why there is none."""
        while not self._looked.is_set():
            await asyncio.sleep(0.05)

    @property
    def ready(self) -> bool:
        return self._model is not None

    @property
    def model(self) -> ServedModel:
        """The loaded model. RejectionError `model_not_ready` before there is one."""
        model = self._model
        if model is None:
            raise RejectionError("the service has no model yet; /readyz says why", "model_not_ready")
        return model

    def look(self) -> None:
        """Look once, and load what should be served if that is another model. Raises nothing: see `failure`."""
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
        elif time.monotonic() < self._again:
            return
        try:
            package = registry.download(self._settings.registry, digest, trusted_keys(self._settings))
            self._load(package)
        except Exception as error:  # whatever is wrong with the new one, the old one stays
            self._refused, self._again = digest, time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            self._fail(error, "refused")
            return
        self._refused = ""
        try:
            _keep(self._settings, package)
        except Exception as error:  # it serves; only a start without the registry would not find it
            logger.warning("model %s could not be noted for a start without the registry: %s", digest, error)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.look()
            self._looked.set()
            if self.ready and self._settings.model is not None:
                return
            self._stopping.wait(self._settings.follow_s if self.ready else self._settings.retry_s)

    def _production(self) -> registry.Production | None:
        """The registry's pointer. InputError when it does not come in time; the next call then waits for it on."""
        if self._asked is None:
            self._asked = Future()
            threading.Thread(target=self._ask, args=(self._asked,), name="eolgul-pointer", daemon=True).start()
        asked = self._asked
        if not wait([asked], _PATIENCE_S).done:
            raise InputError(f"{self._settings.registry}: no answer within {_PATIENCE_S:g} s")
        self._asked = None
        return asked.result()

    def _ask(self, asked: Future[registry.Production | None]) -> None:
        try:
            asked.set_result(registry.read_production(self._settings.registry))
        except Exception as error:
            asked.set_exception(error)

    def _load(self, package: ModelPackage) -> None:
        """Load, warm up, then swap: one assignment. Raises when the package cannot serve, and then nothing changed."""
        model, old = ServedModel(package, self._settings), self._model
        metrics.MODEL_INFO.labels(*_labels(model)).set(1)
        self._model, self.failure = model, ""
        if old is not None:
            if _labels(old) != _labels(model):
                metrics.MODEL_INFO.labels(*_labels(old)).set(0)  # workers share files: a label cannot be removed there
            metrics.SWAPS.labels("swapped").inc()
        logger.info("serving model %s (%s)", model.digest, model.package.backbone)

    def _fail(self, error: Exception, outcome: str = "") -> None:
        sentence = str(error)
        if not isinstance(error, InputError):
            sentence = f"the model could not be loaded ({type(error).__name__}: {error})"
        if outcome:
            metrics.SWAPS.labels(outcome).inc()
        if sentence != self.failure:
            stays = f"model {self._model.digest[:12]} stays" if self._model else "no model from the registry"
            logger.error("%s: %s", stays, sentence, exc_info=None if isinstance(error, InputError | OSError) else error)
        if outcome and self._model is None and self._settings.registry:
            self._fall_back()  # before the sentence shows: who waits for readiness takes it for the end
        self.failure = sentence

    def _fall_back(self) -> None:
        """Without any model, serve the last verified one that is still on this disk, verified again."""
        try:
            package = _kept(self._settings)
            if package is None:
                return
            self._load(package)
        except Exception as error:
            logger.error("the model kept on disk cannot serve either: %s", error)
            return
        logger.warning("serving %s, the last verified model on this disk", package.digest)


def _labels(model: ServedModel) -> tuple[str, str, str]:
    return model.digest, model.package.backbone, str(model.synthetic).lower()


def _note(settings: Settings) -> Path:
    """The file that says which model of this registry was last verified; a cache may serve several registries."""
    name = hashlib.sha256(settings.registry.rstrip("/").encode()).hexdigest()[:16]
    return storage.S3Settings().cache / f"served-{name}.json"


def _keep(settings: Settings, package: ModelPackage) -> None:
    """Note what was verified, for a start at which the pointer cannot be read."""
    note = {"digest": package.digest, "path": str(package.path.resolve())}
    if settings.trusted_keys_file:
        signature = storage.read_bytes(registry.signature_uri(settings.registry, package.digest)) or b""
        note["signature"] = base64.b64encode(signature).decode()
    storage.write_bytes(str(_note(settings)), canonical_json(note))


def _kept(settings: Settings) -> ModelPackage | None:
    """The noted model, its digests and signature checked again; None without a note. InputError when it is not whole."""
    file = _note(settings)
    data = storage.read_bytes(str(file))
    if data is None:
        return None
    try:
        note = json.loads(data)
        digest, path = str(note["digest"]), Path(note["path"])
        signature = base64.b64decode(note["signature"]) if "signature" in note else None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: expected digest and path of the model served last ({error})") from error
    if trusted := trusted_keys(settings):
        trusted.check(digest, signature, str(file))
    package = ModelPackage.open(path, check="sha256")
    if package.digest != digest:
        raise InputError(f"{path}: its digest is {package.digest}, {file.name} says {digest}")
    return package
