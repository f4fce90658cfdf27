"""Reference pages about commands, the options of steps, and training recipes."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reference_text import paragraphs, table

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "eolgul"


def walk_commands() -> Iterator[tuple[str, Any]]:
    """Every command of `eolgul` that does something, as (words, click command), in the order of `--help`."""
    import typer

    from eolgul.cli.main import app

    def walk(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield words, command
            return
        for name, child in command.commands.items():
            yield from walk(f"{words} {name}", child)

    return walk("eolgul", typer.main.get_command(app))


def commands() -> str:
    """Every command with its arguments and options."""
    lines = [
        "# Commands",
        "",
        "Places are paths or `s3://bucket/key`. A command prints one line of JSON on stdout and exits with 0 only when its"
        " artifact is complete, with 2 and one sentence on bad input.",
    ]
    for words, command in walk_commands():
        lines += ["", f"## `{words}`", "", paragraphs(command.help or "")]
        arguments = [item for item in command.params if item.param_type_name == "argument"]
        options = [item for item in command.params if item.param_type_name == "option" and not item.hidden]
        if arguments:
            rows = [(f"`{_label(item)}`", _default(item), paragraphs(item.help or "")) for item in arguments]
            lines += ["", *table(("argument", "default", "meaning"), rows)]
        if options:
            rows = [(", ".join(f"`{name}`" for name in (*item.opts, *item.secondary_opts)), _default(item), _option(item))
                    for item in options]  # fmt: skip
            lines += ["", *table(("option", "default", "meaning"), rows)]
    return "\n".join(lines) + "\n"


def _label(item: Any) -> str:
    return str(item.name).upper() + (" …" if item.nargs == -1 else "")


def _default(item: Any) -> str:
    if item.required:
        return "required"
    value = item.default() if callable(item.default) else item.default
    if value is None or value is False or value in ([], ()):
        return ""
    return f"`{value}`"


def _option(item: Any) -> str:
    low, high = getattr(item, "min", None), getattr(item, "max", None)
    bounds = (
        f" ({low}…{high})" if low is not None and high is not None else f" (at least {low})" if low is not None else ""
    )
    repeat = " May be given several times." if item.multiple else ""
    variable = f" Also from `{item.envvar}`." if item.envvar else ""
    return paragraphs(item.help or "") + bounds + repeat + variable


def configs() -> list[tuple[str, type]]:
    """The config dataclasses of the steps, as (step, class)."""
    found = []
    for file in sorted(PACKAGE.glob("*/config.py")):
        step = file.parent.name
        module = importlib.import_module(f"eolgul.{step}.config")
        for _, value in inspect.getmembers(module, inspect.isclass):
            if value.__module__ == module.__name__ and dataclasses.is_dataclass(value):
                found.append((step, value))
    return found


def steps() -> str:
    """The options of each step."""
    lines = [
        "# Options of the steps",
        "",
        "An option has the same name in the command (`--min-face-size`), in the Kubeflow component and in Python"
        " (`min_face_size`); in the pipeline the step's name is before it (`align_min_face_size`).",
    ]
    for step, config in configs():
        lines += ["", f"## {step}: `{config.__name__}`", "", paragraphs(inspect.getdoc(config) or "")]
        rows = []
        for name, kind, default, text, meta in described_fields(config):
            if not meta.get("internal"):
                rows.append((f"`{name}`", f"`{kind}`", f"`{default!r}`", text))
        lines += ["", *table(("field", "type", "default", "meaning"), rows)]
    return "\n".join(lines) + "\n"


def recipes() -> str:
    """The keys of a training recipe and the recipes that come with the package."""
    from eolgul.train.recipe import Recipe, recipe_names

    rows = [
        (f"`{name}`", f"`{kind}`", f"`{default!r}`", text) for name, kind, default, text, _ in described_fields(Recipe)
    ]
    lines = [
        "# Training recipes",
        "",
        "A recipe is a TOML file. `eolgul train --recipe NAME` takes one of those below or a path; `--set key=value` changes"
        " a key, and the pipeline's parameter `overrides` does the same.",
        "",
        "## Keys",
        "",
        *table(("key", "type", "default", "meaning"), rows),
    ]
    for name in recipe_names():
        text = (PACKAGE / "train" / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        tomllib.loads(text)
        lines += ["", f"## `{name}`", "", "```toml", text.strip(), "```"]
    return "\n".join(lines) + "\n"


def described_fields(cls: Any) -> Iterator[tuple[str, str, Any, str, dict[str, Any]]]:
    """Name, type, default, description and metadata of each field of a dataclass.

    The description is the field's metadata `help` (with its choices and bounds), or the comment at the end of its line.
    """
    comments = _comments(cls)
    for item in dataclasses.fields(cls):
        factory = item.default_factory
        default = factory() if factory is not dataclasses.MISSING else item.default
        meta = dict(item.metadata)
        text = str(meta.get("help") or comments.get(item.name, ""))
        if choices := meta.get("choices"):
            text += f" One of {', '.join(f'`{word}`' for word in choices)}."
        least, most = meta.get("least"), meta.get("most")
        if least is not None or most is not None:
            text += f" From {least if least is not None else '…'}" + (f" to {most}." if most is not None else ".")
        if kinds := meta.get("kinds"):
            text += f" Only for {' and '.join(kinds)}."
        kind = item.type if isinstance(item.type, str) else getattr(item.type, "__name__", str(item.type))
        yield item.name, kind, default, paragraphs(text), meta


def _comments(cls: type) -> dict[str, str]:
    source = inspect.getsource(cls)
    lines = source.splitlines()
    tree = ast.parse(inspect.cleandoc(source))
    assert isinstance(tree.body[0], ast.ClassDef)
    comments = {}
    for node in tree.body[0].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno:
            _, hash_sign, text = lines[node.end_lineno - 1].partition("  # ")
            comments[node.target.id] = text if hash_sign else ""
    return comments
