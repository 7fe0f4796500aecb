import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError
from sandwatch.model.adapt import Adapted, head, plain_state
from sandwatch.model.adapter import HEADER, Adapter
from sandwatch.model.tuning import Tuning
from tests import training
from tests.models import section

ensure_torchvision()
import timm  # noqa: E402
from timm.optim import param_groups_layer_decay  # noqa: E402

torch.set_num_threads(1)
SIZE = 32


def tuning(**changes: Any) -> Tuning:
    return training.section(tuning=changes).tuning


class Vit(nn.Module):
    """A plain ViT with a decoder of two layers."""

    def __init__(self, name: str = "vit_tiny_patch16_224", **options: Any) -> None:
        super().__init__()
        self.encoder = timm.create_model(name, num_classes=0, **options)
        self.decoder = nn.Conv2d(self.encoder.embed_dim, 16, 1)
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.encoder.forward_features(pixels)[:, self.encoder.num_prefix_tokens :]
        grid = tokens.transpose(1, 2).unflatten(2, (pixels.shape[2] // 16, pixels.shape[3] // 16))
        return nn.functional.interpolate(self.head(self.decoder(grid).relu()), size=pixels.shape[2:])


def vit() -> nn.Module:
    return Vit(img_size=SIZE, depth=4)


def unet() -> nn.Module:
    return section(encoder="tu-mobilenetv3_small_050").build(("B2", "B3", "B4"), SIZE)


def step(network: nn.Module, adapted: Adapted, epoch: int) -> set[str]:
    """Learns once; names of what changed, buffers too."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.AdamW([parameter for _, parameter, _ in adapted.learning()], lr=0.01, fused=True)
    adapted.begin(epoch)
    network(torch.randn(4, 3, SIZE, SIZE) + 1).square().sum().backward()
    adapted.hold(epoch)
    optimizer.step()
    network.zero_grad()
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("build", [unet, vit])
@pytest.mark.parametrize("method", ["full", "probe", "frozen", "gradual"])
def test_what_learns(method: str, build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = build()
    every = set(network.state_dict())
    encoder = {name for name in every if name.startswith("encoder.")}
    last = {
        f"{name}.{end}" for name, part in network.named_modules() if part is head(network) for end in ("weight", "bias")
    }
    assert last in ({"segmentation_head.0.weight", "segmentation_head.0.bias"}, {"head.weight", "head.bias"})
    # A convolution's bias before a batch norm has no gradient but rounding; everything else moves.
    expected = {"full": every, "probe": last, "frozen": every - encoder, "gradual": every - encoder}[method]
    adapted = Adapted(network, tuning(method=method, frozen_share=0.5), epochs=4)
    names = {name for name, _, _ in adapted.learning()}
    parameters = {name for name, _ in network.named_parameters()}
    assert names == (parameters if method == "gradual" else parameters & expected)
    for epoch in (0, 1):
        assert step(network, adapted, epoch) == expected
    if method == "gradual":
        assert adapted.slow_from(40) == 20
        assert step(network, adapted, 2) == every
    else:
        assert adapted.slow_from(40) == 40
        assert step(network, adapted, 2) == expected


def test_what_is_frozen_works_as_in_use() -> None:
    network = unet()
    for method, resting in (("frozen", "encoder"), ("probe", "")):
        adapted = Adapted(network, tuning(method=method), epochs=4)
        network.train()
        adapted.begin(0)
        assert not any(part.training for part in network.get_submodule(resting).modules())
        assert network.get_submodule("decoder").training == (method == "frozen")


def shares(network: nn.Module, decay: float) -> dict[str, float]:
    return {name: share for name, _, share in Adapted(network, tuning(layer_decay=decay), 4).learning()}


def test_layer_decay_of_a_transformer_is_timms() -> None:
    network = vit()
    found = shares(network, 0.75)
    by_id = {id(parameter): name for name, parameter in network.named_parameters()}
    # timm sees no head behind this encoder, so that its last block has the full rate: all of it is one step up.
    groups = param_groups_layer_decay(network.get_submodule("encoder"), layer_decay=0.75)
    timms = {by_id[id(one)]: 0.75 * group["lr_scale"] for group in groups for one in group["params"]}
    assert found["encoder.blocks.0.attn.qkv.weight"] == pytest.approx(0.75**4)
    assert {name: share for name, share in found.items() if name.startswith("encoder.")} == pytest.approx(timms)
    assert {share for name, share in found.items() if not name.startswith("encoder.")} == {1.0}


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ("resnet18", {"conv1": 0.0625, "bn1": 0.0625, "layer1.0": 0.125, "layer2.1": 0.25, "layer3.0": 0.5}),
        ("tu-resnet50d", {"model.conv1.3": 0.0625, "model.layer1.2": 0.125, "model.layer3.5": 0.5}),
        ("mit_b0", {"patch_embed1": 0.125, "patch_embed3": 0.5, "block1.0": 0.125, "norm2": 0.25, "block3.1": 0.5}),
        ("densenet121", {"features.conv0": 0.0625, "features.denseblock1": 0.125, "features.transition1": 0.125}),
        ("tu-convnext_atto", {"model.stem_0": 0.0625, "model.stages_0": 0.125, "model.stages_2.blocks.3": 0.5}),
    ],
)
def test_layer_decay_of_a_pyramid_goes_by_stages(encoder: str, expected: dict[str, float]) -> None:
    network = section(encoder=encoder, depth=4, decoder_channels=[]).build(("B2", "B3", "B4"), 64)
    found = shares(network, 0.5)
    for start, share in expected.items():
        own = {value for name, value in found.items() if name.startswith(f"encoder.{start}.")}
        assert own == {share}, (start, own, sorted({name.rsplit(".", 2)[0] for name in found})[:40])


def test_layer_decay_without_layers_is_refused() -> None:
    network = nn.ModuleDict({"encoder": nn.ModuleDict({"stem": nn.Conv2d(3, 4, 3)}), "head": nn.Conv2d(4, 1, 1)})
    with pytest.raises(InputError, match=r"train\.tuning\.layer_decay: got 0\.65, for an encoder without numbered"):
        Adapted(network, tuning(layer_decay=0.65), 4)
    assert shares(network, 1.0)["encoder.stem.weight"] == 1.0


# --- adapters: they want peft, an optional library ----------------------------------------------------------------


@pytest.fixture
def peft() -> None:
    training.want_peft()


def test_merged_adapters_compute_what_unmerged_ones_do(peft: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = vit()
    plain = network.state_dict()
    names, before = list(plain), {name: tensor.clone() for name, tensor in plain.items()}
    adapted = Adapted(network, tuning(method="lora", lora={"targets": ["qkv", "fc1"], "dropout": 0.0}), 4)
    pixels = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        started = network.eval()(pixels)
    state = plain_state(network)
    assert list(state) == names
    assert all(torch.equal(state[name], before[name]) for name in names)  # an adapter that learnt nothing adds nothing
    for epoch in range(3):
        changed = step(network, adapted, epoch)
        assert {name for name in changed if name.startswith("encoder.")} == {
            name for name in network.state_dict() if ".lora_" in name
        }
        assert {"decoder.weight", "head.weight"} <= changed
    with torch.no_grad():
        unmerged = network.eval()(pixels)
    state = {name: tensor.clone() for name, tensor in plain_state(network).items()}
    assert list(state) == names
    adapter = Adapter.of(network, "7" * 64)
    assert adapter is not None
    adapter.write(tmp_path / "adapter.safetensors")
    read = Adapter.read(tmp_path / "adapter.safetensors")
    assert (read.scale, read.start) == (adapter.scale, "7" * 64)
    again = read.onto(before)
    assert list(again) == names
    assert max(float((again[name] - state[name]).abs().max()) for name in names) < 1e-6
    merged = adapted.plain(state)
    assert merged is network
    assert Adapter.of(merged, None) is None
    assert list(merged.state_dict()) == names
    with torch.no_grad():
        assert (merged.eval()(pixels) - unmerged).abs().max() < 1e-5
        other = vit()
        other.load_state_dict(state)
        assert (other.eval()(pixels) - unmerged).abs().max() < 1e-5
    assert (unmerged - started).abs().max() > 0.01
    moved = {name for name in names if not torch.equal(state[name], before[name])}
    assert {name for name in moved if name.startswith("encoder.")} == {
        f"encoder.blocks.{block}.{layer}.weight" for block in range(4) for layer in ("attn.qkv", "mlp.fc1")
    }


def test_adapters_of_convolutions_are_merged_too(peft: None) -> None:
    network = unet()
    names = list(network.state_dict())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    adapted = Adapted(
        network, tuning(method="lora", lora={"targets": r"model\.blocks\..*conv_pwl?", "dropout": 0.3}), 4
    )
    for epoch in range(2):
        changed = step(network, adapted, epoch)
        statistics = {name for name in changed if name.startswith("encoder.") and "running" in name}
        assert statistics == set()
    pixels = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        unmerged = network.eval()(pixels)
        state = {name: tensor.clone() for name, tensor in plain_state(network).items()}
        adapter = Adapter.of(network, None)
        assert adapter is not None
        again = adapter.onto(before)
        assert max(float((again[name] - state[name]).abs().max()) for name in names) < 1e-6
        merged = adapted.plain(state)
        assert list(merged.state_dict()) == names
        assert (merged.eval()(pixels) - unmerged).abs().max() < 1e-5


def test_adapters_of_a_large_transformer_are_small(peft: None, tmp_path: Path) -> None:
    with torch.device("meta"):
        network = Vit("vit_large_patch16_224")
        lora = {"rank": 16, "alpha": 16, "dropout": 0.1, "targets": ["qkv"]}  # the predecessor's
        whole = sum(parameter.numel() for parameter in network.get_submodule("encoder").parameters())
        assert whole > 300e6
        adapted = Adapted(network, tuning(method="lora", lora=lora), 4)
    learning = [parameter for name, parameter, _ in adapted.learning() if name.startswith("encoder.")]
    count = sum(parameter.numel() for parameter in learning)
    assert count == 24 * 16 * (1024 + 3 * 1024)
    assert count < 0.01 * whole
    for name, part in network.named_modules():  # what the file holds is made real; the encoder's own 1.2 GB are not
        if not name.startswith("encoder") or ".lora_" in name:
            part.to_empty(device="cpu", recurse=False)
    adapter = Adapter.of(network, None)
    assert adapter is not None
    adapter.write(tmp_path / "adapter.safetensors")
    assert 4 * count < (tmp_path / "adapter.safetensors").stat().st_size < 10e6


def test_an_adapter_of_another_network_or_file_is_refused(peft: None, tmp_path: Path) -> None:
    network = vit()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Adapted(network, tuning(method="lora", lora={"targets": ["qkv"]}), 4)
    adapter = Adapter.of(network, None)
    assert adapter is not None
    with pytest.raises(InputError, match=r"adapter: got a network with no encoder\.blocks\.3\.attn\.qkv\.weight; exp"):
        adapter.onto({name: tensor for name, tensor in before.items() if ".3." not in name})
    for name in ("encoder.blocks.0.attn.qkv.weight", "head.weight"):
        with pytest.raises(InputError, match=rf"adapter: got a network with {name} of shape \(1, 1\); expected"):
            adapter.onto(before | {name: torch.zeros(1, 1)})
    path = tmp_path / "adapter.safetensors"
    for content in (b"", b"{}", save_bytes({"w": torch.zeros(1)}), save_bytes({"w": torch.zeros(1)}, {HEADER: "[]"})):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"adapter\.safetensors: got .*; expected an adapter that a training"):
            Adapter.read(path)


@pytest.mark.parametrize("targets", [["kqv"], r"blocks\.\d+\.attn\.kqv", ["norm1"], ["attn"]])
def test_targets_that_are_no_layers_are_refused(peft: None, targets: Any) -> None:
    with pytest.raises(InputError, match=r"lora\.targets: got .*; expected linear layers .*, such as blocks\.\d"):
        Adapted(vit(), tuning(method="lora", lora={"targets": targets}), 4)


def test_a_target_that_could_not_be_merged_by_its_weight_is_refused(peft: None) -> None:
    """peft would take it, but it has no weight of that name."""
    encoder = nn.ModuleDict({"stem": nn.Linear(8, 8), "attention": nn.MultiheadAttention(8, 2)})
    network = nn.ModuleDict({"encoder": encoder, "head": nn.Conv2d(8, 1, 1)})
    with pytest.raises(InputError, match=r"lora\.targets: got attention; expected linear layers"):
        Adapted(network, tuning(method="lora", lora={"targets": ["attention"]}), 4)


def test_adapters_without_their_library_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"tuning\.method: lora: got no package peft; .* optional extra lora"):
        Adapted(vit(), tuning(method="lora"), 4)


@pytest.mark.parametrize("targets", [[], "", [""], "qkv(", 3])
def test_targets_that_name_nothing_are_refused(targets: Any) -> None:
    with pytest.raises(ValueError, match="a list of names of layers, or a regular expression"):
        tuning(method="lora", lora={"targets": targets})
