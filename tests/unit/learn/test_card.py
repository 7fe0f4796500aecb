import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandwatch import params
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.learn.card import CODE, Card, hash_code, hash_inputs, hash_params

ROOT = Path(__file__).parents[3]
ZEROS = "0" * 64


def card(**changes: Any) -> Card:
    values: dict[str, Any] = {
        "architecture": "Unet",
        "encoder": "resnet18",
        "encoder_depth": 3,
        "decoder_channels": (16, 8, 8),
        "method": "binary",
        "bands": ("B2", "B3", "B4"),
        "classes": ("other", "mine"),
        "size_px": 32,
        "mean": (800.25, 1200.5, 1500.0),
        "std": (100.0, 200.0, 300.0),
        "temperature": 1.5,
        "threshold": 0.25,
        "label_fingerprint": ZEROS,
        "inputs": {"data/chips/windows.parquet": ZEROS},
        "code": {"src/sandwatch/learn/model.py": ZEROS},
        "params_sha256": ZEROS,
        "weights_sha256": ZEROS,
    }
    return Card(**values | changes)


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    card().write(tmp_path / "model.json")
    assert Card.read(tmp_path / "model.json") == card()


def test_a_card_builds_the_same_network() -> None:
    assert card().model == params.Model(
        architecture="Unet",
        encoder="resnet18",
        encoder_depth=3,
        decoder_channels=(16, 8, 8),
        encoder_weights=None,
        method="binary",
    )


def test_what_is_no_card_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    with pytest.raises(InputError, match=r"model\.json: got no such file"):
        Card.read(path)
    path.write_text("{")
    with pytest.raises(InputError, match=r"model\.json: got Expecting property name"):
        Card.read(path)
    path.write_text(json.dumps(card().model_dump(mode="json") | {"temperature": 0}))
    with pytest.raises(InputError, match=r"temperature.*greater than 0"):
        Card.read(path)


def test_every_input_file_is_hashed(tmp_path: Path) -> None:
    (tmp_path / "chips" / "masks").mkdir(parents=True)
    for name in ("chips/b", "chips/masks/a", "metrics.json"):
        (tmp_path / name).write_text(name)
    found = hash_inputs([tmp_path / "chips", tmp_path / "metrics.json"])
    assert found == {
        (tmp_path / name).as_posix(): sha256(tmp_path / name) for name in ("chips/b", "chips/masks/a", "metrics.json")
    }


def test_the_hash_of_params_knows_values_not_order() -> None:
    first = params.Compute(reproducible=True, threads=2, precision="32-true")
    second = params.Infer(overlap_px=8, batch_size=2, min_object_m2=0)
    assert hash_params([first, second]) == hash_params([second, first])
    assert hash_params([first, second]) != hash_params([first, second.model_copy(update={"overlap_px": 9})])


def test_the_code_on_the_card_is_what_dvc_watches() -> None:
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]["deps"]
    assert {f"src/sandwatch/{pattern.removesuffix('/*.py')}" for pattern in CODE} == {
        dep for dep in deps if dep.startswith("src/")
    }
    found = hash_code(ROOT / "stages" / "train.py")
    assert found["src/sandwatch/learn/card.py"] == sha256(ROOT / "src" / "sandwatch" / "learn" / "card.py")
    assert {"stages/train.py", "src/sandwatch/stitch.py", "src/sandwatch/learn/task.py"} <= found.keys()


def test_learning_needs_no_gdal() -> None:
    blocked = ("rasterio", "geopandas", "pandera", "pyogrio", "shapely", "pyproj", "pandas")
    script = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from sandwatch.learn import card, data, model, task\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
