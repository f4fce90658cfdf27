"""The generated reference names every command, option, setting, metric, endpoint, recipe key and module."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.places import ROOT

pytest.importorskip("fastapi", reason="the reference describes the service (extra `serve`)")


@pytest.fixture(scope="module")
def reference() -> SimpleNamespace:
    """The public names of the modules in docs/generate, which mkdocs finds on its path."""
    folder = str(ROOT / "docs" / "generate")
    sys.path.insert(0, folder)
    try:
        modules = [importlib.import_module(name) for name in ("reference", "reference_commands", "reference_service")]
    finally:
        sys.path.remove(folder)
    return SimpleNamespace(**{name: value for module in modules for name, value in vars(module).items()})


@pytest.fixture(scope="module")
def pages(reference) -> dict[str, str]:
    return reference.pages()


def test_every_command_with_every_option(reference, pages):
    text = pages["reference/commands.md"]
    commands = dict(reference.walk_commands())
    assert len(commands) > 20
    for words, command in commands.items():
        _, found, section = text.partition(f"\n## `{words}`\n")
        assert found, words
        section = section.partition("\n## ")[0]
        for parameter in command.params:
            names = parameter.opts if parameter.param_type_name == "option" else [parameter.name.upper()]
            assert all(f"`{name}" in section for name in names), f"{words} {names}"


def test_every_option_of_a_step(reference, pages):
    text = pages["reference/steps.md"]
    for step, config in reference.configs():
        section = text.partition(f"## {step}: `{config.__name__}`")[2].partition("\n## ")[0]
        for name, _, _, meaning, meta in reference.described_fields(config):
            assert meta.get("internal") or f"| `{name}` |" in section, f"{step} {name}"
            assert meaning, f"{config.__name__}.{name} has no description"


def test_every_recipe_and_key(pages):
    import dataclasses

    from eolgul.train.recipe import Recipe, recipe_names

    text = pages["reference/recipes.md"]
    assert all(f"| `{item.name}` |" in text for item in dataclasses.fields(Recipe))
    assert all(f"## `{name}`" in text for name in recipe_names())


def test_every_setting(pages):
    from eolgul.serving.settings import Settings
    from eolgul.storage import S3Settings

    text = pages["reference/settings.md"]
    for field in Settings.model_fields:
        assert f"| `EOLGUL_{field.upper()}` |" in text
    for field in S3Settings.model_fields:
        assert f"| `EOLGUL_S3_{field.upper()}` |" in text


def test_every_variable_that_the_code_names(pages):
    files = [path for folder in ("src", "serving", "components", "pipelines") for path in (ROOT / folder).rglob("*.py")]
    named = {name for path in files for name in re.findall(r"EOLGUL_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())}
    assert len(named) > 20
    groups = {"EOLGUL_S3", "EOLGUL_REDIS"}  # "EOLGUL_REDIS_…" in a text
    missing = [name for name in named - groups if f"`{name}`" not in pages["reference/settings.md"]]
    assert not missing, f"not in docs/generate: {missing}"


def test_every_metric(pages):
    from prometheus_client import REGISTRY

    import eolgul.serving.metrics  # noqa: F401 - registers them

    names = {family.name for family in REGISTRY.collect() if family.name.startswith("eolgul_")}
    assert len(names) > 10
    for name in names:
        assert (
            f"| `{name}` |" in pages["reference/metrics.md"] or f"| `{name}_total` |" in pages["reference/metrics.md"]
        )


def test_every_endpoint_and_shape(reference, pages):
    text = pages["reference/http.md"]
    description = reference.openapi()
    assert "/v1/verify" in description["paths"] and "/v1/models/current" in description["paths"]
    for path, methods in description["paths"].items():
        assert all(f"## `{method.upper()} {path}`" in text for method in methods)
    for name, schema in description["components"]["schemas"].items():
        section = text.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        assert all(f"| `{key}` |" in section for key in schema.get("properties", {})), name


def test_every_code(pages):
    from eolgul.errors import Reason
    from eolgul.serving.problems import PROBLEMS

    text = pages["reference/codes.md"]
    assert all(f"| `{code}` |" in text for code in [*PROBLEMS, *Reason])


def test_every_module_has_a_layer_and_a_page(reference, pages):
    package = ROOT / "src" / "eolgul"
    entries = [path for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    tree = {path.stem for path in entries} - {"__init__", "__main__"}
    listed = {name for names in reference.LAYERS.values() for name in names}
    assert tree <= listed, f"add to LAYERS in docs/generate: {sorted(tree - listed)}"
    text = "\n".join(pages.values())
    for path in package.glob("**/*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        if module not in ("eolgul", "eolgul.__main__"):
            assert re.search(rf"^::: {re.escape(module)}$", text, re.M), module


def test_pages_are_generated_the_same_way_twice(reference, pages):
    assert reference.pages() == pages
    assert not [name for name, text in pages.items() if str(Path.home()) in text or str(ROOT) in text]
