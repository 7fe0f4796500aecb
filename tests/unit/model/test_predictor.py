import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sandwatch.errors import InputError
from sandwatch.model.card import HEADER, Card, Spec
from sandwatch.model.channels import Channel
from sandwatch.model.network import Model
from sandwatch.model.predictor import Predictor, Reader, mine_logit
from sandwatch.stack import NODATA
from tests.models import section

from .test_card import card

FIVE = ("B2", "B3", "B4", "B8", "B11")


def reader(mean: list[float], std: list[float]) -> Reader:
    bands = [f"B{number + 2}" for number in range(len(mean))]
    return Reader([Channel(name=b, band=b, mean=m, std=s) for b, m, s in zip(bands, mean, std, strict=True)], bands)


def test_reading_gives_mean_0_and_deviation_1_and_nothing_where_there_is_no_data() -> None:
    pixels = torch.tensor([[[[100, 300], [NODATA, 200]], [[-7, -7], [-7, NODATA]]]], dtype=torch.int16)
    scaled = reader([200.0, -8.0], [50.0, 4.0])(pixels)
    torch.testing.assert_close(scaled, torch.tensor([[[[-2.0, 2.0], [0.0, 0.0]], [[0.25, 0.25], [0.25, 0.0]]]]))


@pytest.mark.parametrize(
    ("model", "classes"),
    [
        (section(), 1),
        (section(method="three_class"), 3),
        (section(encoder="tu-mobilenetv3_small_050", depth=4, decoder_channels=(16, 8, 8, 8)), 1),
        (section(architecture="FPN", decoder_channels=(), depth=5), 1),
        (section(decoder_channels=()), 1),
    ],
)
def test_networks_are_built_by_name_and_have_no_idle_part(model: Model, classes: int) -> None:
    network = model.build(FIVE, 64)
    output = network(torch.randn(2, 5, 64, 64))
    assert output.shape == (2, classes, 64, 64)
    output.sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_the_seed_makes_the_weights() -> None:
    torch.manual_seed(1)
    first = section().build(FIVE[:3], 32).state_dict()
    torch.manual_seed(1)
    second = section().build(FIVE[:3], 32).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "Unt"}, r"model\.architecture: got 'Unt'; expected one of 12 names, such as Unet"),
        ({"encoder": "resnet19"}, r"model\.encoder: got 'resnet19'; .* such as resnet18"),
        ({"encoder": "tu-mobilenetv3_smal_050"}, r"such as tu-mobilenetv3_small_050"),
        ({"decoder_channels": (16, 8)}, r"model\.decoder_channels: got \[16, 8\]; expected as many as .* 3"),
        ({"architecture": "FPN"}, r"model\.decoder_channels: got \[16, 8, 8\] for FPN; expected \[\]"),
        ({"encoder": "mit_b0", "architecture": "FPN", "decoder_channels": (), "depth": 4}, "depth=5"),
        ({"encoder": "tu-swin_tiny_patch4_window7_224", "depth": 4, "decoder_channels": (8, 8, 8, 8)}, "64"),
    ],
)
def test_what_can_not_be_built_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        section(**changes).build(FIVE, 64)
    assert "\n" not in str(caught.value)


class Linear(nn.Module):
    """Logits of known value: a weighted sum of the bands of a pixel for each class."""

    def __init__(self, weights: list[list[float]]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nbyx,cb->ncyx", x, self.weights)


PIXELS = np.random.default_rng(0).integers(300, 2000, (2, 3, 32, 32)).astype(np.int16)


def scaled(of: Card) -> np.ndarray:
    return (PIXELS - np.array(of.mean)[:, None, None]) / np.array(of.std)[:, None, None]


def test_log_odds_are_the_networks_before_calibration() -> None:
    predictor = Predictor(Linear([[0.5, -1.0, 2.0]]), card(temperature=2.5), "cpu", precision="32-true")
    logits = np.einsum("nbyx,b->nyx", scaled(card()), [0.5, -1.0, 2.0])
    found = predictor(PIXELS)
    assert (found.dtype, found.shape) == (np.float32, (2, 1, 32, 32))
    np.testing.assert_allclose(found[:, 0], logits, rtol=1e-4, atol=1e-5)
    changed = predictor.changed(threshold=0.75)
    assert changed.spec == card(temperature=2.5, threshold=0.75)
    np.testing.assert_array_equal(changed(PIXELS), found)


def test_with_three_classes_low_and_high_are_mine_and_told_apart() -> None:
    weights = [[0.2, 0.1, 0.3], [0.5, -1.0, 0.2], [-0.3, 1.5, 0.1]]
    three = card(method="three_class", classes=("other", "low", "high"))
    found = Predictor(Linear(weights), three, "cpu", precision="32-true")(PIXELS)
    output = np.exp(np.einsum("nbyx,cb->ncyx", scaled(three), weights))
    other, low, high = (output[:, layer] for layer in range(3))
    assert found.shape == (2, 2, 32, 32)
    np.testing.assert_allclose(found[:, 0], np.log((low + high) / other), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[:, 1], np.log(high / low), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.bfloat16)])
def test_precision_is_that_of_training(precision: Any, dtype: torch.dtype) -> None:
    """On a CPU Lightning takes bfloat16 in place of half precision, so both are the same here."""
    torch.manual_seed(0)
    network = section().build(FIVE[:3], 32).eval()
    exact = Predictor(network, card(), "cpu", precision="32-true")(PIXELS)
    found = Predictor(network, card(), "cpu", precision=precision)(PIXELS)
    assert found.dtype == np.float32
    assert not np.array_equal(found, exact)
    np.testing.assert_allclose(found, exact, atol=0.1)
    import lightning  # after the guard that build() sets up, because it imports torchvision

    place = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(precision=precision, **place)  # type: ignore[arg-type]
    read = Reader(card().channels, card().bands)
    with torch.inference_mode(), trainer.precision_plugin.forward_context():
        output = network(read(torch.from_numpy(PIXELS)))
    assert output.dtype == dtype
    np.testing.assert_array_equal(found, output.float().numpy())


def test_full_precision_has_the_bits_of_the_bare_network() -> None:
    torch.manual_seed(0)
    network = section().build(FIVE[:3], 32).eval()
    read = Reader(card().channels, card().bands)
    with torch.inference_mode():
        output = network(read(torch.from_numpy(PIXELS)))
    np.testing.assert_array_equal(Predictor(network, card(), "cpu", precision="32-true")(PIXELS), output.numpy())


def test_mine_logit_is_the_log_odds() -> None:
    output = torch.randn(2, 3, 4, 5)
    share = torch.softmax(output, dim=1)[:, 1:].sum(dim=1)
    torch.testing.assert_close(mine_logit(output), torch.logit(share), rtol=1e-4, atol=1e-4)


def test_a_model_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = section().build(FIVE[:3], 32)
    for _ in range(3):
        network(torch.randn(4, 3, 32, 32))  # statistics of batches, which belong to the model
    path = tmp_path / "model.safetensors"
    save_file({n: t.contiguous() for n, t in network.state_dict().items()}, path, metadata=card().header())
    loaded = Predictor.load(path, "cpu", precision="32-true")
    assert loaded.spec == Spec.carried(path)
    both = Predictor(network, loaded.spec, "cpu", precision="32-true")(PIXELS)
    np.testing.assert_array_equal(loaded(PIXELS), both)
    np.testing.assert_allclose(loaded(PIXELS[1:])[0], both[1], atol=1e-5)


def test_weights_that_say_nothing_of_themselves_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match=r"model\.safetensors: got No such file.*; expected weights that sandwatch"):
        Predictor.load(path, "cpu", precision="32-true")
    path.write_bytes(b"other")
    with pytest.raises(InputError, match=r"model\.safetensors: got .*header"):
        Predictor.load(path, "cpu", precision="32-true")
    save_file({"w": torch.zeros(3)}, path)
    with pytest.raises(InputError, match=r"model\.safetensors: got weights without a spec in their header"):
        Predictor.load(path, "cpu", precision="32-true")


@pytest.mark.parametrize("damage", ["empty", "head", "short", "long", "tensors", "spec", "null"])
def test_weights_that_are_not_whole_are_one_line(tmp_path: Path, damage: str) -> None:
    path, network = tmp_path / "model.safetensors", section().build(FIVE[:3], 32)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    header = card().header()
    if damage == "tensors":
        del state[next(iter(state))]
    if damage in ("spec", "null"):
        said = card().model_dump(mode="json", include=set(Spec.model_fields) - {"weights_sha256"})
        said["network"]["depth"] = 99
        header = {HEADER: "null" if damage == "null" else json.dumps(said)}
    save_file(state, path, metadata=header)
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "head": content[:500], "short": content[:-1], "long": content + b"0"}.get(damage, content)
    )
    with pytest.raises(
        InputError, match=r"model\.safetensors: got .+; expected weights that sandwatch wrote; "
    ) as error:
        Predictor.load(path, "cpu", precision="32-true")
    assert "\n" not in str(error.value)
