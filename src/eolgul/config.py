"""Options of a step, declared once: a frozen dataclass per step from which every interface takes them.

A field has its default, its help text, its bounds, and whether the result depends on it. The command line, the
descriptions of Kubeflow parameters, the checks and the recipe on an artifact's card are made from these declarations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, Self, TypeVar

from eolgul.errors import InputError

T = TypeVar("T")
Progress = Callable[[int, int | None], None]
"""Called with the units of work done so far and in all; None while the total is unknown."""


def option(
    default: T,
    help: str,
    *,
    choices: Sequence[str] = (),
    least: float | None = None,
    most: float | None = None,
    kinds: Sequence[str] = (),
    in_recipe: bool = True,
    internal: bool = False,
    envvar: str | None = None,
) -> T:
    """Declare a field of a `Config`.

    Args:
        default: The default, which also gives the type that parameters are converted to.
        help: One sentence for the command line and for Kubeflow.
        choices: The only values that are allowed.
        least: The smallest number that is allowed.
        most: The largest number that is allowed.
        kinds: The kinds of source that the option is for; empty means all.
        in_recipe: Whether the result depends on it, so that another value makes another artifact.
        internal: Whether only code sets it, so that no interface offers it.
        envvar: An environment variable that the command line takes it from.
    """
    about = {"help": help, "choices": choices, "least": least, "most": most, "kinds": kinds, "envvar": envvar}
    made: Any = field(default=default, metadata={**about, "in_recipe": in_recipe, "internal": internal})
    return made  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Config:
    """The options of a step. Making one checks every value: InputError names the option and what is allowed."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value, least, most = getattr(self, item.name), item.metadata["least"], item.metadata["most"]
            choices = item.metadata["choices"]
            if choices and value not in choices:
                raise InputError(f"{item.name} {value!r}: expected one of {', '.join(choices)}")
            if isinstance(value, int | float):
                # "not >=" also refuses NaN.
                if least is not None and not value >= least:
                    wanted = f"{least:g} or more" if most is None else f"{least:g} to {most:g}"
                    raise InputError(f"{item.name} {value}: expected {wanted}")
                if most is not None and not value <= most:
                    raise InputError(f"{item.name} {value}: expected {least or 0:g} to {most:g}")

    def to_recipe(self) -> dict[str, Any]:
        """Return the options that the result depends on, as JSON values: the recipe on an artifact's card."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.metadata["in_recipe"]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        """Take the options from Kubeflow parameters of the same names.

        Kubeflow has no empty parameter, so 0, "" and [] stand for an option that is not set.
        """
        return cls(
            **{item.name: _value(item, parameters[item.name]) for item in offered(cls) if item.name in parameters}
        )


def offered(config: type[Config]) -> list[Field[Any]]:
    """The fields that interfaces offer to people: all but the internal ones."""
    return [item for item in fields(config) if not item.metadata["internal"]]


def describe(item: Field[Any]) -> str:
    """The help text of a field, with its choices and the kinds of source that it is for."""
    text: str = item.metadata["help"]
    if item.metadata["choices"]:
        text += f" One of {', '.join(item.metadata['choices'])}."
    if item.metadata["kinds"]:
        text += f" Only for {' and '.join(item.metadata['kinds'])}."
    return text


def parse_part(part: str) -> tuple[int, int]:
    """Read a share of a job, the i-th of n, from the text i/n.

    Raises:
        InputError: The text is not i/n with i from 1 to n.
    """
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", part)
    if not match or int(match[1]) > int(match[2]):
        raise InputError(f"part {part!r}: expected i/n with i from 1 to n, such as 2/4")
    return int(match[1]), int(match[2])


def share_of(total: int, part: str) -> range:
    """The numbers below `total` that the i-th of n shares has; all shares together have each number once.

    Raises:
        InputError: The text is not i/n with i from 1 to n.
    """
    number, count = parse_part(part)
    return range(total * (number - 1) // count, total * number // count)


def count_up(progress: Progress | None, total: int | None = None) -> Callable[[int], None]:
    """Turn increments into calls of `progress` with the sum so far."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return add


def _value(item: Field[Any], value: Any) -> Any:
    """A Kubeflow parameter as the field's value."""
    if item.default is None:
        return value or None
    if isinstance(item.default, tuple):
        return tuple(value)
    kind: type = type(item.default)
    return kind(value)
