"""The same networks behind BentoML's adaptive batching, for `benchmarks/serve.py`.

One service embeds batches; another takes two pictures and calls it. There are no cache, keys or limits. The environment
variable MODEL is the package, THREADS the number of ONNX Runtime threads.
"""

# BentoML ships no types for its decorators.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from fastapi import FastAPI, File

from eolgul.errors import InputError
from eolgul.model.package import ModelPackage
from eolgul.serving.inference.model import ServedModel
from eolgul.serving.settings import Settings

APP = FastAPI()


@bentoml.service(
    workers=int(os.environ.get("WORKERS", "1")),
    traffic={"timeout": 600},
    # By default its client opens a new session every 100 requests, and calls under way then fail.
    runner_connection={"max_requests": 10**9, "max_age": 1e9},
)
class Networks:
    def __init__(self) -> None:
        settings = Settings(threads=int(os.environ["THREADS"]))
        self._model = ServedModel(ModelPackage.open(Path(os.environ["MODEL"])), settings)

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=60_000)
    def embed(self, pictures: list[bytes]) -> list[np.ndarray]:
        """Encoded pictures → unit embeddings. InputError if one has no face (all have one in the benchmark)."""
        embeddings = []
        for result, _ in self._model.analyse_many(pictures):
            if isinstance(result, InputError):
                raise result
            embeddings.append(result.embedding)
        return embeddings


@bentoml.asgi_app(APP, path="/")
@bentoml.service(traffic={"timeout": 600})
class Front:
    networks = bentoml.depends(Networks)

    def __init__(self) -> None:
        APP.state.networks = self.networks


@APP.post("/v1/verify")
async def verify(image1: bytes = File(), image2: bytes = File()) -> dict[str, Any]:
    ask = APP.state.networks.to_async.embed
    left, right = await asyncio.gather(ask([image1]), ask([image2]))
    return {"similarity": float(left[0] @ right[0])}
