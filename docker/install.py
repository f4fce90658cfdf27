"""Install into an environment while an image is built: exactly the pinned versions, then without what nothing in it loads.

    install.py /opt/venv [--extras data,pipeline] [--requirements FILE …] [--wheel FOLDER] [--torch-index URL]

The dependencies are those of `pyproject.toml`, at the versions of `constraints.txt`, both beside this file (or in the folder
above). It runs with the pip of the build stage; the image itself has none.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

HERE = Path(__file__).resolve().parent
# In every package but those that compile at run time (torch.compile): tests, type stubs, and what only compiles against it.
FOLDERS = ("tests", "include")
SUFFIXES = (".pyi", ".pyx", ".pxd", ".pxi", ".a", ".c", ".cpp", ".h", ".hpp", ".lib")
COMPILING = ("torch", "triton", "nvidia")
# Clients that kfp brings along and leaves alone within a task, and a library that only plots as PDF need: together a tenth of
# the byte code. Python compiles them when they are imported all the same.
NOT_COMPILED = (
    "kubernetes",
    "google",
    "kfp_server_api",
    "kubeflow",
    "kubeflow_katib_api",
    "kubeflow_trainer_api",
    "fontTools",
)
# Libraries that no module of ours loads; the packages import without them. pyarrow's are those that conda-forge's
# pyarrow-core leaves out, too: remote procedure calls and its own S3 client. onnxruntime's Python module
# contains the runtime; beside it lies a second copy, for programs in C.
UNUSED = (
    "Crypto/SelfTest",
    "matplotlib/mpl-data/sample_data",
    "onnxruntime/capi/libonnxruntime.so.*",
    "pyarrow/libarrow_flight.so*",
    "pyarrow/libarrow_python_flight.so*",
    "pyarrow/_flight.*.so",
    "pyarrow/libarrow_s3.so*",
    "pyarrow/_s3fs.*.so",
)


def requirements(extras: list[str]) -> list[str]:
    """What the package and these extras require; an extra may name others as `eolgul[…]`."""
    place = next(folder for folder in (HERE, HERE.parent) if (folder / "pyproject.toml").is_file())
    project = tomllib.loads((place / "pyproject.toml").read_text())["project"]
    found, todo = list(project["dependencies"]), list(extras)
    for extra in todo:
        for requirement in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{project['name']}\[([\w,]+)\]", requirement)
            if own:
                todo += [name for name in own[1].split(",") if name not in todo]
            else:
                found.append(requirement)
    return sorted(set(found))


def pip(environment: Path, *words: str, constrained: bool = True) -> None:
    """Run `pip install`; a package that is built from source is built with pinned tools, too."""
    constraints = next(folder for folder in (HERE, HERE.parent) if (folder / "constraints.txt").is_file())
    pins = str(constraints / "constraints.txt")
    python = environment / "bin" / "python"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(python), "install"),
            *("--no-cache-dir", "--no-compile", "--disable-pip-version-check", "--root-user-action", "ignore"),
            *(("-c", pins) if constrained else ()),
            *words,
        ],
        env={**os.environ, "PIP_BUILD_CONSTRAINT": pins},
        check=True,
    )


def superfluous(packages: Path) -> Iterator[Path]:
    """The files and folders below `site-packages` that are not needed to run."""
    for package in packages.iterdir():
        if package.name in COMPILING or not package.is_dir():
            continue
        for folder in FOLDERS:
            yield from (path for path in package.rglob(folder) if path.is_dir())
        for path in package.rglob("*"):
            if path.suffix in SUFFIXES and path.is_file():
                yield path
    for pattern in UNUSED:
        yield from packages.glob(pattern)


def compiled(packages: Path) -> set[Path]:
    """The compiled modules of Python, without the libraries that wheels bring along."""
    return {*packages.rglob("*.cpython-*.so"), *packages.rglob("*.abi3.so")}


def trim(packages: Path) -> None:
    """Remove them."""
    for path in list(superfluous(packages)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def strip(modules: list[Path]) -> None:
    """Remove the debugging information of compiled modules: a fourteenth of the service's packages."""
    program = Path(sys.prefix) / "strip" / "strip"  # with its libraries, in the stage that builds
    if modules:
        subprocess.run(
            [program, "--strip-debug", *modules],
            env={**os.environ, "LD_LIBRARY_PATH": str(program.parent)},
            check=True,
        )


def byte_compile(python: Path, packages: Path) -> None:
    """Write the byte code that is missing, without the times of files in it: the root file system may be read-only."""
    missing = [
        path
        for path in sorted(packages.rglob("*.py"))
        if path.relative_to(packages).parts[0] not in NOT_COMPILED
        and not list((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"))
    ]
    subprocess.run(
        [python, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-i", "-"],
        input="".join(f"{path}\n" for path in missing),
        stdout=subprocess.DEVNULL,
        text=True,
        check=False,  # a package may hold a file of another Python's grammar, which nothing imports
    )


def describe(environment: Path) -> None:
    """Write what is in the environment and, from dpkg, in the base image as a CycloneDX document: `sbom.cdx.json`."""
    out = environment / "sbom.cdx.json"
    program = Path(sys.prefix) / "bin" / "cyclonedx-py"
    words = ["environment", "--output-reproducible", "--no-validate", "--of", "JSON", "-o", str(out)]
    subprocess.run([program, *words, environment / "bin" / "python"], check=True)
    document = json.loads(out.read_text())
    status = Path("/var/lib/dpkg/status")
    for paragraph in status.read_text().split("\n\n") if status.exists() else ():
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", paragraph, re.M))
        if fields.get("Status") == "install ok installed":
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{name}@{quote(version)}?arch={fields['Architecture']}"
            component = {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}
            document["components"].append(component)
    out.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def main() -> None:
    """Install, remove, compile; describe the whole where our own wheel, the last to come, is installed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("environment", type=Path)
    parser.add_argument("--extras", default="", help="of pyproject.toml, with commas")
    parser.add_argument("--requirements", type=Path, help="a file to install instead of the package's dependencies")
    parser.add_argument("--torch-index", default="", help="where torch comes from (default: where the others do)")
    parser.add_argument("--no-deps", default="", help="one more requirement, without its dependencies")
    parser.add_argument("--wheel", type=Path, help="folder of one wheel to install alone, without dependencies")
    options = parser.parse_args()
    [packages] = (options.environment / "lib").glob("python3*/site-packages")
    there = compiled(packages)  # of a layer below: to touch them is to copy them
    if options.wheel:
        [wheel] = options.wheel.glob("*.whl")
        pip(options.environment, "--no-deps", "--no-index", str(wheel))
    elif options.requirements:
        pip(options.environment, "-r", str(options.requirements), constrained=False)
    else:
        if options.torch_index:
            pip(options.environment, "--index-url", options.torch_index, "torch", "torchvision")
        pip(options.environment, *requirements([name for name in options.extras.split(",") if name]))
        if options.no_deps:
            pip(options.environment, "--no-deps", options.no_deps)
    trim(packages)
    strip(sorted(compiled(packages) - there))
    byte_compile(options.environment / "bin" / "python", packages)
    if options.wheel or options.requirements:
        describe(options.environment)


if __name__ == "__main__":
    main()
