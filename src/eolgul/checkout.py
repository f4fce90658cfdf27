"""The rooms beside `src/`: serving, pipelines and components are used from a checkout or an image that holds them."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

from eolgul.errors import InputError


def root() -> Path:
    """The folder that holds `serving/` and `pipelines/`: EOLGUL_HOME, this checkout, or the working directory."""
    candidates = [Path(os.environ["EOLGUL_HOME"])] if "EOLGUL_HOME" in os.environ else []
    candidates += [Path(__file__).resolve().parents[2], Path.cwd()]
    for candidate in candidates:
        if (candidate / "serving").is_dir() or (candidate / "pipelines").is_dir():
            return candidate
    raise InputError("serving/ and pipelines/ are not here: run this in a checkout, or set EOLGUL_HOME to one")


def room(module: str) -> ModuleType:
    """Import a module of one of those rooms, such as `serving.launch`. InputError when its packages are missing."""
    folder = str(root())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        extra = {"serving": "serve"}.get(module.partition(".")[0], "pipeline")
        raise InputError(f"{module} needs {error.name!r}: pip install 'eolgul[{extra}]' in this checkout") from error
