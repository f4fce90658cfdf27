"""Small pictures in every format that a dataset takes."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from eolgul.images.decode import EXTENSIONS

# 37x21 pixels; no package of the tests' environment writes this format.
HEIC = base64.b64decode(
    b"AAAAGGZ0eXBoZWljAAAAAG1pZjFoZWljAAABfG1ldGEAAAAAAAAAIWhkbHIAAAAAAAAAAHBpY3QAAAAAAAAAAAAAAAAAAAAAImlsb2MAAAAARE"
    b"AAAQABAAAAAAGcAAEAAAAAAAAAzgAAACNpaW5mAAAAAAABAAAAFWluZmUCAAAAAAEAAGh2YzEAAAAADnBpdG0AAAAAAAEAAAD8aXBycAAAANxp"
    b"cGNvAAAAdWh2Y0MBA3AAAACQAAAAAAAe8AD8/fj4AAAPA2AAAQAYQAEMAf//A3AAAAMAkAAAAwAAAwAeugJAYQABAClCAQEDcAAAAwCQAAADAA"
    b"ADAB6gIIEFluqumubgIaDAgAAADIAAAAMAhGIAAQAGRAHBc8GJAAAAE2NvbHJuY2x4AAEADQAGgAAAABRpc3BlAAAAAAAAAEAAAABAAAAAKGNs"
    b"YXAAAAAlAAAAAQAAABUAAAAB////5QAAAAL////VAAAAAgAAABBwaXhpAAAAAAMICAgAAAAYaXBtYQAAAAAAAAABAAEFgQIDBYQAAADWbWRhdA"
    b"AAAMooAa8ZIfW8Je9b2Af2gCmOOlSFWop8GzcbrYBx+ffSRFnYwsj9lgGrH/KQxeFqFkWYIAjt9QzBrHH1qgEGA4dsO5Gbr/Y5ayTZoejwCDWo"
    b"lXL6EdlHztretQ4a1tJ0zYSjCMOlhBuw8h0Ee3nIuddIIRk2wO22b4tAmwGqaf5bqR1R7i+1b3EgwsRmY5DZdwMDRuiHbpeRxj270tsuPModWN"
    b"yuHOEMNQwnM885jc8Zwl32NtjA0bQ+BX7yvvBYPP0UsOmAsfDsIGqw"
)


def picture(seed: int, format: str = "JPEG", size: tuple[int, int] = (112, 112)) -> bytes:
    """A picture of coloured patches, another one for each seed; of HEIF there is one."""
    if format == "HEIF":
        return HEIC + bytes((0, 0, 0, 12)) + b"free" + seed.to_bytes(4, "big")
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, format)
    return buffer.getvalue()


def pictures(seed: int = 0) -> dict[str, bytes]:
    """One picture of every format, by the suffix of its file."""
    return {suffix: picture(seed, format) for format, suffix in EXTENSIONS.items()}
