"""Loads the model in the background, so that the service is alive and says why while it cannot answer yet."""

from __future__ import annotations

import logging
import threading

from eolgul.errors import InputError
from serving import LOADING, metrics
from serving.model import ServedModel, open_package
from serving.problems import RejectionError
from serving.settings import Settings

logger = logging.getLogger("eolgul.model")


class Loader:
    """Holds the served model once there is one. `failure` is the sentence of the last failed try.

    A try that fails is repeated every `retry_s`: the registry may be unreachable, or nothing promoted yet, when the
    service starts. Started once; `stop` ends the thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model: ServedModel | None = None
        self.failure = LOADING
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eolgul-model-loader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    @property
    def ready(self) -> bool:
        return self._model is not None

    @property
    def model(self) -> ServedModel:
        """The loaded model. RejectionError `model_not_ready` before there is one."""
        if self._model is None:
            raise RejectionError("the service has no model yet; /readyz says why", "model_not_ready")
        return self._model

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                model = ServedModel(open_package(self._settings), self._settings)
            except InputError as error:
                self.failure = str(error)
            except Exception as error:  # an unreachable store raises many kinds; the service stays up and tries again
                logger.exception("loading the model failed")
                self.failure = f"the model could not be loaded ({type(error).__name__}: {error})"
            else:
                metrics.MODEL_INFO.labels(model.digest, model.package.backbone, str(model.synthetic).lower()).set(1)
                self._model = model
                logger.info("serving model %s (%s)", model.digest, model.package.backbone)
                return
            logger.error("no model to serve: %s", self.failure)
            self._stopping.wait(self._settings.retry_s)
