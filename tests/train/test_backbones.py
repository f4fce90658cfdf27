"""Parameter counts and names against the published networks."""

from __future__ import annotations

import pytest
import torch

from eolgul.errors import InputError
from eolgul.train.backbones import build

# Counted from the published definitions (arXiv:1804.07573 at 512-d; InsightFace_Pytorch's model.py).
PARAMETERS = {"mobilefacenet": 1_200_512, "ir50": 43_574_976, "irse50": 43_797_696}


@pytest.mark.parametrize("name", PARAMETERS)
def test_size_and_shape(name: str) -> None:
    network = build(name, 512).eval()
    assert sum(value.numel() for value in network.parameters()) == PARAMETERS[name]
    with torch.inference_mode():
        one, other = network(torch.randn(2, 3, 112, 112))
    assert one.shape == (512,)
    assert not torch.allclose(one, other)


def test_published_parameter_names_are_kept() -> None:
    names = set(build("irse50", 512).state_dict())
    assert {"input_layer.0.weight", "body.3.shortcut_layer.0.weight",
            "body.23.res_layer.5.fc2.weight", "output_layer.3.weight"} <= names  # fmt: skip
    assert {
        "conv1.conv.weight",
        "conv_34.conv_dw.conv.weight",
        "conv_5.model.1.project.bn.weight",
        "linear.weight",
    } <= set(build("mobilefacenet", 512).state_dict())


def test_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"resnet9000.*mobilefacenet"):
        build("resnet9000", 512)
