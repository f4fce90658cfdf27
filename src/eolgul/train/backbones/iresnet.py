"""IResNet-18/34/50/100 (Duta et al. 2020, arXiv:2004.04989) with arcface_torch's layout and parameter names.

A block is batch norm, 3x3, batch norm, PReLU, 3x3 (strided), batch norm, added to a shortcut. It differs from the IR
networks in the batch norm between the convolutions, in the shortcut (a convolution wherever a stage begins) and in the
last batch norm, whose scale stays 1.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
_CHANNELS = (64, 128, 256, 512)


class Block(nn.Module):
    """Batch norm, 3x3, batch norm, PReLU, 3x3 (strided), batch norm, added to a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        out: Tensor = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return out + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """Network from float32 N x 3 x 112 x 112 to N x embedding_size."""

    def __init__(self, blocks: tuple[int, ...], embedding_size: int = 512, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        inputs = 64
        for number, (outputs, count) in enumerate(zip(_CHANNELS, blocks, strict=True), start=1):
            stage = [Block(inputs, outputs, 2), *(Block(outputs, outputs, 1) for _ in range(count - 1))]
            self.add_module(f"layer{number}", nn.Sequential(*stage))
            inputs = outputs
        self.bn2 = nn.BatchNorm2d(512)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(512 * 7 * 7, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        self.features.weight.requires_grad = False
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.1)  # the published recipes' learning rates were found with it

    def forward(self, x: Tensor) -> Tensor:
        """Embed the images; rows are not normalised."""
        x = self.prelu(self.bn1(self.conv1(x)))
        for number in range(1, len(_CHANNELS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        out: Tensor = self.features(self.fc(self.dropout(self.bn2(x).flatten(1))))
        return out


def iresnet(layers: int) -> Callable[[int], IResNet]:
    """A function that makes the IResNet of 18, 34, 50 or 100 layers."""
    return lambda embedding_size: IResNet(_BLOCKS[layers], embedding_size)
