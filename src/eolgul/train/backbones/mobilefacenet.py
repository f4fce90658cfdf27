"""MobileFaceNet (Chen et al. 2018, arXiv:1804.07573) with the layout and parameter names of InsightFace_Pytorch."""

from __future__ import annotations

from torch import Tensor, nn


class _Conv(nn.Module):
    """Convolution and batch norm, with a PReLU unless `linear` (the paper's bottleneck ends and global layers)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu = nn.Identity() if linear else nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.prelu(self.bn(self.conv(x)))
        return out


class _Bottleneck(nn.Module):
    """Widen 1x1, filter each channel 3x3, narrow 1x1; with a shortcut when the shape stays."""

    def __init__(self, inputs: int, outputs: int, width: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.conv = _Conv(inputs, width, 1)
        self.conv_dw = _Conv(width, width, 3, stride, 1, groups=width)
        self.project = _Conv(width, outputs, 1, linear=True)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.conv_dw(self.conv(x)))
        return x + out if self.residual else out


class _Residuals(nn.Module):
    def __init__(self, channels: int, count: int, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(_Bottleneck(channels, channels, width, 1, True) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class MobileFaceNet(nn.Module):
    """Network from float32 N x 3 x 112 x 112 to N x embedding_size. 1,200,512 parameters at 512 (the published network's count)."""

    def __init__(self, embedding_size: int = 512) -> None:
        super().__init__()
        self.conv1 = _Conv(3, 64, 3, 2, 1)
        self.conv2_dw = _Conv(64, 64, 3, 1, 1, groups=64)
        self.conv_23 = _Bottleneck(64, 64, 128, 2, False)
        self.conv_3 = _Residuals(64, 4, 128)
        self.conv_34 = _Bottleneck(64, 128, 256, 2, False)
        self.conv_4 = _Residuals(128, 6, 256)
        self.conv_45 = _Bottleneck(128, 128, 512, 2, False)
        self.conv_5 = _Residuals(128, 2, 256)
        self.conv_6_sep = _Conv(128, 512, 1)
        self.conv_6_dw = _Conv(512, 512, 7, groups=512, linear=True)
        self.linear = nn.Linear(512, embedding_size, bias=False)
        self.bn = nn.BatchNorm1d(embedding_size)

    def forward(self, x: Tensor) -> Tensor:
        """Embed the images; rows are not normalised."""
        x = self.conv_23(self.conv2_dw(self.conv1(x)))
        x = self.conv_34(self.conv_3(x))
        x = self.conv_45(self.conv_4(x))
        x = self.conv_6_dw(self.conv_6_sep(self.conv_5(x)))
        out: Tensor = self.bn(self.linear(x.flatten(1)))
        return out
