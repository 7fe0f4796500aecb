import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.model.card import Card, Spec, hash_inputs, hash_params
from sandwatch.model.channels import Channel
from tests.models import fields, section

ZEROS = "0" * 64
CHANNEL = [Channel(name="B2", band="B2", mean=0, std=1)]


def card(**changes: Any) -> Card:
    made: dict[str, Any] = {
        "inputs": {"data/chips/windows.parquet": ZEROS},
        "code": {"src/sandwatch/model/card.py": ZEROS},
        "params_sha256": ZEROS,
        "replicate": 0,
        "matched": (("B2", "B2", "matched"),),
    }
    ours = {name: changes.pop(name) for name in list(changes) if name in made}
    return Card(**fields(**changes) | made | ours)


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    card().write(tmp_path / "model.json")
    assert Card.read(tmp_path / "model.json") == card()


def test_a_card_builds_the_same_network() -> None:
    assert (card().model.network, card().model.method) == (section().network, section().method)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"kind": "none"}}, "kind"),
        ({"network": section().network | {"depth": 99}}, "depth"),
        ({"channels": [CHANNEL[0].model_copy(update={"band": "B8"})]}, r"lacks: \{'B8'\}"),
        ({"mean": (0.0,), "channels": CHANNEL}, "not one mean"),
        ({"without": ("VV",)}, r"no channel is made of: \['VV'\]"),
    ],
)
def test_a_card_whose_parts_do_not_fit_is_none(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        card(**change)


def test_bands_that_scenes_may_lack_are_said_even_where_there_are_none() -> None:
    assert card().without == ()
    assert card(without=("B3", "B4")).without == ("B3", "B4")
    values = card().model_dump()
    del values["without"]
    with pytest.raises(ValueError, match=r"without\s+Field required"):
        Card(**values)


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


@pytest.mark.parametrize(
    "content",
    [
        b"", b"null", b"[]", b"3", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"\xff\xfe", b"\x00",
        *(json.dumps(card().model_dump(mode="json") | change).encode() for change in (
            {"temperature": float("inf")}, {"mean": [float("nan")]}, {"size_px": 1e300}, {"bands": None},
            {"inputs": {"a": None}}, {"threshold": {}}, {"network": ["x"]},
        )),
    ],
)  # fmt: skip
def test_a_card_that_is_null_deep_or_huge_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.json: got .*; expected a model card"):
        Card.read(path)
    save_file({"w": np.zeros(1)}, tmp_path / "w.safetensors", {"sandwatch": content.decode(errors="replace")})
    with pytest.raises(InputError, match="weights that sandwatch wrote"):
        Spec.carried(tmp_path / "w.safetensors")


def test_every_input_file_is_hashed(tmp_path: Path) -> None:
    (tmp_path / "chips" / "masks").mkdir(parents=True)
    for name in ("chips/b", "chips/masks/a", "metrics.json"):
        (tmp_path / name).write_text(name)
    found = hash_inputs([tmp_path / "chips", tmp_path / "metrics.json"])
    assert found == {
        (tmp_path / name).as_posix(): sha256(tmp_path / name) for name in ("chips/b", "chips/masks/a", "metrics.json")
    }


def test_the_hash_of_params_knows_values_not_order() -> None:
    first, second = {"a": {"x": 1, "y": [1, 2]}, "b": {"z": 0.5}}, {"b": {"z": 0.5}, "a": {"y": [1, 2], "x": 1}}
    assert hash_params(first) == hash_params(second)
    assert hash_params(first) != hash_params({**first, "b": {"z": 0.6}})


def write(path: Path, made: Card) -> None:
    save_file({"w": np.zeros(3, np.float32)}, path, metadata=made.header())


def test_weights_say_themselves_what_they_need(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write(path, card())
    said = Spec.carried(path)
    assert said is not None
    assert said.model_dump() == card().model_dump(include=set(Spec.model_fields)) | {"weights_sha256": sha256(path)}


def test_what_made_a_model_is_not_in_the_bytes_of_its_weights(tmp_path: Path) -> None:
    """Other code, params or inputs that come to the same weights leave their hash as it was; other labels don't."""
    hashes = []
    for number, changes in enumerate(
        ({}, {"code": {}, "inputs": {}, "params_sha256": "1" * 64}, {"label_fingerprint": "1" * 64}, {"threshold": 0.3})
    ):
        write(tmp_path / f"{number}.safetensors", card(**changes))
        hashes.append(sha256(tmp_path / f"{number}.safetensors"))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize(
    ("metadata", "message"),
    [({"sandwatch": "{"}, "Expecting"), ({"sandwatch": "{}"}, "Field required"), ({"sandwatch": "3"}, "got")],
)
def test_a_header_that_is_no_spec_is_one_line(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": np.zeros(3, np.float32)}, path, metadata=metadata)
    with pytest.raises(InputError, match=message):
        Spec.carried(path)


def test_weights_of_others_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": np.zeros(3, np.float32)}, path)
    assert Spec.carried(path) is None


def test_learning_needs_no_gdal() -> None:
    blocked = ("rasterio", "geopandas", "pandera", "pyogrio", "shapely", "pyproj", "pandas")
    script = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from sandwatch.model import card, predictor, weights; from sandwatch.train import data, loop\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
