"""The Dockerfiles: one per image, accepted by hadolint, with exactly the packages that the step imports."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
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
    return set(",".join(re.findall(r"--extras ([\w,]+)", "\n".join(of(name, "RUN")))).split(","))


# What the page of licences tells about the images is what the Dockerfiles install.
LICENCES = runpy.run_path(str(ROOT / "docs/generate/reference_licences.py"))
closure: Callable[[list[str]], set[str]] = LICENCES["closure"]


def required(names: set[str]) -> list[str]:
    """What the package and these extras require, as the images' own script reads it."""
    return [str(text) for text in runpy.run_path(str(ROOT / "docker/install.py"))["requirements"](sorted(names))]


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
    arguments = r"--build-arg VERSION=[\w.]+ --build-arg REVISION=\w+ --build-arg INPUTS=\w+ --build-arg SOURCE=\w+ --build-arg A=b"
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
    assert {arguments for stage in ("pip", "base") for word, arguments in stages(name)[stage] if word == "FROM"} == {
        "${PYTHON_IMAGE} AS pip", "${PYTHON_IMAGE} AS base"
    }  # fmt: skip
    assert of(name, "USER") == ["10001"]
    after = [found for found, _ in instructions(name)]
    assert not {"RUN", "COPY", "ADD"} & set(after[after.index("USER") :]), "something is still done after the last USER"


def test_all_images_begin_with_the_same_layers():
    """The same instructions on the same base: one builder makes these layers once, and a node holds them once."""
    for stage in ("pip", "tools", "build", "wheel", "base", "common"):
        assert {str(stages(name)[stage]) for name in IMAGES} == {str(stages("serving")[stage])}, stage
    assert {str(stages(name)["steps"]) for name in COMPONENTS} == {str(stages("promote")["steps"])}
    assert stages("align")["detector"] == stages("extract")["detector"]
    assert extras("serving") == {"detect", "serve"} and extras("promote") == {"detect", "component"}


def test_a_changed_input_makes_the_layer_anew():
    """podman and buildah do not look at what is mounted: a hash of it is an argument of every stage that mounts it."""
    for name in IMAGES:
        for stage, steps in stages(name).items():
            declared = {arguments.partition("=")[0] for word, arguments in steps if word == "ARG"}
            if any(
                "target=/in " in arguments or "from=wheel" in arguments for word, arguments in steps if word == "RUN"
            ):
                assert "SOURCE" in declared, f"{name}: {stage or 'this image'}"
            if stage in ("pip", "common"):
                assert "INPUTS" in declared, f"{name}: {stage}"


@pytest.mark.parametrize("name", IMAGES)
def test_what_is_taken_exists_and_is_let_through(name, root):
    ignore = [line for line in (root / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ignore[0] == "*"
    every = [step for stage in stages(name).values() for step in stage]
    mounts = [mount for word, arguments in every if word == "RUN" for mount in re.findall(r"--mount=(\S+)", arguments)]
    sources = {source for mount in mounts if "from=" not in mount for source in re.findall(r"source=([^, ]+)", mount)}
    assert {"pyproject.toml", "constraints.txt", "docker/install.py"} <= sources
    for source in sources:
        assert (root / source).exists(), f"{name}: {source}"
        assert f"!{source}" in ignore, f"{name}: .dockerignore keeps {source} out"
    assert [arguments for word, arguments in every if word in ("COPY", "ADD")] == (
        ["--from=detector /opt/detector /opt/detector"] if name in ("align", "extract") else []
    ), "files are mounted for a command; what is copied stays in the image"


@pytest.mark.parametrize("name", IMAGES)
def test_what_is_installed_is_pinned(name):
    """Also what builds: pip, setuptools, and those of a dependency that comes as source."""
    pins = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {"pip", "setuptools", "wheel", "cyclonedx-bom"} <= pins
    for steps in stages(name).values():
        for install in re.findall(
            r"\bpip (?:install|wheel) ([^&]+)", "\n".join(text for word, text in steps if word == "RUN")
        ):
            assert "--no-cache-dir" in install
            assert "-c /in/constraints.txt" in install or "--no-index --no-build-isolation" in install, install
    assert extras(name) <= PYPROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("name", IMAGES)
def test_dependencies_come_before_source_and_nothing_is_left_over(name):
    runs = of(name, "RUN")
    assert runs[-1].endswith("/in/install.py /opt/venv --wheel /in/wheel") and "from=wheel" in runs[-1]
    assert sum("/in/wheel" in run for run in runs) == 1
    for run in runs:
        assert "/tmp" not in run and ("from=tools" in run or "/opt/tools" not in run), run
        assert "venv" not in run or "-m venv" not in run or "--without-pip" in run, "pip stays in the stage that builds"
    assert "rm -rf /usr/local/lib/python3.11/site-packages" in runs[0], "the base image's pip"


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


def test_every_licence_was_accepted():
    """A new dependency whose licence nobody has read is refused: docs/generate/reference_licences.py."""
    packages = LICENCES["installed"]()
    assert len(packages) > 100 and {"numpy", "bentoml", "kfp"} <= packages.keys()
    for name in packages:
        written, remark = LICENCES["licence"](name)
        assert remark or not LICENCES["unknown"](written), f"{name}: {written!r}"
    assert LICENCES["unknown"]("MIT AND GPL-3.0-only") == {"GPL-3.0-only"} and LICENCES["unknown"]("")
    assert not LICENCES["unknown"]("GPL-3.0-only OR MIT")


def test_licences_are_told_of_what_the_images_hold():
    told = {image: set(names) for images, names in LICENCES["IMAGES"].items() for image in images.split(", ")}
    assert told == {name: extras(name) for name in IMAGES}


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
    assert any(f"--without-pip {folder} " in run and f"install.py {folder} " in run for run in of("extract", "RUN"))
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
    assert "component" in extras(name)
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
    allowed = closure(required(extras(name)))
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
    declared = {canonicalize_name(Requirement(text).name) for text in required(extras(name))}
    for module in _foreign(("eolgul.registry.signing",)):
        assert _distributions()[module] & declared, f"{name}: {module} is not among its own requirements"


def test_every_entry_is_there():
    for entries in ENTRIES.values():
        assert all(_file(entry) for entry in entries)


def test_the_walk_sees_through_functions():
    assert {"torch", "facenet_pytorch", "cv2", "onnxruntime"} <= _foreign(("eolgul.align.step",))
    assert "torch" not in _foreign(("eolgul.assemble.step",))


def test_serving_holds_nothing_heavy_that_it_does_not_use():
    heavy = {"torch", "torchvision", "facenet-pytorch", "kfp", "pyarrow", "scipy", "scikit-learn", "matplotlib", "pip"}
    assert not closure(required(extras("serving"))) & (heavy | {"setuptools", "wheel"})


_WITHOUT = """
import importlib, json, sys
allowed, distributions, modules = json.loads(sys.stdin.read())
class Lacking:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in distributions and not set(distributions[top]) & set(allowed):
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)
sys.meta_path.insert(0, Lacking())
for module in modules:
    importlib.import_module(module)
"""


@pytest.mark.process
def test_the_service_starts_without_what_its_image_lacks():
    """Every module of the service and of its commands, with only the packages of its image to import from."""
    allowed = sorted({"eolgul", *closure(required(extras("serving")))})
    files = [*ROOT.glob("serving/**/*.py"), *ROOT.glob("src/eolgul/cli/*.py")]
    modules = [
        ".".join(("eolgul", *path.relative_to(ROOT).with_suffix("").parts)).replace("eolgul.src.eolgul", "eolgul")
        for path in files
        if path.stem not in ("__init__", "__main__")
    ]
    given = allowed, {module: sorted(dists) for module, dists in _distributions().items()}, sorted(modules)
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT],
        input=json.dumps(given), env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.process
def test_a_command_of_another_image_says_what_is_missing(tmp_path):
    """`eolgul inspect` needs pyarrow, which the service's image does not have."""
    lacking = {"pyarrow": ["pyarrow"], "blosc": ["blosc"]}
    script = _WITHOUT + "from eolgul.cli.main import main\nsys.argv = ['eolgul', 'inspect', '.']\nmain()\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(([], lacking, [])), env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
        check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("eolgul: this command needs the package 'pyarrow'"), done.stderr[-500:]
    assert len(done.stderr.splitlines()) == 1
