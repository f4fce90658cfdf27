"""Weights as people hold them: nested, wrapped, beside other things, and files that are something else."""

from __future__ import annotations

import argparse
import io
import os
import pathlib
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from eolgul.errors import InputError
from eolgul.train.weights_file import read_state, read_weights

_STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}


def _saved(tmp_path: Path, content: object, **options: Any) -> Path:
    torch.save(content, tmp_path / "w.pth", **options)
    return tmp_path / "w.pth"


def test_tensors_are_named_by_the_way_to_them(tmp_path: Path) -> None:
    content = {
        "epoch": 3,
        "model": OrderedDict(
            {"module.a.weight": _STATE["a.weight"], "module.a._orig_mod.bias": nn.Parameter(_STATE["a.bias"])}
        ),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
        "best": (0.5, [torch.ones(1)]),
    }
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        state = read_state(_saved(tmp_path, content, **options))
        assert set(state) == {"model.a.weight", "model.a.bias", "optimizer.state.0.exp_avg", "best.1.0"}
        assert torch.equal(state["model.a.weight"], _STATE["a.weight"]) and not state["model.a.bias"].requires_grad


class EasyDict(dict[str, Any]):
    """A mapping class as configurations are kept in, with attributes of its own."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.__dict__.update(*given)


@pytest.mark.parametrize(
    ("extra", "objects"),
    [
        (argparse.Namespace(lr=0.1, milestones=[1, 2]), {"argparse.Namespace": 1}),
        (np.float64(0.25), None),
        (np.arange(4), None),
        (pathlib.PurePosixPath("a/b"), {"pathlib.PurePosixPath": 1}),
        (defaultdict(list, {"loss": [1.0]}), {}),
        (EasyDict({"lr": 0.1}), {}),
        ({"args": argparse.Namespace(x=np.float32(1)), "log": EasyDict({"t": torch.ones(1)})}, None),
    ],
    ids=["namespace", "numpy number", "numpy array", "path", "defaultdict", "easydict", "all"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_lies_beside_the_tensors_is_not_built(
    tmp_path: Path, extra: object, objects: dict[str, int] | None, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _saved(tmp_path, {"state_dict": _STATE, "extra": extra}, _use_new_zipfile_serialization=zipped)
    monkeypatch.delattr(argparse, "Namespace")  # nothing of the file's classes is needed
    read = read_weights(file)
    assert {name: value for name, value in read.state.items() if name.startswith("state_dict.")}.keys() == {
        "state_dict.a.weight", "state_dict.a.bias"}  # fmt: skip
    if objects is not None:
        assert read.objects == objects


class _Attack:
    def __init__(self, what: Callable[..., Any], *given: Any) -> None:
        self._reduced = (what, given)

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "what", [os.system, eval, pickle.loads, pathlib.Path.touch, io.open], ids=lambda what: what.__name__
)
def test_nothing_is_ever_executed(tmp_path: Path, what: Callable[..., Any], zipped: bool) -> None:
    trace = tmp_path / "trace"
    given = {
        "system": f"touch {trace}",
        "eval": f"open({str(trace)!r}, 'w')",
        "loads": pickle.dumps(_Attack(os.system, f"touch {trace}")),
        "touch": trace,
        "open": (str(trace)),
    }[what.__name__]
    arguments = (given, "w") if what is io.open else (given,)
    file = _saved(tmp_path, {"state": _STATE, "x": _Attack(what, *arguments)}, _use_new_zipfile_serialization=zipped)
    if what in (os.system, eval, io.open):
        with pytest.raises(InputError, match="would run code when the file is unpickled in full: refused"):
            read_state(file)
    else:
        try:
            read = read_weights(file)
        except InputError:
            pass
        else:
            assert sum(read.objects.values()) >= 1
    assert not trace.exists()


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)


def _torchscript(file: Path) -> None:
    torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3)).save(str(file))


def _zip(name: str) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(name, b"x")

    return write


def _half(file: Path) -> None:
    torch.save(_STATE, file)
    file.write_bytes(file.read_bytes()[:-300])


_FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "html": (lambda file: file.write_bytes(b"<!DOCTYPE html><html><title>Google Drive</title></html>"), "an HTML page"),
    "lfs": (
        lambda file: file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"),
        "a git-lfs pointer",
    ),
    "module": (lambda file: torch.save(Toy(), file), r"pickled object of class .*Toy, expected a state dict"),
    "model in a mapping": (lambda file: torch.save({"model": Toy(), "epoch": 1}, file), r"no tensors by name .*Toy"),
    "torchscript": (_torchscript, "is a TorchScript archive"),
    "onnx": (lambda file: file.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x05onnx1"), "is an ONNX file"),
    "zip": (_zip("photo.jpg"), "is a zip archive of other files"),
    "npz": (lambda file: np.savez(file.open("wb"), a=np.zeros(3)), "is a NumPy archive"),
    "h5": (lambda file: file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(80)), "HDF5 file"),
    "keras": (_zip("model.weights.h5"), "a Keras file"),
    "empty": (lambda file: file.write_bytes(b""), "is an empty file"),
    "list": (lambda file: torch.save([1, 2], file), "has no tensors by name"),
    "pickle": (lambda file: file.write_bytes(pickle.dumps({"a": 1})), "expected a state dict"),
    "cut off": (_half, "cut off or damaged"),
    "noise": (lambda file: file.write_bytes(bytes(range(1, 256)) * 9), "is neither a safetensors file nor"),
    "text": (lambda file: file.write_bytes(b"not found\n"), "expected a state dict"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt"])
@pytest.mark.parametrize("what", _FOREIGN)
def test_another_file_is_called_by_name(tmp_path: Path, what: str, suffix: str) -> None:
    write, says = _FOREIGN[what]
    file = tmp_path / f"w{suffix}"
    write(file)
    with pytest.raises(InputError, match=says) as raised:
        read_state(file)
    sentence = str(raised.value)
    assert "\n" not in sentence and "\x1b" not in sentence and len(sentence) < 400
    assert "torch.load" not in sentence and "weights_only" not in sentence and "safe_globals" not in sentence


def test_safetensors_under_any_name(tmp_path: Path) -> None:
    save_file(_STATE, tmp_path / "w.pth")
    assert torch.equal(read_state(tmp_path / "w.pth")["a.weight"], _STATE["a.weight"])
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.pth").read_bytes()[:-4])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        read_state(tmp_path / "w.safetensors")


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"two tensors are called a\.b"):
        read_state(_saved(tmp_path, {"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}))
    both = {"module.b": torch.ones(1), "b": torch.zeros(1), "module.c": torch.ones(1)}
    assert set(read_state(_saved(tmp_path, both))) == {
        "module.b",
        "b",
        "c",
    }  # a name is shortened where it stays different
    with pytest.raises(InputError, match="no such file"):
        read_state(tmp_path / "none.pth")
