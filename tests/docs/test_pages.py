"""The pages that people write: links lead somewhere, commands and files that they name exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.places import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")])
GENERATED = ("reference/", "changelog.md", "contributing.md", "security.md")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def slug(heading: str) -> str:
    """The anchor of a heading, as Python-Markdown makes it."""
    text = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
    return re.sub(r"[-\s]+", "-", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    """Links in pages of docs/ to each other are checked by `make docs` too; those of the root only here."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in LINK.findall(text):
        parts = urlsplit(target)
        if parts.scheme:
            assert parts.scheme == "https" and re.fullmatch(r"[a-z0-9.-]+\.[a-z]+", parts.netloc), target
            continue
        file = (page.parent / parts.path).resolve() if parts.path else page
        inside = file.relative_to(ROOT / "docs").as_posix() if file.is_relative_to(ROOT / "docs") else ""
        if inside.startswith(GENERATED):
            continue
        assert file.exists(), f"{page.name}: {target}"
        if parts.fragment:
            anchors = {slug(heading) for heading in re.findall(r"^#+ (.+)$", file.read_text(), re.M)}
            assert parts.fragment in anchors, f"{page.name}: {target}"


def commands() -> dict[str, set[str]]:
    import typer

    from eolgul.cli.main import app

    found: dict[str, set[str]] = {}

    def walk(words: str, command) -> None:
        for name, child in getattr(command, "commands", {}).items():
            walk(f"{words} {name}".strip(), child)
        if not hasattr(command, "commands"):
            found[words] = {name for item in command.params for name in (*item.opts, *item.secondary_opts)}

    walk("", typer.main.get_command(app))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path):
    known = commands()
    text = page.read_text().replace("\\\n", " ")
    lines = [line.strip() for block in text.split("```")[1::2] for line in block.splitlines()]
    lines += re.findall(r"`(eolgul [^`]+)`", text)
    for line in lines:
        if not re.match(r"([A-Z_]+=\S+ )*eolgul ", line):
            continue
        words = shlex.split(line.replace("…", ""), comments=True)
        words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
        if not words or words[0] != "eolgul" or len(words) == 1 or words[1].startswith("-"):
            continue
        names = [name for name in known if words[1 : 1 + len(name.split())] == name.split()]
        if not names:
            group = {name for name in known if name.startswith(f"{words[1]} ")}
            assert group, f"{page.name}: {line}"
            continue
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known[names[0]], f"{page.name}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_targets_exist(page: Path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    text = page.read_text()
    named = re.findall(r"`make ([a-z-]+)", text) + re.findall(r"^make ([a-z-]+)", text, re.M)
    assert set(named) <= targets | {"test-fast"}


def test_files_that_contributing_names_exist():
    """A name with `<…>` is a file to be made."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    names = re.findall(r"`((?:src|serving|components|pipelines|k8s|tests|docs|examples)/[^`]*)`", text)
    assert len(names) > 30
    assert not [name for name in names if "<" not in name and not (ROOT / name).exists()]


def test_the_tree_that_the_readme_draws_exists():
    text = (ROOT / "README.md").read_text().partition("## The tree")[2].partition("```\n")[2].partition("```")[0]
    names = re.findall(r"(?<![\w/])([a-z_0-9]+(?:/|\.py))(?![\w])", text)
    assert len(names) > 25
    places = (ROOT, ROOT / "src" / "eolgul", ROOT / "serving")
    assert not [name for name in names if not any((place / name).exists() for place in places)]


def test_the_readme_stays_short():
    for name in ("README.md", "README.ko.md"):
        assert len((ROOT / name).read_text().splitlines()) <= 125
