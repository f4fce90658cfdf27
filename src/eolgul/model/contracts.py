"""The embedding contracts of published ONNX recognizers by name, and one's own from a file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from eolgul.content import describe_file
from eolgul.errors import InputError, one_line
from eolgul.model.package import EmbeddingContract

# Of InsightFace's model packs (buffalo_l, buffalo_s, antelopev2) and arcface_torch's exports: R, G, B, (pixel - 127.5) /
# 127.5. Published figures add the mirror image, which doubles the time; insightface's own package does not add it.
CONTRACTS = {
    "insightface": EmbeddingContract(),
    "insightface-bgr": EmbeddingContract(color="BGR"),
    "insightface-noflip": EmbeddingContract(flip="none"),
}


def find_contract(contract: str) -> EmbeddingContract:
    """A contract by its name in `CONTRACTS`, or from a JSON or TOML file.

    The file holds keys of `EmbeddingContract`; those left out keep their defaults.

    Raises:
        InputError: There is no such name or file, or the file holds no contract.
    """
    return CONTRACTS.get(contract) or _read(Path(contract))


def _read(file: Path) -> EmbeddingContract:
    try:
        text = file.read_text(encoding="utf-8-sig")
        value = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        found = describe_file(file)
        why = f"is {found}" if found and found != "JSON text" else one_line(error)
        raise InputError(
            f"{file}: neither a JSON contract (nor TOML) nor one of {', '.join(CONTRACTS)} ({why})"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{file}: expected a JSON object with an embedding contract")
    default = EmbeddingContract().to_json()
    detector = value.get("detector", {})
    if not isinstance(detector, dict):
        raise InputError(f"{file}: detector {detector!r}, expected an object with a detector's settings")
    return EmbeddingContract.from_json({**default, **value, "detector": {**default["detector"], **detector}}, str(file))
