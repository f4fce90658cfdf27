"""Read the tensors of a weights file: a state dict, or a training checkpoint that holds one among other things.

Nothing in the file is executed: torch's restricted unpickler reads it, and classes that this does not know (a training
script's options, a logger) are not imported: an object of such a class becomes an empty stand-in.
"""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eolgul.content import LOOKED_AT, describe_content
from eolgul.errors import InputError, one_line

# Names that DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into parameter names.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # the first pickle of torch's format before 1.6
_LEGACY_PICKLES = 4  # magic number, protocol, machine, object
_DEEPEST = 20
_SAFETENSORS = "a safetensors file"  # as describe_content says it
# No checkpoint needs these, and every pickle that attacks whoever loads it names one.
_RUNNING = frozenset({"eval", "exec", "compile", "__import__", "open", "input", "breakpoint"})
_RUNNING_MODULES = frozenset(
    {"os", "posix", "nt", "sys", "subprocess", "pty", "runpy", "importlib", "ctypes", "socket", "shutil", "code"}
)
_REST = "expected a state dict: .safetensors, or .pth/.pt/.ckpt as torch.save writes it"


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """What a weights file holds.

    Attributes:
        state: The tensors, by the names that lead to them, joined by dots and without the wrappers' names.
        objects: How many objects were left unread, by the name of their class.
    """

    state: dict[str, Tensor]
    objects: dict[str, int]


def read_state(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file by name; see `read_weights`."""
    return read_weights(file).state


def read_weights(file: Path) -> WeightsFile:
    """Read all tensors of a weights file, of a checkpoint's nested mappings and lists too.

    Raises:
        InputError: The file is missing, is something else (an HTML page, a TorchScript archive, a pickled module, …), or
            holds no tensor by name.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    with file.open("rb") as opened:
        head = opened.read(LOOKED_AT)
    foreign = _foreign(file, head)
    if foreign:
        raise InputError(f"{file}: is {foreign}, {_REST}")
    if describe_content(head) == _SAFETENSORS:
        return WeightsFile(_without_wrappers(load_tensors(file)), {})
    content = _load_torch(file)
    if isinstance(content, _Opaque):
        raise InputError(
            f"{file}: is a pickled object of class {content.name}, expected a state dict; load it with the code that wrote it, "
            "and save its state_dict()"
        )
    tensors: dict[str, Tensor] = {}
    objects: Counter[str] = Counter()
    for name, value in _leaves(content):
        if isinstance(value, Tensor):
            if name in tensors:
                raise InputError(f"{file}: two tensors are called {name}, expected one of each name")
            tensors[name] = value.detach()
        else:
            objects[value.name] += 1
    if not tensors:
        found = (
            f"it holds objects of {', '.join(sorted(objects))}" if objects else f"it holds a {type(content).__name__}"
        )
        raise InputError(f"{file}: has no tensors by name ({found}), expected a state dict")
    return WeightsFile(_without_wrappers(tensors), dict(sorted(objects.items())))


def _foreign(file: Path, head: bytes) -> str | None:
    """What a file is that cannot be a weights file; None for one that may be."""
    if file.suffix == ".onnx" or (head[:1] == b"\x08" and b"onnx" in head[:64].lower()):
        return "an ONNX file (`eolgul import FILE.onnx OUT --contract …` takes it)"
    if head.startswith(b"PK\x03\x04"):
        return _foreign_zip(file)
    found = describe_content(head)
    return None if found in ("a pickle", _SAFETENSORS) else found


def _foreign_zip(file: Path) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return "a zip archive that is cut off or damaged"
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript archive"
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return None
    if any(name.endswith(("keras_metadata.pb", "model.weights.h5")) for name in names):
        return "a Keras file"
    return (
        "a NumPy archive (.npz)"
        if names and all(name.endswith(".npy") for name in names)
        else "a zip archive of other files"
    )


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file. Raises InputError when it is not one."""
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({one_line(error)})") from error


class _Opaque:
    """Stands in for an object of an unknown class: takes whatever its construction gives and keeps nothing."""

    name = ""

    def __new__(cls, *_: Any) -> _Opaque:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _OpaqueMapping:
    """Makes, in place of an object of an unknown subclass of dict, an OrderedDict: torch's unpickler fills no other kind."""

    name = ""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


def _load_torch(file: Path) -> Any:
    """Unpickle with torch's restricted unpickler and stand-ins for the classes that it does not know."""
    foreign = _classes(file)
    if hostile := next((name for name in foreign if _runs_code(name)), None):
        raise InputError(
            f"{file}: names {hostile}, which would run code when the file is unpickled in full: refused, {_REST}"
        )
    for stand_in in (_Opaque, _OpaqueMapping) if foreign else (_Opaque,):
        # An object of numpy is never a mapping; its state is a tuple, which an OrderedDict would not take.
        known: list[Any] = [
            (type(name, (_Opaque if name.startswith("numpy.") else stand_in,), {"name": name}), name)
            for name in foreign
        ]
        try:
            with torch.serialization.safe_globals(known), file.open("rb") as opened, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the pickle's protocol
                return torch.load(opened, map_location="cpu", weights_only=True)
        except (
            Exception
        ) as error:  # a damaged or hostile file raises nearly anything, with advice to unpickle it in full
            failure = error
    if not _is_torch(file):
        raise InputError(f"{file}: is neither a safetensors file nor one that torch.save writes, {_REST}") from failure
    raise InputError(f"{file}: is cut off, damaged or of a kind that is not read, {_REST}") from failure


def _is_torch(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(64)
    return head.startswith(b"PK") or _LEGACY_MAGIC in head or head[:1] == b"\x80"


def _today(module: str, name: str) -> str:
    """The name that Python 3 has for a class; torch.save writes those of Python 2."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _runs_code(name: str) -> bool:
    module, _, what = name.partition(".")
    return module in _RUNNING_MODULES or (module in ("builtins", "io", "_io") and what in _RUNNING)


def _classes(file: Path) -> list[str]:
    """The names of all classes and functions in the file's pickle, sorted; [] if it is not legible.

    The pickle's opcodes are only listed here, not followed. A stand-in for a class that torch's unpickler knows has no effect.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                name = next(name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl"))
                streams, count = io.BytesIO(archive.read(name)), 1
        else:
            with file.open("rb") as opened:
                streams, count = io.BytesIO(opened.read()), _LEGACY_PICKLES
        found = set()
        for _ in range(count):
            for opcode, argument, _position in pickletools.genops(streams):
                if opcode.name == "GLOBAL":
                    found.add(_today(*str(argument).split(" ", 1)))
    except Exception:  # not such a file: the loading gives the sentence
        return []
    return sorted(found)


def _leaves(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The tensors and stand-ins below nested mappings and lists, each with the path that leads to it."""
    if isinstance(value, Tensor | _Opaque):
        yield name, value
    elif depth == _DEEPEST:
        return
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key), depth + 1)
    elif isinstance(value, list | tuple):
        for key, inner in enumerate(value):
            yield from _leaves(inner, f"{name}.{key}" if name else str(key), depth + 1)


def _without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the wrappers' names out of the parameter names, wherever they are and the names stay different."""
    plain = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in state}
    counts = Counter(plain.values())
    return {plain[name] if counts[plain[name]] == 1 else name: value for name, value in state.items()}
