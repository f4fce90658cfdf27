"""Face verification from raw data to a served model. README.md describes the pipeline.

Nothing leaves: `TELEMETRY_OFF` is set before any submodule can import the dependencies that would send usage reports.
"""

import os as _os
from importlib import metadata as _metadata

# Images, manifests and tasks carry the same (tests/test_package.py). ONNX Runtime's Linux wheels send from 1.29 on, and keep a device
# id below ~/.cache; only the variable, set before the import, stops them. BentoML sends at the start and while it serves.
TELEMETRY_OFF = {"ORT_DISABLE_TELEMETRY": "1", "BENTOML_DO_NOT_TRACK": "True"}
_os.environ.update(TELEMETRY_OFF)

__version__ = _metadata.version("eolgul")
