"""The Dockerfiles: one per image, accepted by hadolint, with exactly the packages that the step imports."""

from __future__ import annotations

import ast
import functools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.places import ROOT

COMPONENTS = ("extract", "align", "assemble", "train", "evaluate", "promote")
IMAGES = (*COMPONENTS, "serving")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Where each image's work begins. The command line and `steps` are in all of them and reach everything lazily: see below.
ENTRIES = {
    "extract": ["eolgul.extract.step"],
    "align": ["eolgul.align.step"],
    "assemble": ["eolgul.assemble.step"],
    "train": ["eolgul.train.loop"],
    "evaluate": ["eolgul.evaluate.step", "eolgul.registry.store"],
    "promote": ["eolgul.promote.step"],
    "serving": ["eolgul.serving.service", "eolgul.serving.launch"],
}
# Imported only inside functions that the image never calls: detector's export, report, plots, protocols, inference.
NEVER_CALLED = {
    "serving": {"torch", "facenet_pytorch", "matplotlib", "sklearn", "scipy"},
    "promote": {"jinja2", "markupsafe", "matplotlib", "onnxruntime", "sklearn", "scipy"},
}


def _text(name: str) -> str:
    return (ROOT / "docker" / f"{name}.Dockerfile").read_text()


def instructions(name: str) -> list[tuple[str, str]]:
    """Instruction and arguments, comments dropped and continued lines joined."""
    lines = [line for line in _text(name).splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in joined.splitlines() if line.strip()]


def of(name: str, instruction: str) -> list[str]:
    return [arguments for found, arguments in instructions(name) if found == instruction]


def extras(name: str) -> set[str]:
    [found] = re.findall(r'"\.\[([\w,]+)\]"', "\n".join(of(name, "RUN")))
    return set(found.split(","))


def test_one_dockerfile_an_image(root):
    assert {path.name for path in (root / "docker").glob("*Dockerfile*")} == {f"{name}.Dockerfile" for name in IMAGES}


def test_every_component_has_one(root):
    assert {path.parent.name for path in root.glob("components/*/component.py")} == set(COMPONENTS)


def test_components_run_in_these_images(monkeypatch, tmp_path):
    """The images that the compiled pipeline names are those that `make images` builds."""
    from eolgul.pipelines.images import resolve_images

    for name in list(os.environ):
        if name.startswith("EOLGUL_"):
            monkeypatch.delenv(name)
    tool = tmp_path / "builder"
    tool.write_text('#!/bin/sh\necho "$@"\n')
    tool.chmod(0o755)
    environment = {
        "PATH": os.environ["PATH"],
        "CONTAINER_TOOL": str(tool),
        "EOLGUL_IMAGE_PREFIX": "registry.example/eolgul",
    }
    done = subprocess.run(
        ["make", "-s", "images"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    built = dict(re.findall(r"^build -f docker/(\w+)\.Dockerfile -t (\S+) \.$", done.stdout, re.M))
    assert built.keys() == set(IMAGES)
    assert {name: built[name] for name in COMPONENTS} == resolve_images(environment)


def test_hadolint(root, find_binary):
    done = subprocess.run(
        [find_binary("hadolint"), *sorted((root / "docker").glob("*.Dockerfile"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", IMAGES)
def test_base_is_pinned_and_user_is_a_number(name):
    assert of(name, "ARG") == ["PYTHON_IMAGE=python:3.11-slim"] and of(name, "FROM") == ["${PYTHON_IMAGE}"]
    assert of(name, "USER") == ["10001"]
    after = [found for found, _ in instructions(name)]
    assert not {"RUN", "COPY", "ADD"} & set(after[after.index("USER") :]), "something is still done after the last USER"


@pytest.mark.parametrize("name", IMAGES)
def test_what_is_copied_exists_and_is_let_through(name, root):
    ignore = [line for line in (root / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ignore[0] == "*"
    assert not of(name, "ADD")
    for arguments in of(name, "COPY"):
        for source in shlex.split(arguments)[:-1]:
            path = source.removesuffix("/")
            assert (root / path).exists(), f"{name}: COPY {source}"
            assert f"!{path}" in ignore, f"{name}: .dockerignore keeps {source} out"


@pytest.mark.parametrize("name", IMAGES)
def test_pip_is_constrained(name):
    runs = "\n".join(of(name, "RUN"))
    installs = re.findall(r"pip install ([^&\n]+)", runs)
    assert len(installs) == {"extract": 4, "align": 3, "train": 3}.get(name, 2)
    for install in installs:
        pinned = "-c constraints.txt", "--no-deps", "-r requirements-mxnet.txt"
        assert "--no-cache-dir" in install and any(word in install for word in pinned), install
    assert extras(name) <= PYPROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("name", IMAGES)
def test_dependencies_come_before_source(name):
    """The empty package is removed before ours is copied: setuptools would keep its newer build/…/__init__.py."""
    steps = [f"{found} {arguments}" for found, arguments in instructions(name)]
    [dependencies] = [index for index, step in enumerate(steps) if "-c constraints.txt" in step]
    source = steps.index("COPY src src")
    assert dependencies < source < len(steps)
    assert steps[dependencies].endswith("rm -rf build src README.md LICENSE NOTICE")
    assert [step.split()[1] for step in steps[source : source + 4]] == ["src", "serving", "components", "pipelines"]
    assert "--force-reinstall ." in steps[source + 4]


def test_mxnet_is_where_records_are_read(root):
    for name in IMAGES:
        assert any("mxnet" in arguments for _, arguments in instructions(name)) == (name == "extract")
    [setting] = [line for line in of("extract", "ENV") if "MXNET" in line]
    variable, _, python = setting.partition("=")
    assert f'"{variable}"' in (root / "src/eolgul/formats/mxnet_reader.py").read_text()
    assert any(f"-m venv {Path(python).parents[1]} " in run and f"{python} -c" in run for run in of("extract", "RUN"))
    lines = (root / "requirements-mxnet.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in lines if not line.startswith("#"))


def test_mtcnn_is_where_it_is_exported():
    for name in IMAGES:
        runs = "\n".join(of(name, "RUN"))
        assert ("facenet-pytorch" in runs) == (name in ("extract", "align", "train")), name
        assert "anny" not in runs
    pinned = re.findall(r"^facenet-pytorch==[\d.]+$", (ROOT / "requirements-nodeps.txt").read_text(), re.M)
    assert len(pinned) == 1, "the Dockerfiles take this line by grep"


@pytest.mark.parametrize("name", COMPONENTS)
def test_components_carry_kfp(name):
    assert "pipeline" in extras(name)
    assert not of(name, "ENTRYPOINT"), "KFP's docker runner passes its command behind an entry point"
    assert of(name, "CMD") == [f'["eolgul", "{name}", "--help"]']


@pytest.mark.parametrize("name", IMAGES)
def test_no_secret_and_no_unknown_setting(name):
    from eolgul.serving.settings import Settings
    from eolgul.storage import S3Settings

    names = {word.partition("=")[0] for line in of(name, "ENV") + of(name, "ARG") for word in line.split()}
    assert not [found for found in names if re.search(r"KEY|SECRET|PASSWORD|TOKEN", found)]
    read = {f"EOLGUL_{field}".upper() for field in Settings.model_fields}
    read |= {f"EOLGUL_S3_{field}".upper() for field in S3Settings.model_fields}
    read |= {"EOLGUL_MXNET_PYTHON"}  # eolgul.formats.mxnet_reader
    assert {found for found in names if found.startswith("EOLGUL_")} <= read


def test_components_differ_only_in_what_they_install():
    def rest(name: str) -> list[tuple[str, str]]:
        drop = ("-c constraints.txt", f'"{name}"', "COPY pyproject.toml", "mxnet", "MXNET")
        return [step for step in instructions(name) if not any(word in " ".join(step) for word in drop)]

    assert all(rest(name) == rest("extract") for name in COMPONENTS)


# ---- the packages of an image against the imports of its code


def _closure(requirements: list[str]) -> set[str]:
    """The distributions that these requirements install, with environment markers and extras."""
    seen: dict[str, set[str]] = {}
    todo = [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        wanted = {"", *requirement.extras}
        new = wanted - seen.setdefault(name, set())
        seen[name] |= wanted
        if not new:
            continue
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # a dependency that is not for this platform, or not installed here
        for text in requires:
            child = Requirement(text)
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in new):
                todo.append(child)
    return set(seen)


@functools.cache
def _distributions() -> dict[str, set[str]]:
    return {
        module: {canonicalize_name(dist) for dist in dists}
        for module, dists in metadata.packages_distributions().items()
    }


def _file(module: str) -> Path | None:
    parts = module.split(".")
    base = ROOT.joinpath("src", *parts)
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(tree: ast.Module, *, lazy: bool) -> Iterator[str]:
    """Every imported name of a module; `from a import b` gives a and a.b. With `lazy`, inside functions too.

    Not what is under TYPE_CHECKING.
    """
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo.extend(node.orelse)
            continue
        if not lazy and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        todo.extend(ast.iter_child_nodes(node))


@functools.cache
def _foreign(entries: tuple[str, ...], *, lazy: bool = True) -> frozenset[str]:
    """Top-level modules of other projects that `entries` import through our own code."""
    seen: set[str] = set()
    foreign: set[str] = set()
    todo = list(entries)
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        top = module.partition(".")[0]
        if top != "eolgul":
            foreign.add(top)
            continue
        todo += [module.rpartition(".")[0]] if "." in module else []
        path = _file(module)
        if path is not None:
            todo += _imports(ast.parse(path.read_text()), lazy=lazy)
    return frozenset(foreign - set(sys.stdlib_module_names))


def _inside(name: str) -> list[str]:
    """What the body of the component's function imports: KFP sends only that into the image, not the file around it."""
    if name not in COMPONENTS:
        return []
    tree = ast.parse((ROOT / "components" / name / "component.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return list(_imports(ast.Module([node for function in functions for node in function.body], []), lazy=True))


@pytest.mark.parametrize("name", IMAGES)
def test_image_has_what_its_code_imports(name):
    allowed = _closure(
        PYPROJECT["dependencies"]
        + [text for extra in extras(name) for text in PYPROJECT["optional-dependencies"][extra]]
    )
    allowed |= {"facenet-pytorch"} if name in ("extract", "align", "train") else set()
    reached = _foreign(tuple(ENTRIES[name]))
    assert reached, "the walk found nothing"
    entries = [*ENTRIES[name], "eolgul.cli.main", *_inside(name)]
    at_import = _foreign(tuple(entries), lazy=False)
    for module in sorted(reached - NEVER_CALLED.get(name, set()) | at_import):
        dists = _distributions().get(module)
        assert dists, f"{name}: {module} is imported and not installed here"
        assert dists & allowed, f"{name}: {module} comes with {dists}, which the image does not install"


@pytest.mark.parametrize("name", IMAGES)
def test_signing_does_not_rely_on_another_package_s_dependencies(name):
    """Signatures are made by `promote` and checked by `inspect` and the service; any image may run these commands."""
    named = PYPROJECT["dependencies"] + [
        text for extra in extras(name) for text in PYPROJECT["optional-dependencies"][extra]
    ]
    declared = {canonicalize_name(Requirement(text).name) for text in named}
    for module in _foreign(("eolgul.registry.signing",)):
        assert _distributions()[module] & declared, f"{name}: {module} is not among its own requirements"


def test_every_entry_is_there():
    for entries in ENTRIES.values():
        assert all(_file(entry) for entry in entries)


def test_the_walk_sees_through_functions():
    assert {"torch", "facenet_pytorch", "cv2", "onnxruntime"} <= _foreign(("eolgul.align.step",))
    assert "torch" not in _foreign(("eolgul.assemble.step",))


def test_serving_has_no_torch():
    wanted = PYPROJECT["dependencies"] + PYPROJECT["optional-dependencies"]["serve"]
    assert not _closure(wanted) & {"torch", "torchvision", "facenet-pytorch", "kfp"}
