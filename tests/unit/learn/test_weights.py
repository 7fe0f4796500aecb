"""Weights to start from: fetched once, pinned by their hash, fitted into an encoder, or refused."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save, save_file
from torch import nn

from sandwatch import params
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.learn.card import Model, Weights
from sandwatch.learn.model import build
from sandwatch.learn.weights import fetch, load
from tests.servers.hub import serve_hub

from .test_model import small

REPOSITORY = "smp-hub/resnet18.imagenet"


def encoder_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in network.get_submodule("encoder").state_dict().items()}


def pinned(path: Path) -> Weights:
    return Weights(file=path.name, sha256=sha256(path))


def started(path: Path, *, bands: int = 5) -> nn.Module:
    """A network whose encoder starts from a file."""
    network = build(small(), in_channels=bands, size_px=32)
    load(network.get_submodule("encoder"), pinned(path), path.parent, in_channels=bands)
    return network


def test_an_encoder_starts_from_a_file(tmp_path: Path) -> None:
    stored = build(small(), in_channels=5, size_px=32)
    save_file(encoder_of(stored), tmp_path / "encoder.safetensors")
    save_file({n: t.contiguous() for n, t in stored.state_dict().items()}, tmp_path / "whole.safetensors")
    for name in ("encoder", "whole"):
        network = started(tmp_path / f"{name}.safetensors")
        found, expected = encoder_of(network), encoder_of(stored)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        assert not torch.equal(
            network.get_parameter("decoder.blocks.0.conv1.0.weight"),
            stored.get_parameter("decoder.blocks.0.conv1.0.weight"),
        )


def test_the_first_convolution_is_adapted_to_the_bands_as_the_library_does(tmp_path: Path) -> None:
    stored = build(small(), in_channels=3, size_px=32)
    save_file(encoder_of(stored), tmp_path / "rgb.safetensors")
    network = started(tmp_path / "rgb.safetensors")
    stored.get_submodule("encoder").set_in_channels(5, pretrained=True)  # type: ignore[operator]
    expected = encoder_of(stored)["conv1.weight"]
    assert expected.shape[1] == 5
    torch.testing.assert_close(encoder_of(network)["conv1.weight"], expected)


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    tensors = encoder_of(build(small(), in_channels=3, size_px=32))
    save_file({n: t for n, t in tensors.items() if n != "layer1.0.bn1.weight"}, tmp_path / "less.safetensors")
    with pytest.raises(InputError, match=r"less\.safetensors: got no tensor for layer1\.0\.bn1\.weight"):
        started(tmp_path / "less.safetensors", bands=3)
    save_file(tensors | {"layer1.0.bn1.weight": torch.zeros(7)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"got \(7,\) for layer1\.0\.bn1\.weight; expected a tensor \(64,\)"):
        started(tmp_path / "other.safetensors", bands=3)
    (tmp_path / "text.safetensors").write_text("none")
    with pytest.raises(InputError, match=r"text\.safetensors: got .*header"):
        started(tmp_path / "text.safetensors", bands=3)


def test_other_bytes_than_pinned_are_refused_with_their_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    network = build(small(), in_channels=3, size_px=32)
    save_file(encoder_of(network), path)
    before = pinned(path)
    save_file(encoder_of(build(small(), in_channels=3, size_px=32)), path)
    into: Any = network.get_submodule("encoder")
    with pytest.raises(InputError, match=rf"got SHA-256 {sha256(path)}; expected {before.sha256}; .* write sha256: "):
        load(into, before, tmp_path, in_channels=3)
    path.unlink()
    with pytest.raises(InputError, match=rf"a\.safetensors: got no such file; expected weights .* {before.sha256}"):
        load(into, before, tmp_path, in_channels=3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "imagenet",
            r"got 'imagenet'; expected null, or .*\{file: .* as sandwatch weights resnet18 imagenet fetches it",
        ),
        ("mine.safetensors", r"got 'mine.safetensors'; expected null, or .*\{file: .* with what sha256sum says of it"),
        (
            {"file": "mine.safetensors", "sha": "0" * 64},
            r"weights\.sha: got a key that .* expected one of file, sha256",
        ),
        ({"file": "../mine.safetensors", "sha256": "0" * 64}, r"model\.encoder_weights\.file: got '\.\./mine"),
        ({"file": "mine.safetensors", "sha256": "0"}, r"model\.encoder_weights\.sha256: got '0'"),
        ({"file": "mine.safetensors"}, r"model\.encoder_weights\.sha256: got nothing"),
    ],
)
def test_only_a_file_with_its_hash_is_taken(value: object, message: str) -> None:
    section = small().model_dump(mode="json") | {"encoder_weights": value}
    with pytest.raises(InputError, match=message):
        params.check(Model, section)


def command(folder: Path, hub: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    ours = {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run(
        [sys.executable, "-c", "from sandwatch.cli import main; main()", "weights", *arguments],
        cwd=folder, env={**os.environ, **ours}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_weights_are_fetched_once_by_the_real_client(tmp_path: Path) -> None:
    """The line that the command prints is what params.yaml takes, and training starts from what the hub has."""
    import segmentation_models_pytorch as smp

    theirs = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    files = {f"{REPOSITORY}/model.safetensors": save(theirs), f"{REPOSITORY}/config.json": b"{}"}
    with serve_hub(files) as hub:
        done = command(tmp_path, hub.url, "resnet18", "imagenet")
        assert (done.returncode, done.stderr) == (0, "")
        assert any(request.startswith(f"GET /{REPOSITORY}/resolve/") for request in hub.requests)
        hub.requests.clear()
        again = command(tmp_path, hub.url, "resnet18", "imagenet")
        assert (again.stdout, hub.requests) == (done.stdout, [])
    path = tmp_path / "data" / "weights" / "resnet18_imagenet.safetensors"
    stored = load_file(path)
    assert stored.keys() == theirs.keys()
    assert all(torch.equal(stored[name], theirs[name]) for name in theirs)
    written = yaml.safe_load(done.stdout.splitlines()[-1])["encoder_weights"]
    section = small().model_dump(mode="json") | {"encoder_weights": written}
    assert params.check(Model, section).encoder_weights == pinned(path)
    found = encoder_of(started(path, bands=3))
    assert all(torch.equal(found[name], theirs[name]) for name in found)


def test_a_hub_without_them_is_one_line(tmp_path: Path) -> None:
    with serve_hub({}) as hub:
        done = command(tmp_path, hub.url, "resnet18", "imagenet")
    assert done.returncode == 1
    assert done.stderr.startswith("error: weights imagenet of the encoder resnet18: got ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_unknown_names_are_refused_with_the_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"imagenett of .* resnet18: got no such name; expected one of imagenet, ssl"):
        fetch("resnet18", "imagenett", tmp_path)
    with pytest.raises(InputError, match=r"of the encoder tu-resnet18: .* expected one of a1_in1k, a2_in1k"):
        fetch("tu-resnet18", "imagenet", tmp_path)
    with pytest.raises(InputError, match=r"model\.encoder: got 'resnet19'; .* such as resnet18"):
        fetch("resnet19", "imagenet", tmp_path)
