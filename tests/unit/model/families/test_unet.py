"""The predecessor's U-Nets: their parameters, and that each resolution is seen."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.model.weights import save
from tests.models import spec
from tests.unit.model.families.stored import (
    BANDS,
    MOMENTS,
    begun,
    same_whatever_the_order_and_unit,
    section,
)


@pytest.mark.parametrize(
    ("design", "parameters"), [("small", 7_705_921), ("original", 31_043_393), ("residual", 32_436_865)]
)
def test_parameters_are_those_of_the_predecessor(design: str, parameters: int) -> None:
    # Counted with its own code (commit 94219a1, models/unet) for 13 bands and one class.
    with torch.device("meta"):
        network = section(kind="unet", design=design).build(["band"] * 13, 32)
    assert sum(p.numel() for p in network.parameters()) == parameters
    contracting = network.get_submodule("encoder")
    assert 0.5 < sum(p.numel() for p in contracting.parameters()) / parameters < 0.65


@pytest.mark.parametrize("design", ["small", "original", "residual"])
def test_scores_have_the_size_of_the_window_and_every_part_learns(design: str) -> None:
    network = section(kind="unet", design=design, method="three_class").build(BANDS, 32)
    logits = network(torch.rand(2, len(BANDS), 32, 32))
    assert logits.shape == (2, 3, 32, 32)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_a_model_gives_the_same_scores_whatever_the_order_and_unit(tmp_path: Path) -> None:
    model = section(kind="unet", design="small")
    path, network = tmp_path / "before.safetensors", begun(model, BANDS, 32, tmp_path).network
    means, deviations = zip(*(MOMENTS[band] for band in BANDS), strict=True)
    header = spec(model, bands=BANDS, mean=means, std=deviations).header()
    save(path, {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, header)
    again = section(kind="unet", design="small", weights={"name": path.name, "sha256": sha256(path)})
    same_whatever_the_order_and_unit(lambda bands: begun(again, bands, 32, tmp_path), 32)


def test_an_encoder_of_fewer_bands_is_widened(tmp_path: Path) -> None:
    stored = section(kind="unet", design="small").build(BANDS[:3], 32).get_submodule("encoder").state_dict()
    path = tmp_path / "three.safetensors"  # taken for red, green, blue
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, path)
    pin = {"name": path.name, "sha256": sha256(path)}
    model = section(kind="unet", design="small", weights=pin, new_bands="zero")
    first = begun(model, BANDS, 32, tmp_path).network.get_parameter("encoder.blocks.0.0.weight")
    assert torch.equal(first[:, :3], stored["blocks.0.0.weight"])
    assert not first[:, 3:].any()
    half = {name: tensor.contiguous() for name, tensor in stored.items() if not name.startswith("blocks.2")}
    save_file(half, path)
    pin = {"name": path.name, "sha256": sha256(path)}
    with pytest.raises(InputError, match=r"three\.safetensors: .* got no tensor for blocks\.2\.0\.weight"):
        begun(section(kind="unet", design="small", weights=pin, new_bands="zero"), BANDS, 32, tmp_path)


def test_a_window_that_does_not_halve_is_refused() -> None:
    section(kind="unet", design="small").build(BANDS, 24)
    with pytest.raises(InputError, match=r"chips\.size_px: got 24; expected a multiple of 16, .* halves .* 4 times"):
        section(kind="unet", design="original").build(BANDS, 24)
