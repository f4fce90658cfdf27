"""EOLGUL_PROVIDER: what this machine cannot do is said, and nothing else is done in its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from support.serving import People, free_port

from eolgul.errors import InputError
from eolgul.model.package import ModelPackage
from eolgul.serving import launch
from eolgul.serving.inference.model import ServedModel
from eolgul.serving.settings import Settings

CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.process
@pytest.mark.skipif(CUDA, reason="this ONNX Runtime has CUDA")
def test_cuda_without_cuda_is_not_ready_and_says_why(package: ModelPackage, tmp_path: Path) -> None:
    environment = {**os.environ, "EOLGUL_AUTH": "off", "EOLGUL_PROVIDER": "cuda"}
    options: dict[str, Any] = {"model": package.path, "home": tmp_path, "environment": environment}
    with (
        pytest.raises(InputError, match=r"no model to serve: EOLGUL_PROVIDER=cuda: .* install onnxruntime-gpu"),
        launch.running(port=free_port(), **options),
    ):
        pass


@pytest.mark.skipif(not CUDA, reason="no ONNX Runtime with CUDA here")
def test_cuda_gives_the_processors_embeddings(package: ModelPackage, people: People) -> None:
    found = [
        ServedModel(package, Settings(provider=provider)).analyse(people.a1)[0].embedding
        for provider in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
