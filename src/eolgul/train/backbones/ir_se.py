"""IR and IR-SE networks (Deng et al. 2019, arXiv:1801.07698) with InsightFace_Pytorch's layout and parameter names.

A block is batch norm, 3x3, PReLU, 3x3 (strided), batch norm, and in the SE variant a squeeze-and-excitation gate
(Hu et al. 2018, arXiv:1709.01507), added to a shortcut.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

# Stages as (input channels, output channels, blocks), by the number of layers in the network's published name.
_STAGES = {
    50: ((64, 64, 3), (64, 128, 4), (128, 256, 14), (256, 512, 3)),
    100: ((64, 64, 3), (64, 128, 13), (128, 256, 30), (256, 512, 3)),
    152: ((64, 64, 3), (64, 128, 8), (128, 256, 36), (256, 512, 3)),
}
_REDUCTION = 16


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // _REDUCTION, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(channels // _REDUCTION, channels, 1, bias=False)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.sigmoid(self.fc2(self.relu(self.fc1(self.avg_pool(x)))))
        return x * gate


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, se: bool) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if inputs == outputs:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        layers: list[nn.Module] = [
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        if se:
            layers.append(_SqueezeExcite(outputs))
        self.res_layer = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return out


class IRNet(nn.Module):
    """Network from float32 N x 3 x 112 x 112 to N x embedding_size."""

    def __init__(
        self, stages: tuple[tuple[int, int, int], ...], embedding_size: int, *, se: bool, dropout: float = 0.6
    ) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        blocks = []
        for inputs, outputs, count in stages:
            blocks.append(_Block(inputs, outputs, 2, se))
            blocks.extend(_Block(outputs, outputs, 1, se) for _ in range(count - 1))
        self.body = nn.Sequential(*blocks)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, embedding_size),
            nn.BatchNorm1d(embedding_size),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Embed the images; rows are not normalised."""
        out: Tensor = self.output_layer(self.body(self.input_layer(x)))
        return out


def ir(layers: int, *, se: bool) -> Callable[[int], IRNet]:
    """A function that makes the IR (or IR-SE) network of 50, 100 or 152 layers; IR-50 has 43.6 million parameters at 512."""
    return lambda embedding_size: IRNet(_STAGES[layers], embedding_size, se=se)
