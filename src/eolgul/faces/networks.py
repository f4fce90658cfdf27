"""MTCNN's three networks: facenet-pytorch's modules and bundled weights (torch), or the same exported to ONNX.

Training and export need torch; serving reads the ONNX files only. Input to each: float32 N x 3 x h x w, RGB,
`(pixel - 127.5) / 128`. Source: Zhang et al. 2016 (arXiv:1604.02878), weights from `facenet-pytorch`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError
from eolgul.model.onnx_export import export
from eolgul.model.onnx_network import onnx_session, run_session

NAMES = ("pnet", "rnet", "onet")
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Portions:
    """The largest input of one call: pixels for the P-Net, crops for the R-Net and for the O-Net."""

    pnet: int
    rnet: int
    onet: int


# The output of a layer stays in a core's cache at this size: larger batches are up to twice as slow.
_CPU = Portions(1 << 15, 64, 8)
# About half a gigabyte, to keep a GPU busy. An estimate that is not measured.
_GPU = Portions(1 << 22, 8192, 4096)


class Networks(Protocol):
    """A backend of the cascade. Each method returns its outputs in the order of its docstring."""

    @property
    def portions(self) -> Portions:
        """The largest inputs of one call."""
        ...

    def pnet(self, images: Floats) -> tuple[Floats, Floats]:
        """Box regression N x 4 x h x w and face probability N x h x w for a pyramid level."""
        ...

    def rnet(self, crops: Floats) -> tuple[Floats, Floats]:
        """Box regression N x 4 and face probability N for 24x24 crops."""
        ...

    def onet(self, crops: Floats) -> tuple[Floats, Floats, Floats]:
        """Box regression N x 4, landmarks N x 10 (five x, then five y, relative to the box), probability N for 48x48 crops."""
        ...


class OnnxNetworks:
    """The networks on ONNX Runtime, from a folder with pnet.onnx, rnet.onnx and onet.onnx."""

    portions = _CPU

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        for name in NAMES:
            if not (folder / f"{name}.onnx").is_file():
                raise InputError(f"{folder / f'{name}.onnx'}: missing, expected one of the detector's three networks")
        self._folder = folder
        self._sessions = {name: onnx_session(folder / f"{name}.onnx", threads=threads) for name in NAMES}

    def _run(self, name: str, batch: Floats) -> list[Any]:
        return run_session(self._sessions[name], {"images": batch}, str(self._folder / f"{name}.onnx"))

    def pnet(self, images: Floats) -> tuple[Floats, Floats]:
        """See `Networks.pnet`."""
        boxes, probabilities = self._run("pnet", images)
        return boxes, probabilities[:, 1]

    def rnet(self, crops: Floats) -> tuple[Floats, Floats]:
        """See `Networks.rnet`."""
        boxes, probabilities = self._run("rnet", crops)
        return boxes, probabilities[:, 1]

    def onet(self, crops: Floats) -> tuple[Floats, Floats, Floats]:
        """See `Networks.onet`."""
        boxes, points, probabilities = self._run("onet", crops)
        return boxes, points, probabilities[:, 1]


class TorchNetworks:
    """The networks on torch, CPU or CUDA."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self.portions = _CPU if device == "cpu" else _GPU
        try:
            self._modules = {name: module.to(device) for name, module in _modules().items()}
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {device!r}: torch cannot use it ({str(error).splitlines()[0]})") from error

    def _run(self, name: str, batch: Floats) -> list[Any]:
        import torch

        with torch.inference_mode():
            outputs = self._modules[name](torch.from_numpy(batch).to(self._device))
        return [output.cpu().numpy() for output in outputs]

    pnet = OnnxNetworks.pnet
    rnet = OnnxNetworks.rnet
    onet = OnnxNetworks.onet


def _modules() -> dict[str, Any]:
    try:
        from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
    except ImportError as error:
        raise InputError("facenet-pytorch is missing: pip install --no-deps -r requirements-nodeps.txt") from error
    return {"pnet": PNet().eval(), "rnet": RNet().eval(), "onet": ONet().eval()}


def exported_before() -> Path | None:
    """The folder of networks that were exported before, from EOLGUL_DETECTOR: an image that has them needs no torch."""
    folder = os.environ.get("EOLGUL_DETECTOR")
    return Path(folder) if folder else None


@contextmanager
def onnx_folder() -> Iterator[Path]:
    """A folder with the networks as ONNX: those exported before, otherwise a new one that ends with the block."""
    if folder := exported_before():
        yield folder
        return
    with TemporaryDirectory() as temporary:
        export_onnx(Path(temporary))
        yield Path(temporary)


def export_onnx(folder: Path) -> None:
    """Write pnet.onnx, rnet.onnx and onet.onnx (free batch size; the P-Net also free height and width)."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    outputs = {
        "pnet": ["boxes", "probabilities"],
        "rnet": ["boxes", "probabilities"],
        "onet": ["boxes", "points", "probabilities"],
    }
    for (name, module), side in zip(_modules().items(), (12, 24, 48), strict=True):
        for child, activation in list(module.named_children()):
            # PReLU stays behind dense layers, where the tensors are tiny.
            if isinstance(activation, torch.nn.PReLU) and (name, child) not in _DENSE:
                setattr(module, child, _fusible(activation))
        free = {0: "n", 2: "height", 3: "width"} if name == "pnet" else {0: "n"}
        others = {output: free if name == "pnet" else {0: "n"} for output in outputs[name]}
        export(module, torch.zeros(2, 3, side, side), folder / f"{name}.onnx", outputs[name], {"images": free} | others)


_DENSE = {("rnet", "prelu4"), ("onet", "prelu5")}


def _fusible(activation: Any) -> Any:
    """Write a PReLU as `y + sign(1 - a) relu(-|1 - a| y)`: the same function, of operations that ONNX Runtime fuses.

    ONNX Runtime's PReLU takes half of all time: it is not vectorised, and forces the blocked channel layout of the
    convolutions to be undone before it and restored after it. A 1x1 depthwise convolution with ReLU and one with addition
    keep the layout (measured: P-Net 1.8, R-Net 2.3, O-Net 1.9 times as fast, outputs equal within 3e-6).
    """
    import torch
    from torch import nn

    slope = activation.weight.detach()
    channels = len(slope)

    def scale(factors: Any) -> Any:
        layer = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
        layer.weight = nn.Parameter(factors.reshape(channels, 1, 1, 1), requires_grad=False)
        return layer

    class Fusible(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.negative, self.back = scale(-(1 - slope).abs()), scale((1 - slope).sign())

        def forward(self, y: Any) -> Any:
            return y + self.back(torch.relu(self.negative(y)))

    return Fusible().eval()
