"""The network is found below any prefix and beside anything else, and what cannot be it is named."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from eolgul.errors import InputError
from eolgul.train.backbones import LAYOUTS, build
from eolgul.train.layouts import CONTRACTS, also_fits, difference, match
from eolgul.train.weights_file import read_state

_SMALL = (("insightface_pytorch", "mobilefacenet"), ("arcface_torch", "mobilefacenet_wide"))


@functools.cache
def _weights(name: str, size: int = 16) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {key: value.clone() for key, value in build(name, size).state_dict().items()}


def _same(network: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


_PARTS = st.sampled_from(
    ("module", "_orig_mod", "backbone", "model", "net", "features", "encoder", "student", "state_dict")
)
_KEYS = st.sampled_from(("model", "state_dict", "net", "backbone", "state_dict_backbone", "weights", "0", "module"))
_OTHERS = st.fixed_dictionaries(
    {},
    optional={
        "epoch": st.just(7),
        "state_dict_softmax_fc": st.just({"weight": torch.zeros(9, 16)}),
        "optimizer": st.just({"state": {0: {"momentum_buffer": torch.zeros(4, 3, 3, 3)}}, "param_groups": []}),
        "hyper_parameters": st.just({"lr": 0.1, "milestones": [1, 2]}),
    },
)


@settings(max_examples=20, deadline=None)
@given(
    chosen=st.sampled_from(_SMALL),
    prefix=st.lists(_PARTS, max_size=3),
    keys=st.lists(_KEYS, max_size=3),
    others=_OTHERS,
    head=st.sampled_from(("", "fc2.weight", "head.kernel", "head.weight", "loss.weight")),
    half=st.booleans(),
    zipped=st.booleans(),
)
def test_any_nesting_and_any_prefix_give_the_same_weights(
    tmp_path_factory: pytest.TempPathFactory,
    chosen: tuple[str, str],
    prefix: list[str],
    keys: list[str],
    others: dict[str, object],
    head: str,
    half: bool,
    zipped: bool,
) -> None:
    layout, name = chosen
    state = {
        key: value.half() if half and value.is_floating_point() else value for key, value in _weights(name).items()
    }
    content: dict[str, object] = {".".join([*prefix, key]): value for key, value in state.items()}
    if head:
        content[".".join([*prefix[:-1], head])] = torch.zeros(16, 9) if head == "head.kernel" else torch.zeros(9, 16)
    for key in reversed(keys):
        content = {key: content, **others}
    file = tmp_path_factory.mktemp("w") / "w.pt"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    found = match(read_state(file), layout, None, "w.pt")
    assert (found.name, found.size) == (name, 16) and _same(found.network, state)
    expected = bool(head) + (
        bool(keys) and sum(key in others for key in ("state_dict_softmax_fc", "optimizer")) * len(keys)
    )
    assert sum(found.ignored.values()) == expected


@pytest.mark.parametrize("name", sorted({name for names in LAYOUTS.values() for name in names}))
def test_every_network_is_found_among_all_of_its_layouts(name: str) -> None:
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in build(name, 128).state_dict().items()}
    state = {f"model.{key}": torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    layouts = [layout for layout, names in LAYOUTS.items() if name in names]
    found = match(state, layouts[0], None, "w.pt")
    assert (found.name, found.size, found.prefix) == (name, 128, "model.")
    assert also_fits(name, layouts[0]) == layouts[1:]


def test_a_word_about_the_other_project() -> None:
    assert difference("insightface_pytorch", "face_evolve") == "color RGB instead of BGR"
    assert difference("arcface_torch", "magface") == (
        "color BGR instead of RGB, mean 0.0 instead of 127.5, std 255.0 instead of 127.5, flip none instead of sum"
    )
    assert set(CONTRACTS) == set(LAYOUTS)


def test_two_networks_in_one_file(tmp_path: Path) -> None:
    state = _weights("mobilefacenet")
    both = {f"{place}.{key}": value for place in ("model", "ema") for key, value in state.items()}
    assert match(both, "insightface_pytorch", None, "w").prefix in ("model.", "ema.")  # equal: either will do
    both["ema.linear.weight"] = both["ema.linear.weight"] + 1
    with pytest.raises(
        InputError, match=r"^w: holds 2 such networks, below 'ema\.', 'model\.'; choose one with --prefix$"
    ):
        match(both, "insightface_pytorch", None, "w")
    for prefix in ("model", "model."):
        assert _same(match(both, "insightface_pytorch", None, "w", prefix=prefix).network, state)
    with pytest.raises(InputError, match=r"no parameter's name begins with 'net\.', expected one of ema\., model\."):
        match(both, "insightface_pytorch", None, "w", prefix="net")


def test_magface_has_batch_norms_of_its_own() -> None:
    state = {f"features.{key}": value for key, value in _weights("iresnet18").items()}
    state["fc.weight"] = torch.zeros(16, 85742 // 1000)
    found = match(state, "magface", None, "w")
    assert found.ignored == {"fc": 1}
    assert {m.eps for m in found.network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)} == {2e-5}


def _adaface() -> dict[str, Tensor]:
    """The names and shapes of AdaFace's IR networks: a batch norm between the convolutions of a block."""
    state: dict[str, Tensor] = {"model.input_layer.0.weight": torch.zeros(64, 3, 3, 3)}
    for number in range(24):
        for part, shape in enumerate(((64,), (64, 64, 3, 3), (64,), (64,), (64, 64, 3, 3), (64,))):
            state[f"model.body.{number}.res_layer.{part}.weight"] = torch.zeros(shape)
            if part in (0, 2, 5):
                state[f"model.body.{number}.res_layer.{part}.running_mean"] = torch.zeros(64)
    state["model.output_layer.3.weight"] = torch.zeros(512, 512 * 49)
    state["head.kernel"] = torch.zeros(512, 9)
    return state


def _strangers() -> dict[str, tuple[dict[str, Tensor], str]]:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        bottleneck, basic = torchvision.models.resnet50().state_dict(), torchvision.models.resnet18().state_dict()
    vit = {f"blocks.{n}.attn.qkv.weight": torch.zeros(9, 3) for n in range(3)}
    large = dict(_weights("ir50", 512))
    large["output_layer.3.weight"] = torch.zeros(()).expand(512, 512 * 14 * 14)
    return {
        "adaface": (_adaface(), r"they look like AdaFace's and CVLface's IR networks.*does not have"),
        "resnet50": (dict(bottleneck), r"they look like a ResNet with bottleneck blocks, which eolgul does not have"),
        "resnet18": (dict(basic), r"they look like a ResNet of another kind, which eolgul does not have"),
        "vit": (vit, r"a vision transformer, which eolgul does not have"),
        "nothing alike": ({"w": torch.zeros(2)}, r"\(w, …\); they are another network's, which eolgul does not have"),
        "224": (large, r"is a ir50 for faces of 224x224 pixels, expected one for 112x112"),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("what", ["adaface", "resnet50", "resnet18", "vit", "nothing alike", "224"])
def test_another_network_is_called_another_network(what: str, layout: str) -> None:
    state, says = _strangers()[what]
    if what == "224" and "ir50" not in LAYOUTS[layout]:
        return
    with pytest.raises(InputError, match=says) as raised:
        match(state, layout, None, "w.ckpt")
    assert "nearest" not in str(raised.value)


def test_almost_a_network_names_the_difference() -> None:
    good = _weights("mobilefacenet")

    def attempt(
        state: dict[str, Tensor], says: str, layout: str = "insightface_pytorch", backbone: str | None = None
    ) -> None:
        with pytest.raises(InputError, match=says):
            match(state, layout, backbone, "w")

    attempt(good, r"those of mobilefacenet: --layout insightface_pytorch$", layout="arcface_torch")
    attempt(_weights("iresnet18"), r"those of iresnet18: --layout arcface_torch or --layout magface$")
    attempt(good, r"its parameters are those of mobilefacenet, expected irse50's", backbone="irse50")
    conv = {**good, "conv1.conv.weight": torch.zeros(64, 1, 3, 3)}
    attempt(conv, r"nearest is mobilefacenet, but conv1\.conv\.weight is 64x1x3x3, expected 64x3x3x3")
    attempt({key: value for key, value in good.items() if key != "bn.bias"}, r"mobilefacenet, but bn\.bias is missing")
    attempt({**good, "gate.weight": torch.zeros(3, 3, 3, 3)}, r"but gate\.weight does not belong to it")
    attempt({**good, "kernel": torch.zeros(2)}, r"but kernel does not belong to it")
    attempt({**good, "conv_5.more": torch.zeros(2)}, r"but conv_5\.more does not belong to it")
    attempt({**good, "bn.bias": torch.full((16,), float("nan"))}, r"bn\.bias holds numbers that are not finite")
    attempt({**good, "bn.bias": torch.zeros(16, device="meta")}, r"bn\.bias is not a tensor of plain numbers")
