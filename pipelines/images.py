"""The container images of a compiled pipeline: from the registry that the user names, and from no other.

There is no default registry. A name such as `eolgul/train` would be Docker Hub's, where anybody may own it, and that
image would get the keys of the bucket and the faces in it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from eolgul import __version__
from eolgul.components import NOWHERE
from eolgul.errors import InputError

STEPS = ("extract", "align", "assemble", "train", "evaluate", "promote")
# A registry's host has a dot or a port, or is localhost; anything else is a namespace of Docker Hub.
_PREFIX = re.compile(r"(localhost(:\d+)?|[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)+(:\d+)?|[a-zA-Z0-9-]+:\d+)(/[a-z0-9._-]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IMAGE = re.compile(rf"{_PREFIX.pattern}/[a-z0-9._-]+(:{_TAG.pattern})?@sha256:[0-9a-f]{{64}}")


def resolve_images(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Name the image of every step.

    Args:
        environment: EOLGUL_IMAGES names a JSON file {step: image by digest}, as `make push` writes it; or
            EOLGUL_IMAGE_PREFIX is the registry and folder of the images, and EOLGUL_IMAGE_TAG their tag.

    Raises:
        InputError: When neither is given, or one of them is not what is expected.
    """
    file, prefix = environment.get("EOLGUL_IMAGES", ""), environment.get("EOLGUL_IMAGE_PREFIX", "")
    if file:
        return _read(Path(file))
    if not prefix:
        raise InputError(
            "EOLGUL_IMAGE_PREFIX is not set: expected the registry of your images, such as registry.example/eolgul "
            "(or EOLGUL_IMAGES, the file that `make push` writes)"
        )
    if not _PREFIX.fullmatch(prefix):
        raise InputError(
            f"EOLGUL_IMAGE_PREFIX {prefix!r}: expected host[:port]/folder of a registry, such as registry.example/eolgul; "
            "for Docker Hub write docker.io/NAME"
        )
    tag = environment.get("EOLGUL_IMAGE_TAG", "") or __version__
    if not _TAG.fullmatch(tag):
        raise InputError(f"EOLGUL_IMAGE_TAG {tag!r}: expected letters, digits, '_', '.' and '-' only")
    return {step: f"{prefix}/{step}:{tag}" for step in STEPS}


def _read(file: Path) -> dict[str, str]:
    try:
        images = json.loads(file.read_bytes())
        given = {step: str(images[step]) for step in STEPS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"EOLGUL_IMAGES {file}: expected JSON with one image for each of {', '.join(STEPS)}"
        ) from error
    for step, image in given.items():
        if not _IMAGE.fullmatch(image):
            raise InputError(
                f"EOLGUL_IMAGES {file}: {step} is {image!r}, expected registry/name@sha256:<64 hex digits>"
            )
    return given


def replaced(image: str, images: Mapping[str, str]) -> str:
    """The real image in place of a component's own name for it; other images stay."""
    host, _, rest = image.partition("/")
    return images[rest.partition(":")[0]] if host == NOWHERE else image
