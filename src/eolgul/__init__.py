"""Face verification from raw data to a served model. README.md describes the pipeline.

Set before any submodule can import ONNX Runtime: from 1.29 its wheels send telemetry unless this variable stops them.
"""

import os as _os
from importlib import metadata as _metadata

_os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = _metadata.version("eolgul")
