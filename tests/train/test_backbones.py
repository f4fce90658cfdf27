"""Published networks: parameter counts, names, and the same answers as small independent versions of them.

The references below are written as plain functions of a state dict from the papers' tables and the published files'
parameter names; they share nothing with the modules they check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from eolgul.errors import InputError
from eolgul.train.backbones import BACKBONES, LAYOUTS, build

State = Mapping[str, Tensor]


def norm(x: Tensor, s: State, name: str) -> Tensor:
    shape = (1, -1, *[1] * (x.ndim - 2))
    mean, variance = s[f"{name}.running_mean"].view(shape), s[f"{name}.running_var"].view(shape)
    return (x - mean) / torch.sqrt(variance + 1e-5) * s[f"{name}.weight"].view(shape) + s[f"{name}.bias"].view(shape)


def prelu(x: Tensor, s: State, name: str) -> Tensor:
    return torch.where(x > 0, x, x * s[f"{name}.weight"].view(1, -1, 1, 1))


def conv(x: Tensor, s: State, name: str, stride: int = 1, groups: int = 1, padding: int | None = None) -> Tensor:
    weight = s[f"{name}.weight"]
    return F.conv2d(x, weight, None, stride, weight.shape[2] // 2 if padding is None else padding, 1, groups)


def ir(s: State, x: Tensor, blocks: tuple[int, ...], se: bool) -> Tensor:
    """InsightFace_Pytorch: each stage's first block halves the picture; a block with equal channels skips by picking."""
    x = prelu(norm(conv(x, s, "input_layer.0"), s, "input_layer.1"), s, "input_layer.2")
    number = 0
    for count in blocks:
        for index in range(count):
            stride = 2 if index == 0 else 1
            b = f"body.{number}"
            if f"{b}.shortcut_layer.0.weight" in s:
                skip = norm(conv(x, s, f"{b}.shortcut_layer.0", stride), s, f"{b}.shortcut_layer.1")
            else:
                skip = x[:, :, ::stride, ::stride]
            y = prelu(conv(norm(x, s, f"{b}.res_layer.0"), s, f"{b}.res_layer.1"), s, f"{b}.res_layer.2")
            y = norm(conv(y, s, f"{b}.res_layer.3", stride), s, f"{b}.res_layer.4")
            if se:
                gate = conv(y.mean((2, 3), keepdim=True), s, f"{b}.res_layer.5.fc1").relu()
                y = y * torch.sigmoid(conv(gate, s, f"{b}.res_layer.5.fc2"))
            x = y + skip
            number += 1
    x = norm(x, s, "output_layer.0").flatten(1)
    return norm(x @ s["output_layer.3.weight"].T + s["output_layer.3.bias"], s, "output_layer.4")


def iresnet(s: State, x: Tensor, blocks: tuple[int, ...]) -> Tensor:
    x = prelu(norm(conv(x, s, "conv1"), s, "bn1"), s, "prelu")
    for stage, count in enumerate(blocks, start=1):
        for index in range(count):
            b, stride = f"layer{stage}.{index}", 2 if index == 0 else 1
            y = prelu(norm(conv(norm(x, s, f"{b}.bn1"), s, f"{b}.conv1"), s, f"{b}.bn2"), s, f"{b}.prelu")
            y = norm(conv(y, s, f"{b}.conv2", stride), s, f"{b}.bn3")
            x = y + (norm(conv(x, s, f"{b}.downsample.0", stride), s, f"{b}.downsample.1") if index == 0 else x)
    x = norm(x, s, "bn2").flatten(1)
    return norm(x @ s["fc.weight"].T + s["fc.bias"], s, "features")


def mobilefacenet(s: State, x: Tensor) -> Tensor:
    """The paper's table 1: stem, depthwise, then (stride 2, repeats) (2, 4), (2, 6), (2, 2)."""

    def unit(x: Tensor, name: str, stride: int = 1, groups: int = 1, padding: int | None = None) -> Tensor:
        return prelu(norm(conv(x, s, f"{name}.conv", stride, groups, padding), s, f"{name}.bn"), s, f"{name}.prelu")

    def bottleneck(x: Tensor, name: str, stride: int) -> Tensor:
        y = unit(x, f"{name}.conv")
        y = unit(y, f"{name}.conv_dw", stride, groups=y.shape[1])
        return norm(conv(y, s, f"{name}.project.conv"), s, f"{name}.project.bn")

    x = unit(unit(x, "conv1", 2), "conv2_dw", groups=64)
    for down, repeats, count in (("conv_23", "conv_3", 4), ("conv_34", "conv_4", 6), ("conv_45", "conv_5", 2)):
        x = bottleneck(x, down, 2)
        for index in range(count):
            x = x + bottleneck(x, f"{repeats}.model.{index}", 1)
    x = unit(x, "conv_6_sep")
    x = norm(conv(x, s, "conv_6_dw.conv", groups=512, padding=0), s, "conv_6_dw.bn").flatten(1)
    return norm(x @ s["linear.weight"].T, s, "bn")


def wide(s: State, x: Tensor) -> Tensor:
    """arcface_torch's: every part is a `layers` sequence of convolution, norm and slopes, one inside the other."""

    def unit(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        x = norm(conv(x, s, f"{name}.layers.0", stride, groups), s, f"{name}.layers.1")
        return prelu(x, s, f"{name}.layers.2") if f"{name}.layers.2.weight" in s else x

    def bottleneck(x: Tensor, name: str, stride: int) -> Tensor:
        y = unit(x, f"{name}.layers.0")
        return unit(unit(y, f"{name}.layers.1", stride, groups=y.shape[1]), f"{name}.layers.2")

    x = unit(unit(x, "layers.0", 2), "layers.1", groups=64)
    for place, count in ((2, 4), (4, 6), (6, 2)):
        x = bottleneck(x, f"layers.{place}", 2)
        for index in range(count):
            x = x + bottleneck(x, f"layers.{place + 1}.layers.{index}", 1)
    x = unit(x, "conv_sep")
    x = conv(x, s, "features.layers.0.layers.0", groups=512, padding=0)
    x = norm(x, s, "features.layers.0.layers.1").flatten(1)
    return norm(x @ s["features.layers.2.weight"].T, s, "features.layers.3")


def small(s: State, x: Tensor) -> Tensor:
    """eolgul's own: a strided stem, one IResNet block per stage, a 7x7 filter of each channel, a linear layer."""
    x = prelu(norm(conv(x, s, "conv1", 2), s, "bn1"), s, "prelu")
    for number in range(3):
        b = f"body.{number}"
        y = prelu(norm(conv(norm(x, s, f"{b}.bn1"), s, f"{b}.conv1"), s, f"{b}.bn2"), s, f"{b}.prelu")
        x = norm(conv(y, s, f"{b}.conv2", 2), s, f"{b}.bn3") + norm(
            conv(x, s, f"{b}.downsample.0", 2), s, f"{b}.downsample.1"
        )
    x = norm(conv(x, s, "filter", groups=128, padding=0), s, "bn2").flatten(1)
    return norm(x @ s["linear.weight"].T, s, "bn")


DEEP = {50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 152: (3, 8, 36, 3), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
REFERENCES: dict[str, Callable[[State, Tensor], Tensor]] = {
    "mobilefacenet": mobilefacenet,
    "mobilefacenet_wide": wide,
    "resnet_small": small,
    "ir50": lambda s, x: ir(s, x, DEEP[50], se=False),
    "ir100": lambda s, x: ir(s, x, DEEP[100], se=False),
    "ir152": lambda s, x: ir(s, x, DEEP[152], se=False),
    "irse50": lambda s, x: ir(s, x, DEEP[50], se=True),
    "irse101": lambda s, x: ir(s, x, DEEP[100], se=True),
    "irse152": lambda s, x: ir(s, x, DEEP[152], se=True),
    "iresnet18": lambda s, x: iresnet(s, x, DEEP[18]),
    "iresnet34": lambda s, x: iresnet(s, x, DEEP[34]),
    "iresnet50": lambda s, x: iresnet(s, x, DEEP[50]),
    "iresnet100": lambda s, x: iresnet(s, x, DEEP[100]),
}
# Published counts, in millions as their projects print them; MobileFaceNet's exactly. Nobody seems to have published
# ir152's, irse101's and irse152's: they are held to the layer table below, as all of their family are.
PARAMETERS = {
    "mobilefacenet": 1_200_512, "mobilefacenet_wide": 2.06e6, "ir50": 43.57e6, "irse50": 43.80e6, "ir100": 65.13e6,
    "iresnet18": 24.02e6, "iresnet34": 34.14e6, "iresnet50": 43.59e6, "iresnet100": 65.15e6,
}  # fmt: skip


def counted(name: str) -> int:
    """Parameters of a deep network by the papers' tables: 3x3 pairs in stages of 64 to 512 channels, 7x7x512 to 512."""
    se, original = name.startswith("irse"), name.startswith("ir") and not name.startswith("iresnet")
    depth = int(name.removeprefix("iresnet").removeprefix("irse").removeprefix("ir"))
    total = 3 * 64 * 9 + 2 * 64 + 64  # stem: convolution, norm, slopes
    before = 64
    for channels, count in zip((64, 128, 256, 512), DEEP[100 if depth == 101 else depth], strict=True):
        for index in range(count):
            norms = before + (0 if original else channels) + channels
            total += 9 * before * channels + 9 * channels * channels + 2 * norms + channels
            # InsightFace_Pytorch projects the skipped path only where the channels change; arcface_torch in each stage.
            if before != channels or (index == 0 and not original):
                total += before * channels + 2 * channels
            total += 2 * channels * (channels // 16) if se else 0
            before = channels
    return total + 2 * 512 + 512 * 49 * 512 + 512 + 2 * 512


def weights(name: str, size: int = 512) -> dict[str, Tensor]:
    """Random but lively: norms and slopes away from 1 and 0, so that no wrong order of them goes unnoticed."""
    generator = torch.Generator().manual_seed(len(name))
    # A residual network sums what its blocks give: in fifty lively ones it grows until gates turn at the last bit of a sum.
    gain = 1.5 if name.startswith("mobilefacenet") else 0.5
    with torch.device("meta"):
        shapes = build(name, size).state_dict()
    state = {}
    for key, value in shapes.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif value.ndim > 1:
            state[key] = torch.randn(value.shape, generator=generator) * (gain / value[0].numel()) ** 0.5
        else:
            state[key] = torch.rand(value.shape, generator=generator) * 0.8 + 0.2
    return state


OWN = {"resnet_small"}  # eolgul's, without published weights


def test_every_network_has_a_reference_here_and_a_publisher() -> None:
    names = set(BACKBONES) - {"tiny"}
    assert names == set(REFERENCES) == {name for names in LAYOUTS.values() for name in names} | OWN


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        count = sum(value.numel() for value in build(name, 512).parameters())
    assert count == (PARAMETERS[name] if name == "mobilefacenet" else pytest.approx(PARAMETERS[name], rel=2e-3))


def test_the_small_network_is_as_small_as_it_says() -> None:
    with torch.device("meta"):
        assert sum(value.numel() for value in build("resnet_small", 128).parameters()) == 326_496


@pytest.mark.parametrize("name", sorted(name for name in set(REFERENCES) - OWN if not name.startswith("mobilefacenet")))
def test_parameter_counts_of_the_layer_tables(name: str) -> None:
    with torch.device("meta"):
        network = build(name, 512)
    free = sum(value.numel() for value in network.parameters() if value.requires_grad)
    # arcface_torch keeps the last norm's scale at one without training it; it is a parameter all the same.
    fixed = sum(value.numel() for value in network.parameters() if not value.requires_grad)
    assert (free + fixed, fixed) == (counted(name), 512 if name.startswith("iresnet") else 0)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_the_same_answers_as_an_independent_version(name: str) -> None:
    state = weights(name)
    network = build(name, 512).eval()
    network.load_state_dict(state)
    x = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        got, expected = F.normalize(network(x)), F.normalize(REFERENCES[name](state, x))
    assert got.shape == (2, 512) and not torch.allclose(got[0], got[1], atol=1e-3)
    torch.testing.assert_close(got, expected, atol=5e-6, rtol=0)


def test_published_parameter_names() -> None:
    assert {"input_layer.0.weight", "body.3.shortcut_layer.0.weight", "body.23.res_layer.5.fc2.weight",
            "output_layer.3.weight"} <= set(weights("irse50"))  # fmt: skip
    assert {"layer3.13.bn3.running_var", "layer1.0.downsample.1.bias", "features.weight"} <= set(weights("iresnet50"))
    assert "layers.5.layers.3.layers.1.layers.0.weight" in weights("mobilefacenet_wide")


def test_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"resnet9000.*mobilefacenet"):
        build("resnet9000", 512)
