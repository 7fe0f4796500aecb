"""Weights to start from: pinned by their hash, fitted whole into a network, or refused by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sandwatch import params
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.model.network import Model, Pinned
from sandwatch.model.weights import save
from sandwatch.train.initial import Initial, initial
from tests.models import SECTION, section, spec

BANDS = ("B2", "B3", "B4", "B8", "VV")
MOMENTS = {band: (1000.0 + number, 200.0) for number, band in enumerate(BANDS)}


def encoder_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in network.get_submodule("encoder").state_dict().items()}


def pinned(path: Path) -> Pinned:
    return Pinned(name=path.name, sha256=sha256(path))


def started(path: Path, bands: tuple[str, ...] = BANDS, **changes: Any) -> Initial:
    """A network that starts from a file."""
    return initial(section(weights=pinned(path), **changes), bands, MOMENTS, 32, path.parent)


def test_an_encoder_starts_from_a_file(tmp_path: Path) -> None:
    stored = section().build(BANDS, 32)
    save_file(encoder_of(stored), tmp_path / "encoder.safetensors")
    save_file({n: t.contiguous() for n, t in stored.state_dict().items()}, tmp_path / "whole.safetensors")
    for name in ("encoder", "whole"):
        found, expected = encoder_of(started(tmp_path / f"{name}.safetensors").network), encoder_of(stored)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        assert not torch.equal(
            started(tmp_path / f"{name}.safetensors").network.get_parameter("decoder.blocks.0.conv1.0.weight"),
            stored.get_parameter("decoder.blocks.0.conv1.0.weight"),
        )


def test_a_model_of_ours_is_gone_on_with_whole_and_by_its_own_statistics(tmp_path: Path) -> None:
    path, network = tmp_path / "before.safetensors", section().build(BANDS[:3], 32)
    save(path, {n: t.contiguous() for n, t in network.state_dict().items()}, spec().header())
    begun = started(path, ("B4", "B3", "B2"))
    state = begun.network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert [(c.name, c.band, c.mean, c.std) for c in begun.match.channels] == [
        (band, band, 1000.0, 200.0) for band in ("B2", "B3", "B4")
    ]
    assert begun.start is not None
    assert begun.start.model
    with pytest.raises(InputError, match=r"before\.safetensors: got a model Unet with resnet18, 3 stages, method bin"):
        started(path, BANDS[:3], method="three_class")


def test_the_first_layer_gets_channels_for_bands_that_weights_do_not_know(tmp_path: Path) -> None:
    stored = section().build(BANDS[:3], 32)
    save_file(encoder_of(stored), tmp_path / "rgb.safetensors")
    before = encoder_of(stored)["conv1.weight"]  # of B4, B3, B2: what a file with three bands is taken for

    def first(rule: str) -> torch.Tensor:
        return encoder_of(started(tmp_path / "rgb.safetensors", BANDS[:4], new_bands=rule).network)["conv1.weight"]

    mean, zero, nearest = first("mean"), first("zero"), first("nearest")
    torch.testing.assert_close(mean[:, :3], before * 3 / 4)
    torch.testing.assert_close(mean[:, 3], before.mean(dim=1) * 3 / 4)
    torch.testing.assert_close(zero[:, :3], before)
    assert not zero[:, 3].any()
    torch.testing.assert_close(nearest[:, 3], before[:, 0] * 3 / 4)  # B8 is nearest to B4
    assert first("leave_out").shape[1] == 3
    # Photographs' weights keep the size of activations as the library does.
    assert [c.name for c in started(tmp_path / "rgb.safetensors").match.channels] == ["B4", "B3", "B2", "B8", "VV"]


def test_weights_of_another_network_are_refused_by_the_first_tensor(tmp_path: Path) -> None:
    tensors = encoder_of(section().build(BANDS, 32))
    save_file({n: t for n, t in tensors.items() if n != "layer1.0.bn1.weight"}, tmp_path / "less.safetensors")
    with pytest.raises(InputError, match=r"less\.safetensors: got no tensor for layer1\.0\.bn1\.weight"):
        started(tmp_path / "less.safetensors")
    half = dict(list(tensors.items())[: len(tensors) // 2])
    save_file(half, tmp_path / "half.safetensors")
    with pytest.raises(InputError, match=r"half\.safetensors: got no tensor for layer\d.* \(and \d+ more of \d+\)"):
        started(tmp_path / "half.safetensors")
    save_file(tensors | {"layer1.0.bn1.weight": torch.zeros(7)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"got \(7,\) for layer1\.0\.bn1\.weight; expected a tensor \(64,\)"):
        started(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("none")
    with pytest.raises(InputError, match=r"text\.safetensors: got .*header"):
        started(tmp_path / "text.safetensors")
    save_file(encoder_of(section().build(BANDS[:4], 32)), tmp_path / "four.safetensors")
    with pytest.raises(InputError, match=r"got a first layer that sees 4 bands, .*; expected 5, as params.yaml, bands"):
        started(tmp_path / "four.safetensors")


def test_a_tensor_that_nothing_takes_is_refused_by_name(tmp_path: Path) -> None:
    """Of a network that is used whole: one that isn't has no place for the deeper stages of a file."""
    whole = {"depth": 5, "decoder_channels": []}
    tensors = encoder_of(section(**whole).build(BANDS, 32))
    save_file(tensors, tmp_path / "fits.safetensors")
    assert started(tmp_path / "fits.safetensors", **whole).start is not None
    save_file(tensors | {"layer9.weight": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(
        InputError, match=r"more\.safetensors: got 1 tensors that nothing takes: layer9\.weight; expected"
    ):
        started(tmp_path / "more.safetensors", **whole)


def test_other_bytes_than_pinned_are_refused_with_their_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(encoder_of(section().build(BANDS, 32)), path)
    before = section(weights=pinned(path))
    save_file(encoder_of(section().build(BANDS, 32)), path)
    with pytest.raises(
        InputError, match=rf"with the SHA-256 {sha256(path)}; expected {sha256_of(before)}; .* write sha256: "
    ):
        initial(before, BANDS, MOMENTS, 32, tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=rf"got no file .*a\.safetensors; expected weights .* {sha256_of(before)}"):
        initial(before, BANDS, MOMENTS, 32, tmp_path)


def sha256_of(model: Model) -> str:
    assert model.weights is not None
    return model.weights.sha256


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("smp/resnet18/imagenet", r"got 'smp/.*'; expected null, or \{name: .* sandwatch models smp/resnet18/imagenet"),
        ("mine.safetensors", r"got 'mine.safetensors'; expected null, or \{name: .* with the hash that sha256sum"),
        (
            {"name": "mine.safetensors", "sha": "0" * 64},
            r"weights\.sha: got a key that .* expected one of name, sha256",
        ),
        ({"name": "../mine.safetensors", "sha256": "0" * 64}, r"model\.weights\.name: got '\.\./mine"),
        ({"name": "a/../mine.safetensors", "sha256": "0" * 64}, r"model\.weights\.name: got 'a/\.\./mine"),
        ({"name": "mine.safetensors", "sha256": "0"}, r"model\.weights\.sha256: got '0'"),
        ({"name": "mine.safetensors"}, r"model\.weights\.sha256: got nothing"),
    ],
)
def test_only_what_is_named_with_its_hash_is_taken(value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        params.check(Model, SECTION | {"weights": value})


def test_an_unknown_kind_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match=r"model\.kind: got 'smpp'; expected .*'smp'"):
        params.check(Model, SECTION | {"kind": "smpp"})


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    model = section(weights={"name": "nobody/has/these", "sha256": "0" * 64})
    with pytest.raises(InputError, match=r"weights nobody/has/these: got no such name; expected one of the \d+ that"):
        initial(model, BANDS, MOMENTS, 32, tmp_path)


def test_the_first_layer_of_a_file_is_found_wherever_its_name_sorts(tmp_path: Path) -> None:
    # Its stem is called conv_stem, and sorts behind convolutions that take each channel by itself.
    model = {"encoder": "tu-tf_efficientnet_lite0", "decoder_channels": [32, 16, 16]}
    stored = section(**model).build(BANDS[:3], 32)
    save_file(encoder_of(stored), tmp_path / "rgb.safetensors")
    begun = started(tmp_path / "rgb.safetensors", new_bands="zero", **model)
    assert [one.name for one in begun.match.channels] == ["B4", "B3", "B2", "B8", "VV"]
    stem = "model.conv_stem.weight"
    torch.testing.assert_close(encoder_of(begun.network)[stem][:, :3], encoder_of(stored)[stem])
