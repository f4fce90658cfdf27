"""A small residual network for a training of minutes on a CPU: IResNet's blocks on few channels.

It is eolgul's own, with no published weights. Where MobileFaceNet spends its time, in convolutions of 1x1 and by channel on
large pictures, this one has few plain 3x3 convolutions, which a CPU computes several times faster: the first is strided, and
three blocks of 32, 64 and 128 channels follow. The end is MobileFaceNet's: a 7x7 filter of each channel and a linear layer.
"""

from __future__ import annotations

from torch import Tensor, nn

from eolgul.train.backbones.iresnet import Block

_STEM, _CHANNELS = 16, (32, 64, 128)


class SmallResNet(nn.Module):
    """Network from float32 N x 3 x 112 x 112 to N x embedding_size. 326,496 parameters at 128."""

    def __init__(self, embedding_size: int = 128) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _STEM, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.prelu = nn.PReLU(_STEM)
        inputs = (_STEM, *_CHANNELS)
        self.body = nn.Sequential(*(Block(i, o, 2) for i, o in zip(inputs, _CHANNELS, strict=False)))
        self.filter = nn.Conv2d(_CHANNELS[-1], _CHANNELS[-1], 7, groups=_CHANNELS[-1], bias=False)
        self.bn2 = nn.BatchNorm2d(_CHANNELS[-1])
        self.linear = nn.Linear(_CHANNELS[-1], embedding_size, bias=False)
        self.bn = nn.BatchNorm1d(embedding_size)

    def forward(self, x: Tensor) -> Tensor:
        """Embed the images; rows are not normalised."""
        x = self.body(self.prelu(self.bn1(self.conv1(x))))
        out: Tensor = self.bn(self.linear(self.bn2(self.filter(x)).flatten(1)))
        return out
