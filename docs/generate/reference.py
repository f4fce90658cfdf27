"""The pages under Reference, made from the code that they describe. A hook of mkdocs (see mkdocs.yml).

`pages()` returns them as Markdown; tests/docs compares them with the commands, settings, metrics and endpoints.
"""

from __future__ import annotations

import ast
import logging
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import reference_commands
import reference_licences
import reference_service

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "eolgul"
_logger = logging.getLogger("mkdocs.hooks.reference")

# The packages and modules of `eolgul`, by layer. A test compares them with the tree.
LAYERS = {
    "Interfaces": ("cli", "client", "demo", "pipelines", "components", "serving"),
    "Steps": (
        "steps",
        "extract",
        "align",
        "assemble",
        "train",
        "evaluate",
        "promote",
        "export",
        "synth",
        "inspection",
        "audit",
    ),
    "Artifacts": ("dataset", "faces", "model", "evaluation", "registry"),
    "Base": ("artifact", "storage", "kubeflow", "files", "workers", "config", "content", "errors", "formats", "images"),
}


def pages() -> dict[str, str]:
    """Every generated page: its path below docs/ and its Markdown."""
    made = {
        "reference/commands.md": reference_commands.commands(),
        "reference/steps.md": reference_commands.steps(),
        "reference/recipes.md": reference_commands.recipes(),
        "reference/settings.md": reference_service.settings(),
        "reference/metrics.md": reference_service.metrics(),
        "reference/http.md": reference_service.http(),
        "reference/codes.md": reference_service.codes(),
        "reference/licences.md": reference_licences.licences(),
        "changelog.md": _from_root("CHANGELOG.md"),
        "contributing.md": _from_root("CONTRIBUTING.md"),
        "security.md": _from_root("SECURITY.md"),
    }
    for names in layers().values():
        made |= {f"reference/python/{name}.md": python(name) for name in names}
    return made


def layers() -> dict[str, list[str]]:
    """`LAYERS` without what is not in the tree."""
    return {
        layer: [name for name in names if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()]
        for layer, names in LAYERS.items()
    }


def on_config(config: Any) -> Any:
    """Add the Python pages to the navigation."""
    [reference] = [item["Reference"] for item in config.nav if isinstance(item, dict) and "Reference" in item]
    pages = {layer: [{name: f"reference/python/{name}.md"} for name in names] for layer, names in layers().items()}
    reference.append({"Python": [{layer: links} for layer, links in pages.items()]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to mkdocs' files."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Warn, which ends a strict build, of anything that a page would fetch from elsewhere, and of malformed links."""
    for tag, url in re.findall(r'<(\w+)[^>]*?\s(?:src|href)="(\w+:[^"]*)"', output):
        parts = urlsplit(url)
        if tag != "a" and parts.scheme != "data":
            _logger.warning("%s: <%s> fetches %s", page.file.src_uri, tag, url)
        elif tag == "a" and parts.scheme in ("http", "https") and not re.fullmatch(r"[a-z0-9.-]+(:\d+)?", parts.netloc):
            _logger.warning("%s: not an address: %s", page.file.src_uri, url)
    return output


def modules(name: str) -> list[str]:
    """The modules of a package of `eolgul`, itself first; only itself when it is a module."""
    folder = PACKAGE / name
    if not folder.is_dir():
        return [f"eolgul.{name}"]
    files = sorted(path.relative_to(folder).with_suffix("").parts for path in folder.rglob("*.py"))
    names = [".".join(("eolgul", name, *parts)).removesuffix(".__init__") for parts in files]
    return sorted(names, key=lambda module: (module.count("."), module))


def python(name: str) -> str:
    """The public names of a package, from their docstrings."""
    lines = [f"# `eolgul.{name}`"]
    for module in modules(name):
        lines += ["", f"::: {module}"]
        if not _defines(module):
            lines += ["    options:", "      members: false"]
    return "\n".join(lines) + "\n"


def _defines(module: str) -> bool:
    """Whether a module defines a class or a function; a package's names are often those of its modules, shown there."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return file.name != "__init__.py" or any(isinstance(node, kinds) for node in ast.parse(file.read_text()).body)


def _from_root(name: str) -> str:
    """A page of the repository's root, with its links made relative to docs/."""
    return (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
