"""The six Kubeflow components, each a thin shell around its step (`eolgul.steps`)."""

from __future__ import annotations

import os

from eolgul import __version__


def image(step: str) -> str:
    """The container image of a step; EOLGUL_IMAGE_PREFIX and EOLGUL_IMAGE_TAG choose another place at compile time."""
    prefix = os.environ.get("EOLGUL_IMAGE_PREFIX", "eolgul")
    return f"{prefix}/{step}:{os.environ.get('EOLGUL_IMAGE_TAG', __version__)}"
