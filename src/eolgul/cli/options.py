"""Make a command's options from the config of its step, so that names, defaults and help texts are written once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from eolgul.config import Config, describe, offered
from eolgul.errors import InputError

Command = Callable[..., None]


def options_of(
    config: type[Config], flags: Mapping[str, str] | None = None, *, parameter: str = "config"
) -> Callable[[Command], Command]:
    """Replace a command's parameter by one option per field of `config`.

    Args:
        config: The class that the command takes an instance of.
        flags: Flags with another name than their field's, such as {"overrides": "--set"}.
        parameter: The name of the command's parameter.
    """
    hints = get_type_hints(config)
    items = offered(config)

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [item for name, item in signature.parameters.items() if name != parameter]
        options = [_parameter(item, hints[item.name], (flags or {}).get(item.name)) for item in items]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            values = {item.name: _value(item, given.pop(item.name)) for item in items}
            command(**given, **{parameter: config(**values)})

        parameters = [*own, *options]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def is_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter stands on the command line, rather than being a default or from the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_given(context: typer.Context, names: Collection[str], only: str) -> None:
    """Raise InputError when one of the parameters stands on the command line; `only` says what it is for."""
    for name in names:
        if is_given(context, name):
            raise InputError(f"--{name.replace('_', '-')}: is only for {only}")


def model_or_registry(context: typer.Context, registry: str, model: Path | None) -> tuple[str, Path | None]:
    """The place of the model to use. One on the command line comes before the environment's; InputError for two."""
    given = [name for name in ("registry", "model") if is_given(context, name)]
    if len(given) == 2:
        raise InputError(f"--registry {registry} and --model {model}: expected one of them")
    if given:
        return (registry, None) if given == ["registry"] else ("", model)
    return registry, model


def contract_of(onnx: str | None, contract: str | None) -> str | None:
    """The embedding contract of an ONNX file, None without one; InputError for a contract that is for none."""
    if onnx:
        return contract or "insightface"
    if contract:
        raise InputError(f"contract {contract}: is only for --onnx; a ModelPackage holds its own contract")
    return None


def _parameter(item: Field[Any], kind: Any, flag: str | None) -> inspect.Parameter:
    """A field as the parameter that typer makes an option of."""
    least, most = item.metadata["least"], item.metadata["most"]
    several = isinstance(item.default, tuple)
    names = (flag or f"--{item.name.replace('_', '-')}",)
    if kind is bool and item.default is False:
        option = typer.Option(*names, help=describe(item))
    elif kind is bool:
        option = typer.Option(help=describe(item))
    else:
        repeated = " Repeatable." if several else ""
        option = typer.Option(
            *names, help=describe(item) + repeated, min=least, max=most, envvar=item.metadata["envvar"]
        )
    return inspect.Parameter(
        item.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if several else item.default,
        annotation=Annotated[list[str] | None if several else kind, option],
    )


def _value(item: Field[Any], given: Any) -> Any:
    return tuple(given or ()) if isinstance(item.default, tuple) else given
