"""Clipping, weight decay and the last layer's type, as the originals have them."""

from __future__ import annotations

import pytest
import torch
from support.training import TinyNet, tiny
from torch import nn

from eolgul.errors import InputError
from eolgul.train.backbones import BACKBONES, build, keep_last_layer_fp32
from eolgul.train.distributed import World
from eolgul.train.head import Head
from eolgul.train.margins import Margin
from eolgul.train.optim import clip_gradients, make_optimizer


def with_gradients(sample: float = 1.0) -> tuple[nn.Module, Head]:
    torch.manual_seed(0)
    network, head = TinyNet(8), Head(8, 5, Margin(), sample=sample)
    for value in network.parameters():
        value.grad = torch.randn_like(value)
    head.weight.grad = torch.randn_like(head.weight) * 3
    return network, head


@pytest.mark.parametrize("factor", [1.0, 8.0])
@pytest.mark.parametrize("which", ["joint", "backbone", "none"])
def test_clipping_as_torch_does_it(which: str, factor: float) -> None:
    """`backbone` is arcface_torch's clip_grad_norm_(backbone.parameters(), 5); the head is left alone."""
    network, head = with_gradients()
    other, other_head = with_gradients()
    parts = {"joint": [*other.parameters(), other_head.weight], "backbone": list(other.parameters()), "none": []}[which]
    everything = [*other.parameters(), other_head.weight]
    norm = torch.stack([value.grad.norm() for value in everything if value.grad is not None]).norm()
    if parts:
        nn.utils.clip_grad_norm_(parts, 0.7)
    for value in [*network.parameters(), head.weight]:
        assert value.grad is not None
        value.grad *= factor
    said = clip_gradients(network, head, 0.7, factor, World(), which=which)
    assert said == pytest.approx(float(norm), rel=1e-5)
    for one, two in zip([*network.parameters(), head.weight], everything, strict=True):
        assert one.grad is not None and two.grad is not None
        assert torch.allclose(one.grad, two.grad, rtol=1e-4, atol=1e-7)


def decays(*options: str) -> dict[str, float]:
    network, head = TinyNet(16), Head(16, 4, Margin())
    optimizer = make_optimizer(tiny("weight_decay=0.001", *options), network, head)
    names = {id(value): name for name, value in network.named_parameters()} | {id(head.weight): "head"}
    return {names[id(value)]: group["weight_decay"] for group in optimizer.param_groups for value in group["params"]}


def test_which_parameters_decay() -> None:
    norms, slopes, biases = (
        {"features.1.weight", "features.1.bias"},
        {"features.2.weight"},
        {"features.3.bias", "out.2.bias"},
    )
    assert {name for name, value in decays().items() if value == 0} == norms | slopes | biases
    assert {name for name, value in decays("decay=no_batch_norm").items() if value == 0} == norms
    everything = decays("decay=all")
    assert set(everything.values()) == {0.001} and everything.keys() == decays().keys()
    last = decays("decay=no_batch_norm", "last_decay=10")
    assert {name for name, value in last.items() if value == pytest.approx(0.01)} == {
        "out.2.weight",
        "out.2.bias",
        "head",
    }


@pytest.mark.parametrize("name", ["mobilefacenet", "irse50", "iresnet18", "mobilefacenet_wide"])
def test_the_last_layer_computes_in_float32(name: str) -> None:
    seen: dict[str, torch.dtype] = {}
    for kept in (False, True):
        network = build(name, 32).eval()
        if kept:
            keep_last_layer_fp32(network)
        layer = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        layer.register_forward_hook(lambda _m, _i, out, kept=kept: seen.__setitem__(str(kept), out.dtype))
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            network(torch.randn(2, 3, 112, 112))
    assert seen == {"False": torch.bfloat16, "True": torch.float32}


def test_a_network_without_a_linear_layer() -> None:
    with pytest.raises(InputError, match="has no linear layer"):
        keep_last_layer_fp32(nn.Conv2d(3, 4, 1))
    assert make_optimizer(tiny(), nn.Conv2d(3, 4, 1), Head(4, 3, Margin())).param_groups


def test_every_backbone_has_a_last_linear_layer() -> None:
    with torch.device("meta"):
        for name in BACKBONES:
            keep_last_layer_fp32(build(name, 16))
