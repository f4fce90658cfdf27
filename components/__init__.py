"""The Kubeflow components, each a thin shell around its step (`eolgul.steps`).

A component's parameters have the names and the defaults of the fields of its step's config. Its body turns them into
the config with `from_parameters(locals())`, so that the code that runs in the container lists nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from eolgul import __version__
from eolgul.config import Config, describe, offered

F = TypeVar("F", bound=Callable[..., object])
NOWHERE = "eolgul.invalid"
"""The registry that a component names until a pipeline is compiled: `.invalid` is reserved, so nobody can own it (RFC 2606)."""


def image(step: str) -> str:
    """The image of a step by a name that resolves nowhere; `eolgul.pipelines.images` puts the real one in its place."""
    return f"{NOWHERE}/{step}:{__version__}"


def documented(config: type[Config], prefix: str = "") -> Callable[[F], F]:
    """Add the help text of every option of `config` to a function's docstring, where Kubeflow reads it.

    Args:
        config: The config whose fields, with `prefix` before their names, are parameters of the function.
        prefix: Such as "extract_" for a pipeline.
    """

    def decorate(function: F) -> F:
        text, arguments, rest = (function.__doc__ or "").partition("    Args:\n")
        names = function.__code__.co_varnames if hasattr(function, "__code__") else ()
        lines = [
            f"        {prefix}{item.name}: {describe(item)}\n"
            for item in offered(config)
            if prefix + item.name in names
        ]
        function.__doc__ = text + arguments + "".join(lines) + rest
        return function

    return decorate
