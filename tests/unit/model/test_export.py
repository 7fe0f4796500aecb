"""A model for programs without sandwatch: the file says what the model says, or there is none."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sandwatch import cli, extras
from sandwatch.errors import InputError
from sandwatch.model import export as exporting
from sandwatch.model.card import HEADER, Spec
from sandwatch.model.channels import Channel
from sandwatch.model.export import Format, export
from sandwatch.model.predictor import Predictor
from sandwatch.stack import NODATA
from tests.models import section, spec

MISSING = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
WITH_ONNX = pytest.mark.skipif(bool(MISSING), reason=f"NOT TESTED: export to ONNX needs {', '.join(MISSING)}")
BANDS = ("B2", "B3", "B4", "VV")
CHANNELS = (  # another order, one band twice, one that the stack lacks, limits, fills
    Channel(name="B4", band="B4", mean=900.0, std=150.0, fill=0.25),
    Channel(name="VV", band="VV", mean=-1100.0, std=300.0, low=0.0, high=1.0, fill=0.5),
    Channel(name="B8", band=None, mean=0.0, std=1.0, fill=-0.75),
    Channel(name="B1", band="B2", mean=1000.0, std=200.0),
)


def trained(path: Path, method: str = "binary", **changes: Any) -> Path:
    """A small model as training writes it, whose scores are everywhere between 0 and 1."""
    torch.manual_seed(4)
    made = spec(
        section(method=method),
        **{"bands": BANDS, "mean": (1000.0, 1000.0, 1000.0, -1000.0), "channels": CHANNELS} | changes,
    )
    network = made.model.build([one.name for one in made.channels], made.size_px)
    for _ in range(3):
        network(torch.randn(4, len(made.channels), made.size_px, made.size_px))
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    state["segmentation_head.0.weight"] *= 5
    save_file(state, path, metadata=made.header())
    return path


def pixels(count: int) -> npt.NDArray[np.int16]:
    random = np.random.default_rng(7)
    made = np.where(np.arange(4)[:, None, None] == 3, -1000, 1000) + 300 * random.standard_normal((count, 4, 32, 32))
    made[:, 0, 5:9, 5:9] = NODATA
    made[:, 3, 20:, :2] = NODATA
    return made.astype(np.int16)


def read(path: Path, given: npt.NDArray[np.int16]) -> tuple[list[npt.NDArray[np.float32]], str]:
    """What a user's own program gets of a file: its outputs, and what it carries."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(["probability", "log_odds"], {"pixels": given.astype(np.float32)})
        return found, session.get_modelmeta().custom_metadata_map[HEADER]
    kept = {HEADER: ""}
    program = torch.export.load(path, extra_files=kept)
    return [part.detach().numpy() for part in program.module()(torch.from_numpy(given).float())], kept[HEADER]


@pytest.mark.parametrize(
    ("to", "method"),
    [pytest.param("onnx", "binary", marks=WITH_ONNX), ("pt2", "binary"), ("pt2", "three_class")],
)
def test_an_exported_file_gives_what_the_model_gives(tmp_path: Path, to: Format, method: str) -> None:
    weights = trained(tmp_path / "model.safetensors", method)
    done = export(weights, to, tmp_path / "out" / f"model.{to}")
    assert done.difference <= 1e-4
    model = Predictor.load(weights, "cpu", precision="32-true")
    for count in (1, 2, 5):
        logits = model(pixels(count))[:, 0].astype(np.float64) / 1.5 - 0.25
        (probability, log_odds), carried = read(done.path, pixels(count))
        assert (probability.dtype, probability.shape) == (np.float32, (count, 32, 32))
        np.testing.assert_allclose(log_odds, logits, rtol=0, atol=1e-4)
        np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logits)), rtol=0, atol=1e-5)
    assert probability.min() < 0.2 < 0.8 < probability.max()
    assert Spec.model_validate_json(carried) == Spec.carried(weights)
    assert [path.name for path in done.path.parent.iterdir()] == [f"model.{to}"]


@pytest.mark.parametrize(
    ("to", "spoil"), [pytest.param("onnx", "temperature", marks=WITH_ONNX), ("pt2", "nodata"), ("pt2", "nan")]
)
def test_a_file_that_disagrees_is_not_written(
    tmp_path: Path, to: Format, spoil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, path = trained(tmp_path / "model.safetensors"), tmp_path / f"model.{to}"
    path.write_bytes(b"before")
    made = exporting.Whole.__init__

    def spoilt(self: exporting.Whole, predictor: Predictor) -> None:
        made(self, predictor)
        if spoil == "nodata":
            self.reader.fill += 0.01
        else:
            self.temperature *= 1.001 if spoil == "temperature" else float("nan")

    monkeypatch.setattr(exporting.Whole, "__init__", spoilt)
    with pytest.raises(InputError, match=r"log-odds that differ .* by up to (0\.\d+|nan); expected 0\.0001 "):
        export(weights, to, path)
    assert path.read_bytes() == b"before"
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted([path.name, "model.safetensors"])


@pytest.mark.parametrize("module", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_told_before_anything_is_done(
    tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == module else object())
    with pytest.raises(InputError, match=rf"got no package {module}; .* extra export; run: .* '\.\[export\]'"):
        export(tmp_path / "model.safetensors", "onnx", tmp_path / "model.onnx")


def test_what_can_not_be_exported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: object())
    weights = trained(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.bin: got a name for pt2; expected one that ends with \.pt2"):
        export(weights, "pt2", tmp_path / "model.bin")
    monkeypatch.setattr(exporting, "LARGEST_ONNX_MB", 1.0)
    with pytest.raises(InputError, match=r"got \d+ MB of weights; expected at most 1 MB.*; export it to pt2"):
        export(weights, "onnx", tmp_path / "model.onnx")
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"model\.safetensors: got .*; expected weights that sandwatch wrote"):
        export(weights, "pt2", tmp_path / "model.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_network_that_can_not_be_traced_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def untraceable(self: exporting.Whole, given: torch.Tensor) -> torch.Tensor:
        return given if given.mean() > 0 else -given

    monkeypatch.setattr(exporting.Whole, "forward", untraceable)
    with pytest.raises(InputError, match="expected a network that can be written as pt2") as caught:
        export(trained(tmp_path / "model.safetensors"), "pt2", tmp_path / "model.pt2")
    assert "\n" not in str(caught.value)


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    weights, out = trained(tmp_path / "model.safetensors"), tmp_path / "model.pt2"
    done = CliRunner().invoke(cli.app, ["export", str(weights), "--to", "pt2", "--out", str(out)])
    assert done.exit_code == 0, done.output
    carried = Spec.carried(weights)
    assert carried is not None
    assert f"{out}: " in done.output
    assert f"SHA-256 {carried.weights_sha256}" in done.output
    assert "pixels: float32 (n, 4, 32, 32): B2 B3 B4 VV" in done.output
    assert "views" not in done.output


def test_of_several_views_one_is_exported_and_that_is_said(tmp_path: Path) -> None:
    weights, out = trained(tmp_path / "model.safetensors", views=8), tmp_path / "model.pt2"
    done = CliRunner().invoke(cli.app, ["export", str(weights), "--to", "pt2", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "note: the model's scores are means over 8 views of a window" in done.output
    (_, log_odds), carried = read(out, pixels(2))
    alone = Predictor.load(weights, "cpu", precision="32-true").changed(views=1)
    np.testing.assert_allclose(log_odds, alone(pixels(2))[:, 0] / 1.5 - 0.25, rtol=0, atol=1e-4)
    assert Spec.model_validate_json(carried).views == 8
