"""Pipeline parameters as they are given on the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from eolgul.errors import InputError
from eolgul.pipelines.catalogue import DEFAULT, declared


def parameters(texts: Sequence[str], pipeline: str = DEFAULT) -> dict[str, Any]:
    """Read `name=value` texts as pipeline arguments; lists and numbers are JSON.

    Raises:
        InputError: For an unknown pipeline or name, a value of the wrong type, or one that is missing.
    """
    known = declared(pipeline).component_spec.inputs
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and name in values:
            raise InputError(f"parameter {name}: is given twice")
        if not equals or name not in known:
            raise InputError(f"parameter {text!r}: expected name=value with a name of {', '.join(sorted(known))}")
        values[name] = _parameter(name, value, "List" if "List" in str(known[name].type) else str(known[name].type))
    missing = [name for name, item in known.items() if not item.optional and name not in values]
    if missing:
        raise InputError(f"pipeline {pipeline}: expected --param {missing[0]}=… ({known[missing[0]].description})")
    return values


def _parameter(name: str, text: str, kind: str) -> Any:
    """Read a parameter's value as the type that the pipeline declares; InputError when the text has another one."""
    if kind == "String":
        return text
    expected: dict[str, type | tuple[type, ...]] = {
        "List": list,
        "Integer": int,
        "Float": (int, float),
        "Boolean": bool,
    }
    names = {"List": 'a JSON list such as ["a", "b"]', "Integer": "a whole number", "Float": "a number"}
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, expected.get(kind, object)) or (isinstance(value, bool) and kind != "Boolean"):
        raise InputError(f"parameter {name}={text}: expected {names.get(kind, kind)}")
    return float(text) if kind == "Float" else value
