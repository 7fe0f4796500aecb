"""CROMA and DOFA: torchgeo's own results, published files that fit whole, bands by name in any order and unit.

Nets are narrow here; names and number of dimensions are those that are published. One test looks at the real sizes.
"""

import math
import subprocess
import sys
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
from sandwatch.model.families import croma, dofa
from sandwatch.model.families.library import module_of
from sandwatch.model.network import Model, Pinned
from sandwatch.model.predictor import Reader
from sandwatch.model.registry import ENTRIES, entry
from sandwatch.train.initial import Initial, initial

INSTALLED = pytest.mark.skipif(
    find_spec("torchgeo") is None, reason="NOT TESTED: kinds croma and dofa need the extra torchgeo"
)
NETWORK = {"size": "base", "decoder": "unet", "decoder_channels": 32}
OPTICAL, BOTH = croma.OPTICAL, (*croma.OPTICAL, *croma.RADAR)
CROMA = {"l2a": OPTICAL, "s1": croma.RADAR, "l2a-s1": BOTH}
MOMENTS = {band: (-1500.0, 400.0) if band in croma.RADAR else (1200.0, 350.0) for band in (*BOTH, "B10")}
SIDE = 32
WEIGHTS = [one.name for one in ENTRIES if one.network["kind"] in ("croma", "dofa") and one.network["size"] == "base"]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(croma.SIZES, "base", (64, 8))
    monkeypatch.setitem(dofa.SIZES, "base", (64, 4, 4))


def library(kind: str, side: int, **options: Any) -> nn.Module:
    """torchgeo's own network, with numbers in it."""
    torch.manual_seed(3)
    if kind == "dofa":
        made = module_of("torchgeo", "models", "dofa", what="test").DOFA(
            img_size=side, patch_size=16, embed_dim=64, depth=4, num_heads=4
        )
    else:
        made = module_of("torchgeo", "models", "croma", what="test").CROMA(
            encoder_dim=64, encoder_depth=8, num_heads=16, image_size=side, **options
        )
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    network: nn.Module = made.eval()
    return network


def published(kind: str) -> dict[str, Any]:
    """What a published file holds: of CROMA a state a part, of DOFA one without a head, with what is left of training.

    Source: torchgeo, load_weights(); zhu-xlab/DOFA, README, for what its file has beside the network.
    """
    if kind == "dofa":
        state = library("dofa", 224).state_dict()
        kept = {name: tensor for name, tensor in state.items() if not name.startswith(("fc_norm.", "head."))}
        return kept | {"mask_token": torch.zeros(1, 1, 512), "norm.weight": torch.ones(64), "norm.bias": torch.ones(64)}
    return {name: part.state_dict() for name, part in library("croma", 120).named_children()}


def started(
    name: str, tensors: object, folder: Path, patch: pytest.MonkeyPatch, bands: tuple[str, ...], **changes: Any
) -> Initial:
    one = entry(name)
    patch.setenv(PLACE, str(folder))
    place(one).parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, place(one))
    weights = Pinned(name=name, sha256=sha256(place(one)))
    torch.manual_seed(0)
    model = Model.of(NETWORK | {"kind": one.network["kind"]}, "binary").model_copy(
        update={"weights": weights} | changes
    )
    return initial(model, bands, MOMENTS, SIDE, folder)


def scores(begun: Initial, bands: tuple[str, ...], taken_for: tuple[str, ...] | None = None) -> Tensor:
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
@pytest.mark.parametrize("product", CROMA)
def test_croma_finds_what_torchgeos_finds(product: str) -> None:
    channels = CROMA[product][::-1]  # by name
    encoder: Any = Model.of(NETWORK | {"kind": "croma"}, "binary").build(channels, SIDE).get_submodule("encoder")
    modalities = [name for name, bands in (("sar", croma.RADAR), ("optical", OPTICAL)) if {*bands} <= {*channels}]
    theirs = library("croma", SIDE, modalities=modalities)
    encoder.load_state_dict({name: theirs.state_dict()[name] for name in encoder.state_dict()})
    pixels = torch.randn(2, len(channels), SIDE, SIDE)
    seen = dict(zip(channels, croma.stretched(pixels).unbind(1), strict=True))
    given = {
        f"x_{name}": torch.stack([seen[band] for band in bands], dim=1)
        for name, bands in (("sar", croma.RADAR), ("optical", OPTICAL))
        if name in modalities
    }
    with torch.inference_mode():
        maps, found = encoder.eval()(pixels), theirs(**given)
    last = found["joint_encodings" if len(modalities) == 2 else f"{modalities[0]}_encodings"]
    assert [one.shape for one in maps] == [(2, 64, 4, 4)] * 4
    torch.testing.assert_close(maps[-1], last.transpose(1, 2).reshape(2, 64, 4, 4), rtol=1e-4, atol=1e-5)
    assert not torch.equal(maps[0], maps[-1])


@INSTALLED
def test_dofa_finds_what_torchgeos_finds() -> None:
    channels = ("B11", "B2", "B8A")
    encoder: Any = Model.of(NETWORK | {"kind": "dofa"}, "binary").build(channels, SIDE).get_submodule("encoder")
    theirs = library("dofa", SIDE)
    nn.init.ones_(theirs.get_parameter("fc_norm.weight"))
    nn.init.zeros_(theirs.get_parameter("fc_norm.bias"))
    encoder.load_state_dict({name: theirs.state_dict()[name] for name in encoder.state_dict()})
    pixels = torch.randn(2, 3, SIDE, SIDE)
    before: list[Tensor] = []
    theirs.get_submodule("blocks.3").register_forward_hook(lambda module, given, made: before.append(made))
    with torch.inference_mode():
        maps = encoder.eval()(pixels)
        theirs.forward_features(pixels, [1.61, 0.49, 0.8647])  # type: ignore[operator]
    expected = torch.nn.functional.layer_norm(before[0], (64,))[:, 1:].transpose(1, 2).reshape(2, 64, 2, 2)
    torch.testing.assert_close(maps[-1], expected, rtol=1e-4, atol=1e-5)


@INSTALLED
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_published_file_fits_whole_and_half_of_it_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = entry(name)
    kind = str(one.network["kind"])
    bands = tuple(band.name for band in one.bands)
    tensors = published(kind)
    begun = started(name, tensors, tmp_path, monkeypatch, bands)
    state = begun.network.get_submodule("encoder").state_dict()
    flat = tensors if kind == "dofa" else {f"{part}.{n}": t for part, held in tensors.items() for n, t in held.items()}
    for key, tensor in state.items():
        if key != "pos_embed":
            assert torch.equal(tensor, flat[key]), key
    assert begun.start is not None
    assert begun.start.licence == "CC-BY-4.0"
    assert [channel.name for channel in begun.match.channels] == list(bands)
    begun.network(torch.randn(2, len(bands), SIDE, SIDE)).sum().backward()
    idle = [n for n, p in begun.network.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    cut = {key: flat[key] for key in list(state)[: len(state) // 2]}
    with pytest.raises(InputError, match=rf"weights {name}: .* got no tensor for .* \(and \d+ more of \d+\)"):
        started(name, cut, tmp_path, monkeypatch, bands)
    with pytest.raises(InputError, match="got 1 tensors that nothing takes: strange"):
        started(name, tensors | {"strange": torch.zeros(1)}, tmp_path, monkeypatch, bands)


@INSTALLED
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_scene_scores_the_same_in_any_order_of_bands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bands = tuple(band.name for band in entry(name).bands)
    tensors = published(str(entry(name).network["kind"]))
    first = started(name, tensors, tmp_path, monkeypatch, bands)
    other = ("B10", *reversed(bands))
    second = started(name, tensors, tmp_path, monkeypatch, other, new_bands="leave_out")
    second.network.load_state_dict(first.network.state_dict())
    expected = scores(first, bands)
    torch.testing.assert_close(scores(second, other), expected)
    swapped = (bands[1], bands[0], *bands[2:])
    assert not torch.allclose(scores(first, swapped, taken_for=bands), expected)


@INSTALLED
def test_the_unit_of_a_scene_makes_no_difference_to_croma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randn(2, 3, 8, 8) * 300 + 1000
    torch.testing.assert_close(croma.stretched(pixels), croma.stretched(pixels / 10_000 - 0.3), rtol=1e-3, atol=1e-3)
    each = [croma.stretched(one[None]) for one in pixels]
    torch.testing.assert_close(croma.stretched(pixels), torch.cat(each))  # what else is scored makes none either
    assert torch.equal(croma.stretched(torch.full((1, 1, 8, 8), 7.0)), torch.full((1, 1, 8, 8), 0.5))
    values = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0] + [0.0] * 20)
    expected = ((values - values.mean()) / (4 * values.std()) + 0.5).clamp(0, 1)
    torch.testing.assert_close(croma.stretched(values.reshape(1, 1, 5, 5)).flatten(), expected)


def test_dofa_sees_the_bands_in_the_scale_that_it_was_trained_in() -> None:
    red, *_, swir = entry("dofa/base/mae/l1c").bands
    assert (red.name, swir.name) == ("B4", "B12")
    for one, reflectance, of_8_bit, mean, std in (
        (red, 1500.0, 1500 / 3558 * 255, 114.1099739, 77.84352553),
        (swir, 2000.0, 2000 / 8160 * 255, 56.66528851, 42.55886798),
    ):
        assert one.mean is not None
        assert one.std is not None
        assert math.isclose((reflectance - one.mean) / one.std, (of_8_bit - mean) / std)
        assert one.low is not None
        assert one.high is not None
        assert math.isclose(one.low * std + mean, 0, abs_tol=1e-9)
        assert math.isclose(one.high * std + mean, 255)


@INSTALLED
def test_dofa_takes_a_new_band_by_its_wavelength(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "dofa/base/mae/l1c"
    bands = (*(band.name for band in entry(name).bands), "B8A")
    begun = started(name, published("dofa"), tmp_path, monkeypatch, bands, new_bands="nearest")
    encoder = begun.network.get_submodule("encoder")
    assert [round(value, 4) for value in encoder.get_buffer("wavelengths").tolist()] == [
        0.665, 0.56, 0.49, 0.705, 0.74, 0.783, 0.842, 1.61, 2.19, 0.8647,
    ]  # fmt: skip
    assert scores(begun, bands).shape == (2, 1, SIDE, SIDE)


@INSTALLED
@pytest.mark.parametrize(("kind", "channels"), [("croma", BOTH), ("dofa", OPTICAL)])
def test_a_network_can_be_traced_for_any_number_of_windows(kind: str, channels: tuple[str, ...]) -> None:
    network = Model.of(NETWORK | {"kind": kind}, "binary").build(channels, SIDE).eval()
    given = torch.randn(3, len(channels), SIDE, SIDE)
    with torch.no_grad():
        traced = torch.export.export(
            network, (torch.zeros(2, *given.shape[1:]),), dynamic_shapes=({0: torch.export.Dim("n", min=1)},)
        ).module()
        for windows in (given, given[:1]):
            torch.testing.assert_close(traced(windows), network(windows), rtol=1e-4, atol=1e-5)


@INSTALLED
@pytest.mark.parametrize(("size", "side"), [("base", 160), ("large", 160)])
def test_names_and_shapes_of_the_real_sizes_are_torchgeos(
    size: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    croma_file, dofa_file = (
        module_of("torchgeo", "models", "croma", what="test"),
        module_of("torchgeo", "models", "dofa", what="test"),
    )
    monkeypatch.setattr(croma_file, "get_2dalibi", lambda num_heads, num_patches: torch.zeros(1))
    with torch.device("meta"):
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (croma.Encoder(size, BOTH, 32), getattr(croma_file, f"croma_{size}")(image_size=32)),
            (dofa.Encoder(size, OPTICAL, side), getattr(dofa_file, f"dofa_{size}_patch16_224")(img_size=side)),
        ]
    for ours, theirs in pairs:
        shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
        assert {name: tensor.shape for name, tensor in ours.state_dict().items()}.items() <= shapes.items()
        left = shapes.keys() - ours.state_dict().keys()
        assert {name.split(".")[0] for name in left} <= {"s1_GAP_FFN", "s2_GAP_FFN", "attn_bias", "fc_norm", "head"}


@INSTALLED
@pytest.mark.parametrize(
    ("kind", "channels", "message"),
    [
        ("croma", OPTICAL[:5], r"model\.kind croma: got channels B1, B2, B3, B4, B5; expected B1, .* or VV and VH"),
        ("dofa", (*OPTICAL, "VV"), r"model\.kind dofa: got channels VV; expected bands of Sentinel-2"),
    ],
)
def test_channels_that_they_can_not_see_are_refused(kind: str, channels: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Model.of(NETWORK | {"kind": kind}, "binary").build(channels, SIDE)


@pytest.mark.parametrize(("kind", "channels"), [("croma", OPTICAL), ("dofa", OPTICAL)])
def test_without_the_extra_one_line_names_it(
    kind: str, channels: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"model\.kind {kind}: got no package torchgeo, einops; .* extra torchgeo"):
        Model.of(NETWORK | {"kind": kind}, "binary").build(channels, SIDE)


def test_a_rule_that_dofa_can_not_follow_is_refused() -> None:
    with pytest.raises(ValueError, match="refuse, leave_out or nearest, since dofa goes by wavelength"):
        Model.variant({"kind": "dofa"}).model_validate(
            NETWORK
            | {"kind": "dofa", "weights": None, "missing_bands": "refuse", "new_bands": "mean", "method": "binary"}
        )


@INSTALLED
def test_neither_datasets_nor_the_registry_of_torchgeo_are_loaded() -> None:
    code = (
        "import sys\nfrom sandwatch.model.families.library import module_of\n"
        "for name in ('croma', 'dofa'):\n    module_of('torchgeo', 'models', name, what='t')\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('torchgeo', 'rasterio', 'geopandas', 'kornia')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
