"""The Dockerfiles: one per image, accepted by hadolint, with exactly the packages that the step imports."""

from __future__ import annotations

import ast
import functools
import os
import re
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
    # MTCNN's networks were exported while the image was built: EOLGUL_DETECTOR names them.
    "align": {"torch", "facenet_pytorch"},
    "extract": {"torch", "facenet_pytorch"},
}


def _text(name: str) -> str:
    return (ROOT / "docker" / f"{name}.Dockerfile").read_text()


def stages(name: str) -> dict[str, list[tuple[str, str]]]:
    """Each stage's instructions with their arguments, the image's own as "". Comments are dropped, continued lines joined."""
    lines = [line for line in _text(name).splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found: dict[str, list[tuple[str, str]]] = {}
    current = "before"
    for line in filter(str.strip, joined.splitlines()):
        word, _, arguments = line.partition(" ")
        if word == "FROM":
            current = arguments.partition(" AS ")[2]
        found.setdefault(current, []).append((word, arguments.strip()))
    return found


def instructions(name: str) -> list[tuple[str, str]]:
    """The instructions of the stages that the image consists of, in their order."""
    every, parts = stages(name), [""]
    while (
        parents := {arguments.partition(" AS ")[0] for word, arguments in every[parts[0]] if word == "FROM"}
        & every.keys()
    ):
        parts.insert(0, parents.pop())
    return [*every["before"], *(step for part in parts for step in every[part])]


def of(name: str, instruction: str) -> list[str]:
    return [arguments for found, arguments in instructions(name) if found == instruction]


def extras(name: str) -> set[str]:
    found = re.findall(r'"/tmp/empty\[([\w,]+)\]"', "\n".join(of(name, "RUN")))
    return set(",".join(found).split(",")) - {""}


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
        ["make", "-s", "images", "BUILD_ARGS=--build-arg A=b"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    arguments = r"--build-arg VERSION=[\w.]+ --build-arg REVISION=\w+ --build-arg A=b"
    built = dict(re.findall(rf"^build {arguments} -f docker/(\w+)\.Dockerfile -t (\S+) \.$", done.stdout, re.M))
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
    assert stages(name)["before"] == [("ARG", "PYTHON_IMAGE=python:3.11-slim")]
    assert stages(name)["base"][0] == ("FROM", "${PYTHON_IMAGE} AS base")
    assert of(name, "USER") == ["10001"]
    after = [found for found, _ in instructions(name)]
    assert not {"RUN", "COPY", "ADD"} & set(after[after.index("USER") :]), "something is still done after the last USER"


def test_all_images_begin_with_the_same_layers():
    """The same instructions on the same base: one builder makes these layers once, and a node holds them once."""
    assert {str(stages(name)["base"]) for name in IMAGES} == {str(stages("serving")["base"])}
    assert {str(stages(name)["steps"]) for name in COMPONENTS} == {str(stages("promote")["steps"])}
    assert stages("align")["detector"] == stages("extract")["detector"]
    assert 'pip install --no-cache-dir -c /in/constraints.txt "/tmp/empty" ' in str(stages("serving")["base"])


@pytest.mark.parametrize("name", IMAGES)
def test_what_is_taken_exists_and_is_let_through(name, root):
    ignore = [line for line in (root / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ignore[0] == "*"
    every = [step for stage in stages(name).values() for step in stage]
    sources = {
        source for word, arguments in every if word == "RUN" for source in re.findall(r"source=([^, ]+)", arguments)
    }
    assert {"pyproject.toml", "constraints.txt"} <= sources
    for source in sources:
        assert (root / source).exists(), f"{name}: {source}"
        assert f"!{source}" in ignore, f"{name}: .dockerignore keeps {source} out"
    assert [arguments for word, arguments in every if word in ("COPY", "ADD")] == (
        ["--from=detector /opt/detector /opt/detector"] if name in ("align", "extract") else []
    ), "files are mounted for a command; what is copied stays in the image"


@pytest.mark.parametrize("name", IMAGES)
def test_pip_is_constrained(name):
    for stage in stages(name).values():
        for install in re.findall(
            r"pip install ([^&\n]+)", "\n".join(arguments for word, arguments in stage if word == "RUN")
        ):
            pinned = "-c /in/constraints.txt", "--no-deps", "-r /in/requirements-mxnet.txt"
            assert "--no-cache-dir" in install and any(word in install for word in pinned), install
    assert extras(name) <= PYPROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("name", IMAGES)
def test_dependencies_come_before_source_and_nothing_is_left_over(name):
    runs = of(name, "RUN")
    assert "--force-reinstall /tmp/source && rm -rf /tmp/source" in runs[-1] or name == "serving"
    [ours] = [run for run in runs if "/tmp/source" in run]
    assert runs.index(ours) == len(runs) - 1
    for run in runs:
        if "/tmp/empty" in run:
            assert run.endswith("&& rm -rf /tmp/empty")
        assert "venv" not in run or "--without-pip" in run, "pip is the base image's, and is not in ours"


@pytest.mark.parametrize("name", IMAGES)
def test_any_user_may_run_it_on_a_read_only_root(name):
    """HOME is set, since a user without an entry in /etc/passwd has / for it; caches are where a volume may be mounted."""
    environment = dict(word.split("=", 1) for line in of(name, "ENV") for word in line.split())
    assert environment["HOME"] == "/home/eolgul" and "chmod -R g=u /home/eolgul" in str(of(name, "RUN"))
    place = "/var/cache" if name == "serving" else "/tmp/cache"
    assert environment["XDG_CACHE_HOME"] == place and environment["EOLGUL_S3_CACHE"] == f"{place}/eolgul/s3"
    assert environment["ORT_DISABLE_TELEMETRY"] == "1" and environment["BENTOML_DO_NOT_TRACK"] == "True"


@pytest.mark.parametrize("name", IMAGES)
def test_labels_say_what_it_is(name):
    assert ("ARG", "VERSION=unknown") in stages(name)[""] and ("ARG", "REVISION=unknown") in stages(name)[""]
    [labels] = of(name, "LABEL")
    assert f'org.opencontainers.image.title="eolgul/{name}"' in labels
    assert 'image.version="$VERSION"' in labels and 'image.revision="$REVISION"' in labels


def test_torch_is_in_the_training_image_alone():
    for name in IMAGES:
        assert ("train" in extras(name)) == (name == "train"), name
        own = dict(stages(name))
        own.pop("detector", None)
        assert ("facenet-pytorch" in str(own)) == (name == "train"), name
    assert "ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu" in _text("align")
    assert ("ARG", "TORCH_INDEX=") in stages("train")[""], "CUDA, unless another index is named"


def test_mxnet_is_where_records_are_read(root):
    for name in IMAGES:
        assert any("mxnet" in arguments for _, arguments in instructions(name)) == (name == "extract")
    [setting] = [line for line in of("extract", "ENV") if "MXNET" in line]
    variable, _, python = setting.partition("=")
    assert f'"{variable}"' in (root / "src/eolgul/formats/mxnet_reader.py").read_text()
    folder = Path(python).parents[1]
    assert any(f"--without-pip {folder} " in run and f"PIP_PYTHON={python} " in run for run in of("extract", "RUN"))
    lines = (root / "requirements-mxnet.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in lines if not line.startswith("#"))


def test_mtcnn_is_exported_where_faces_are_looked_for(root):
    for name in ("align", "extract"):
        assert "export_onnx(Path('/opt/detector'))" in stages(name)["detector"][-1][1]
        assert "EOLGUL_DETECTOR=/opt/detector" in of(name, "ENV") and "detect" in extras(name)
    assert '"EOLGUL_DETECTOR"' in (root / "src/eolgul/faces/networks.py").read_text()
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
    read |= {"EOLGUL_MXNET_PYTHON", "EOLGUL_DETECTOR"}  # eolgul.formats.mxnet_reader, eolgul.faces.networks
    assert {found for found in names if found.startswith("EOLGUL_")} <= read


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
    allowed |= {"facenet-pytorch"} if name == "train" else set()
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
