"""TerraMind and Prithvi: terratorch's own results, published files that fit whole, bands by name in any order.

Nets are narrow here; names and number of dimensions are those that are published. One test looks at the real sizes.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sandwatch import extras
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.model.cache import PLACE, place
from sandwatch.model.entry import Entry
from sandwatch.model.families import prithvi, terramind
from sandwatch.model.families.library import module_of
from sandwatch.model.network import Model, Pinned
from sandwatch.model.predictor import Reader
from sandwatch.model.registry import ENTRIES, entry
from sandwatch.train.initial import Initial, initial

INSTALLED = pytest.mark.skipif(
    find_spec("terratorch") is None, reason="NOT TESTED: kinds terramind and prithvi need the extra terratorch"
)
REST = {"decoder": "unet", "decoder_channels": 32}
BANDS = (*terramind.L1C, *terramind.RADAR)
MOMENTS = {band: (-1500.0, 400.0) if band in terramind.RADAR else (1200.0, 350.0) for band in BANDS}
SIDE = 32
SIZES = {"terramind": "tiny", "prithvi": "300m"}
WEIGHTS = [one.name for one in ENTRIES if (one.network["kind"], one.network.get("size")) in SIZES.items()]
FOLDER = "models/backbones"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(terramind.SIZES, "tiny", (32, 4, 2))
    monkeypatch.setitem(prithvi.SIZES, "300m", (32, 4, 2, 16))


def filled(network: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network.eval()


def theirs(modality: str, side: int, *, bands: int, frames: int = 1) -> nn.Module:
    """What terratorch makes: a transformer of Prithvi, or the part of TerraMind for one modality."""
    if modality == "prithvi":
        return filled(
            module_of("terratorch", FOLDER, "prithvi_mae", what="test").PrithviViT(
                img_size=side, num_frames=frames, in_chans=bands, embed_dim=32, depth=4, num_heads=2
            )
        )
    return filled(
        module_of("terratorch", f"{FOLDER}/terramind/model", "encoder_embeddings", what="test").ImageEncoderEmbedding(
            num_channels=bands, patch_size=16, dim_tokens=32, image_size=side
        )
    )


def published(kind: str) -> dict[str, Tensor]:
    """What a published file holds beside what is taken: a decoder, other modalities, embeddings of place and time.

    Source: terratorch, terramind_register.py, prithvi_vit.py; sandwatch's own names for the blocks, which are those of
    terratorch's state by the tests below.
    """
    if kind == "prithvi":
        state = theirs("prithvi", 224, bands=6, frames=4).state_dict()
        rest = {"decoder.mask_token": torch.zeros(1), "encoder.temporal_embed_enc.scale": torch.ones(1)}
        return {f"encoder.{name}": tensor for name, tensor in state.items()} | rest
    made = {}
    for bands, name in terramind.MODALITIES.items():
        state = theirs(name, 224, bands=len(bands)).state_dict()
        made |= {f"encoder_embeddings.{name}.{part}": tensor for part, tensor in state.items()}
    encoder = filled(terramind.Encoder("tiny", terramind.L2A, 224)).state_dict()
    made |= {name: tensor for name, tensor in encoder.items() if not name.startswith("encoder_embeddings.")}
    other = {"decoder.0.norm1.weight": torch.ones(1), "encoder_embeddings.tok_dem@224.mod_emb": torch.ones(1)}
    return made | other | {"mask_token": torch.zeros(1)}


def started(one: Entry, tensors: object, folder: Path, patch: pytest.MonkeyPatch, bands: Sequence[str]) -> Initial:
    patch.setenv(PLACE, str(folder))
    place(one).parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, place(one))
    weights = Pinned(name=one.name, sha256=sha256(place(one)))
    torch.manual_seed(0)
    model = Model.of(REST | one.network, "binary").model_copy(update={"weights": weights, "new_bands": "leave_out"})
    return initial(model, tuple(bands), MOMENTS, SIDE, folder)


def scores(begun: Initial, bands: Sequence[str], taken_for: Sequence[str] | None = None) -> Tensor:
    """Of one scene, whatever the order of its bands; unless they are taken for others."""
    pixels = {}
    for number, (band, (mean, std)) in enumerate(MOMENTS.items()):
        noise = torch.randn(2, SIDE, SIDE, generator=torch.Generator().manual_seed(number))
        pixels[band] = (mean + std * noise).to(torch.int16)
    with torch.inference_mode():
        seen = Reader(begun.match.channels, taken_for or bands)(torch.stack([pixels[band] for band in bands], dim=1))
        found: Tensor = begun.network.eval()(seen)
    return found


@INSTALLED
def test_prithvi_finds_what_terratorchs_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = theirs("prithvi", SIDE, bands=6)
    encoder: Any = Model.of(REST | {"kind": "prithvi", "size": "300m"}, "binary").build(BANDS[:6], SIDE).encoder
    encoder.load_state_dict(encoder.prepared(network.state_dict()) | {"pos_embed": network.get_buffer("pos_embed")})
    pixels = torch.randn(2, 6, SIDE, SIDE)
    with torch.no_grad():
        maps, found = encoder.eval()(pixels), network.forward_features(pixels)  # type: ignore[operator]
    assert [one.shape for one in maps] == [(2, 32, 2, 2)] * 4
    for ours, tokens in zip(maps, [*map(network.norm, found[:-1]), found[-1]], strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(ours, tokens[:, 1:].transpose(1, 2).reshape(2, 32, 2, 2), rtol=1e-4, atol=1e-5)


@INSTALLED
def test_position_embeddings_of_a_series_become_those_of_its_first_date() -> None:
    encoder = prithvi.Encoder("300m", 6, 224)
    series = theirs("prithvi", 224, bands=6, frames=4).state_dict()
    assert series["pos_embed"].shape == (1, 1 + 4 * 196, 32)
    torch.testing.assert_close(encoder.prepared(series)["pos_embed"], encoder.pos_embed)


@INSTALLED
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_published_file_fits_whole_and_half_of_it_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = entry(name)
    bands = [band.name for band in one.bands]
    tensors = published(str(one.network["kind"]))
    begun = started(one, tensors, tmp_path, monkeypatch, bands)
    state = begun.network.get_submodule("encoder").state_dict()
    named = {re.sub(r"^encoder\.(?!\d)", "", key): tensor for key, tensor in tensors.items()}
    for key, tensor in state.items():
        if "pos_emb" not in key:
            assert torch.equal(tensor.flatten(), named[key].flatten()), key
    assert begun.start is not None
    assert begun.start.licence == "Apache-2.0"
    assert [channel.name for channel in begun.match.channels] == bands
    begun.network(torch.randn(2, len(bands), SIDE, SIDE)).sum().backward()
    assert [n for n, p in begun.network.named_parameters() if p.requires_grad and p.grad is None] == []
    cut = {key: tensor for number, (key, tensor) in enumerate(tensors.items()) if number % 2}
    with pytest.raises(InputError, match=rf"weights {name}: .* got no tensor for .* \(and \d+ more of \d+\)"):
        started(one, cut, tmp_path, monkeypatch, bands)


@INSTALLED
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_scene_scores_the_same_in_any_order_of_bands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = entry(name)
    bands = [band.name for band in one.bands]
    tensors = published(str(one.network["kind"]))
    first = started(one, tensors, tmp_path, monkeypatch, bands)
    other = [*(band for band in BANDS if band not in bands), *reversed(bands)]
    second = started(one, tensors, tmp_path, monkeypatch, other)
    second.network.load_state_dict(first.network.state_dict())
    expected = scores(first, bands)
    torch.testing.assert_close(scores(second, other), expected)
    swapped = [bands[1], bands[0], *bands[2:]]
    assert not torch.allclose(scores(first, swapped, taken_for=bands), expected)


@INSTALLED
def test_both_sensors_of_terramind_are_one_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patch by patch: a change in a corner of one sensor's image is strongest in that corner of the map."""
    encoder = filled(terramind.Encoder("tiny", (*terramind.L2A, *terramind.RADAR), 64))
    pixels = torch.randn(1, 14, 64, 64)
    for channel in (0, 13):
        changed = pixels.clone()
        changed[:, channel, 48:, :16] += 3
        with torch.inference_mode():
            apart = (encoder(changed)[0] - encoder(pixels)[0]).abs().sum((0, 1))
        assert divmod(int(apart.argmax()), 4) == (3, 0)


@INSTALLED
@pytest.mark.parametrize(
    ("kind", "channels"), [("terramind", (*terramind.L2A, *terramind.RADAR)), ("prithvi", terramind.L2A[:6])]
)
def test_a_network_can_be_traced_for_any_number_of_windows(kind: str, channels: tuple[str, ...]) -> None:
    network = Model.of(REST | {"kind": kind, "size": SIZES[kind]}, "binary").build(channels, SIDE).eval()
    given = torch.randn(3, len(channels), SIDE, SIDE)
    with torch.no_grad():
        traced = torch.export.export(
            network, (torch.zeros(2, *given.shape[1:]),), dynamic_shapes=({0: torch.export.Dim("n", min=1)},)
        ).module()
        for windows in (given, given[:1]):
            torch.testing.assert_close(traced(windows), network(windows), rtol=1e-4, atol=1e-5)


@INSTALLED
@pytest.mark.parametrize("size", terramind.SIZES)
def test_terramind_of_the_real_sizes_has_terratorchs_names_and_shapes(
    size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks by their parameters as its paper and terratorch's factory give them, for what the class doesn't decide."""
    monkeypatch.undo()
    width, depth, _ = terramind.SIZES[size]
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in terramind.Encoder(size, terramind.L2A, 224).state_dict().items()}
    assert shapes["encoder_embeddings.untok_sen2l2a@224.proj.weight"] == (width, 12 * 16 * 16)
    assert shapes["encoder_embeddings.untok_sen2l2a@224.pos_emb"] == (1, 196, width)
    assert shapes[f"encoder.{depth - 1}.attn.qkv.weight"] == (3 * width, width)
    assert f"encoder.{depth}.attn.qkv.weight" not in shapes
    gated = size in ("base", "large")
    assert ("encoder.0.mlp.fc3.weight" in shapes, "encoder.0.attn.qkv.bias" in shapes) == (gated, not gated)
    assert shapes["encoder.0.mlp.fc1.weight"] == (int(8 * width / 3) if gated else 4 * width, width)


@INSTALLED
@pytest.mark.parametrize("size", prithvi.SIZES)
def test_prithvi_of_the_real_sizes_has_terratorchs_names_and_shapes(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    width, depth, heads, patch = prithvi.SIZES[size]
    file = module_of("terratorch", FOLDER, "prithvi_mae", what="test")
    monkeypatch.setattr(file.PrithviViT, "initialize_weights", lambda self: None)
    with torch.device("meta"):
        ours = prithvi.Encoder(size, 6, 224).state_dict()
        whole = file.PrithviViT(
            img_size=224, patch_size=patch, in_chans=6, embed_dim=width, depth=depth, num_heads=heads
        ).state_dict()
    assert ours.keys() == whole.keys()
    for name, tensor in ours.items():
        assert tensor.shape == (whole[name][:, :, 0] if name == "patch_embed.proj.weight" else whole[name]).shape


@INSTALLED
def test_channels_that_terramind_can_not_see_are_refused() -> None:
    build = Model.of(REST | {"kind": "terramind", "size": "tiny"}, "binary").build
    for channels in (terramind.L2A[:5], (*terramind.L2A, "VV"), ("VV",), ()):
        with pytest.raises(InputError, match=r"model\.kind terramind: got channels .*; expected the 12 bands of L2A"):
            build(channels, SIDE)


@pytest.mark.parametrize("kind", SIZES)
def test_without_the_extra_one_line_names_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=rf"model\.kind {kind}: got no package terratorch, einops; .* extra terratorch"
    ):
        Model.of(REST | {"kind": kind, "size": SIZES[kind]}, "binary").build(terramind.L2A, SIDE)


@INSTALLED
def test_neither_datasets_nor_the_registry_of_terratorch_are_loaded() -> None:
    code = (
        "import sys\nfrom sandwatch.model.families.library import module_of\n"
        f"module_of('terratorch', '{FOLDER}', 'prithvi_mae', what='t')\n"
        f"module_of('terratorch', '{FOLDER}/terramind/model', 'encoder_embeddings', what='t')\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('terratorch', 'torchgeo', 'rasterio')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
