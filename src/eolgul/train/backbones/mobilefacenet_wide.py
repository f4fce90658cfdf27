"""MobileFaceNet as in arcface_torch ("mbf"): block ends twice as wide as the paper's, and other parameter names."""

from __future__ import annotations

from torch import Tensor, nn

_WIDE = 2


class _Layers(nn.Module):
    """A sequence whose parameters are called `layers.<n>`, added to its input when `residual`."""

    def __init__(self, *layers: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


def _conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int = 0, groups: int = 1, linear: bool = False
) -> _Layers:
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return _Layers(*layers) if linear else _Layers(*layers, nn.PReLU(outputs))


def _bottleneck(inputs: int, outputs: int, width: int, stride: int, residual: bool = False) -> _Layers:
    return _Layers(
        _conv(inputs, width),
        _conv(width, width, 3, stride, 1, groups=width),
        _conv(width, outputs, linear=True),
        residual=residual,
    )


def _residuals(channels: int, count: int, width: int) -> _Layers:
    return _Layers(*(_bottleneck(channels, channels, width, 1, residual=True) for _ in range(count)))


class WideMobileFaceNet(nn.Module):
    """Network from float32 N x 3 x 112 x 112 to N x embedding_size. 2.06 million parameters at 512."""

    def __init__(self, embedding_size: int = 512) -> None:
        super().__init__()
        low, high = 64 * _WIDE, 128 * _WIDE
        self.layers = nn.ModuleList(
            [
                _conv(3, low, 3, 2, 1),
                _conv(low, low, 3, 1, 1, groups=64),
                _bottleneck(low, low, 128, 2),
                _residuals(low, 4, 128),
                _bottleneck(low, high, 256, 2),
                _residuals(high, 6, 256),
                _bottleneck(high, high, 512, 2),
                _residuals(high, 2, 256),
            ]
        )
        self.conv_sep = _conv(high, 512)
        self.features = _Layers(
            _conv(512, 512, 7, groups=512, linear=True),
            nn.Flatten(),
            nn.Linear(512, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Embed the images; rows are not normalised."""
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.features(self.conv_sep(x))
        return out
