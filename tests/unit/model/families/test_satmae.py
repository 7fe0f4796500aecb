"""SatMAE: its authors' files load whole or not at all, and bands make tokens by groups."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from sandwatch.errors import InputError
from sandwatch.model.families import satmae
from sandwatch.model.registry import entry
from sandwatch.train.initial import Initial
from tests.unit.model.families.stored import (
    BANDS,
    begun,
    blocks,
    numbers,
    published,
    same_whatever_the_order_and_unit,
    section,
)

NAME = "satmae/base/mae/l1c"
WIDTH, DEPTH = 768, 1
SIZE_PX = 48


@pytest.fixture(autouse=True)
def fewer_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks are alike: one of the twelve does."""
    monkeypatch.setitem(satmae.SIZES, "base", (WIDTH, DEPTH, 12))


def tensors() -> dict[str, torch.Tensor]:
    """Names and shapes of the files of pretraining, but for the number of blocks."""
    attention = {"qkv": 3, "proj": 1}
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 145, 512),
        "channel_embed": (1, 3, 256),
        "mask_token": (1, 1, 512),
        "decoder_pos_embed": (1, 145, 384),
        "decoder_channel_embed": (1, 4, 128),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "decoder_embed.weight": (512, WIDTH),
        "decoder_embed.bias": (512,),
        "decoder_norm.weight": (512,),
        "decoder_norm.bias": (512,),
    }
    for number, bands in enumerate((4, 4, 2)):
        shapes |= {
            f"patch_embed.{number}.proj.weight": (WIDTH, bands, 8, 8),
            f"patch_embed.{number}.proj.bias": (WIDTH,),
            f"decoder_pred.{number}.weight": (64 * bands, 512),
            f"decoder_pred.{number}.bias": (64 * bands,),
        }
    return numbers(shapes | blocks("blocks.", WIDTH, DEPTH, attention) | blocks("decoder_blocks.", 512, 1, attention))


def checkpoint(model: dict[str, torch.Tensor]) -> dict[str, object]:
    """What surrounds them in a file."""
    return {"model": model, "optimizer": {"state": {}, "param_groups": []}, "epoch": 199, "args": Namespace(lr=1e-4)}


def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, torch.Tensor]) -> Initial:
    """A network that starts from a file with these tensors."""
    pin = published(NAME, checkpoint(model), tmp_path, monkeypatch)
    return begun(section(kind="satmae", size="base", decoder="linear", weights=pin), BANDS, SIZE_PX, tmp_path)


def test_a_published_file_fills_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = tensors()
    initial = start(tmp_path, monkeypatch, stored)
    state = initial.network.get_submodule("encoder").state_dict()
    assert state.keys() == {name for name in stored if not name.startswith(("decoder_", "mask_"))} | {
        "channel_cls_embed"
    }
    for name, tensor in state.items():
        if name not in ("pos_embed", "channel_cls_embed"):
            assert torch.equal(tensor, stored[name]), name
    assert not state["channel_cls_embed"].any()
    assert torch.equal(state["pos_embed"][:, 0], stored["pos_embed"][:, 0])
    assert initial.start is not None
    assert initial.start.words.endswith("licence: CC-BY-NC-4.0; that forbids commercial use")
    assert [channel.name for channel in initial.match.channels] == [one.name for one in entry(NAME).bands]


def test_a_file_of_fine_tuning_has_one_tensor_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"channel_cls_embed": torch.ones(1, 1, 256)}
    assert start(tmp_path, monkeypatch, tensors() | more).network.get_parameter("encoder.channel_cls_embed").all()


def test_half_a_file_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = tensors()
    less = {name: tensor for name, tensor in stored.items() if not name.startswith("blocks.0.")}
    with pytest.raises(InputError, match=r"satmae/base/mae/l1c: .* got no tensor for blocks\.0\..* \(and 11 more of"):
        start(tmp_path, monkeypatch, less)
    del stored["pos_embed"]
    with pytest.raises(InputError, match=r"got no tensor for pos_embed"):
        start(tmp_path, monkeypatch, stored)
    with pytest.raises(InputError, match=r"got 1 tensors that nothing takes: head\.weight"):
        start(tmp_path, monkeypatch, tensors() | {"head.weight": torch.zeros(62, WIDTH)})


def test_scores_are_the_same_whatever_the_order_and_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = published(NAME, checkpoint(tensors()), tmp_path, monkeypatch)
    model = section(kind="satmae", size="base", decoder="upsample", weights=pin)
    same_whatever_the_order_and_unit(lambda bands: begun(model, bands, SIZE_PX, tmp_path), SIZE_PX)


def test_positions_are_resampled_along_their_own_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = tensors()
    places = torch.zeros(12, 12, 512)
    places[..., 0], places[..., 1] = torch.arange(12.0), 10 * torch.arange(12.0)[:, None]  # column, row
    stored["pos_embed"][0, 1:] = places.reshape(144, 512)
    found = start(tmp_path, monkeypatch, stored).network.get_parameter("encoder.pos_embed")[0, 1:].reshape(6, 6, 512)
    torch.testing.assert_close(found[2, 1:-1, 0], 2 * torch.arange(1.0, 5.0) + 0.5, atol=0.2, rtol=0)
    torch.testing.assert_close(found[1:-1, 2, 1], 20 * torch.arange(1.0, 5.0) + 5, atol=2.0, rtol=0)
    torch.testing.assert_close(found[:, 2, 0], found[0, 2, 0].expand(6))


@pytest.mark.parametrize(("band", "group"), [(0, 0), (3, 1), (6, 0), (7, 1), (9, 2)])
def test_a_band_is_seen_by_its_group_at_its_place(band: int, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(satmae.SIZES, "base", (WIDTH, 0, 12))  # without attention nothing else sees it
    encoder = satmae.Encoder("base", 4)
    seen = torch.rand(1, 10, 32, 32)
    other = seen.clone()
    other[:, band, 8:16, 24:32] += 0.5  # the patch in row 1, column 3
    with torch.inference_mode():
        changed = (encoder(seen) != encoder(other)).reshape(3, WIDTH, 4, 4).any(dim=1)
    assert changed.nonzero().tolist() == [[group, 1, 3]]


def test_sizes_are_those_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    expected = {"base": (85.6e6, 12), "large": (303e6, 24)}
    for size, (parameters, depth) in expected.items():
        with torch.device("meta"):
            encoder = satmae.Encoder(size, 12)
        assert len(encoder.blocks) == depth
        assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(parameters, rel=2e-3)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = section(kind="satmae", size="base", decoder="linear")
    with pytest.raises(InputError, match=r"chips\.size_px: got 100; expected a multiple of 8"):
        begun(model, BANDS, 100, tmp_path)
    with pytest.raises(InputError, match=r"SatMAE base with a linear decoder: band B2: got scenes with B3"):
        begun(model, BANDS[2:], 48, tmp_path)
    without = section(kind="satmae", size="base", decoder="linear", missing_bands="leave_out")
    with pytest.raises(InputError, match=r"missing_bands: got leave_out, for SatMAE .* it needs all of its bands"):
        begun(without, BANDS[2:], 48, tmp_path)
