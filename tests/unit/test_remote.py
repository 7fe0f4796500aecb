"""The default remote: the user's own bucket, written by one command, and nothing that is no bucket."""

import subprocess
import sys
from pathlib import Path

import pytest
from dvc.config import Config

from sandwatch import remote
from sandwatch.errors import InputError

ROOT = Path(__file__).parents[2]
SECRET = "s3cr3t-value"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the .dvc/config of a fresh clone."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_bytes((ROOT / ".dvc/config").read_bytes())
    return tmp_path


def effective(root: Path) -> tuple[str | None, str]:
    config = Config(str(root / ".dvc"))
    return config["core"].get("remote"), config["remote"]["storage"]["url"]


def test_a_fresh_clone_has_an_example_of_a_remote_and_no_default(clone: Path) -> None:
    name, url = effective(clone)
    assert name is None
    assert remote.default(clone) is None
    assert url.startswith("gs://")
    with pytest.raises(InputError, match="a name that no bucket can have"):
        remote.checked(url)


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("gs://sand/dvc", "gs://sand/dvc"),
        ("gs://sand/dvc/", "gs://sand/dvc"),
        ("gs://sand", "gs://sand"),
        ("gs://sand.example.org/a_b/v1.0/x=1", "gs://sand.example.org/a_b/v1.0/x=1"),
    ],
)
def test_an_address_becomes_the_default(clone: Path, address: str, written: str) -> None:
    assert remote.set_default(clone, address) == written
    assert effective(clone) == ("storage", written)
    assert remote.default(clone) == ("storage", written)


def test_other_settings_stay(clone: Path) -> None:
    with Config(str(clone / ".dvc")).edit("repo") as edited:
        edited["remote"]["storage"]["projectname"] = "river"
        edited["remote"]["web"] = {"url": "https://host.example/x"}
    remote.set_default(clone, "gs://sand/dvc")
    config = Config(str(clone / ".dvc"))
    assert config["remote"]["storage"]["projectname"] == "river"
    assert config["remote"]["web"]["url"] == "https://host.example/x"
    assert config["core"]["analytics"] is False


BAD = {
    "http://sand/dvc": "which is no address of Google Cloud Storage",
    "https://storage.googleapis.com/sand/dvc": "which is no address of Google Cloud Storage",
    "s3://sand/dvc": "which is no address of Google Cloud Storage",
    "sand/dvc": "which is no address of Google Cloud Storage",
    "": "which is no address of Google Cloud Storage",
    " gs://sand/dvc": "got ' gs://sand/dvc', which is no address",
    "gs://": "a name that no bucket can have",
    "gs:///dvc": "a name that no bucket can have",
    "gs://sa/dvc": "a name that no bucket can have",
    "gs://your bucket/dvc": "a name that no bucket can have",
    "gs://YOUR-BUCKET/sandwatch": "a name that no bucket can have",
    "gs://<bucket>/<folder>": "a name that no bucket can have",
    "gs://sand ": "got 'gs://sand ', whose bucket",
    "gs://sand/dvc ": "got 'gs://sand/dvc ', whose folder",
    "gs://sand/dvc\n": "whose folder",
    "gs://sand/a//b": "whose folder",
    "gs://sand/a/../b": "whose folder",
    f"gs://me:{SECRET}@sand/dvc": "a user, a port, a query or a fragment",
    f"gs://{SECRET}@sand/dvc": "a user, a port, a query or a fragment",
    f"gs://sand/dvc?token={SECRET}": "a user, a port, a query or a fragment",
    f"gs://sand/dvc#{SECRET}": "a user, a port, a query or a fragment",
}


@pytest.mark.parametrize(("address", "message"), BAD.items())
def test_a_bad_address_is_one_line_and_changes_nothing(clone: Path, address: str, message: str) -> None:
    before = (clone / ".dvc/config").read_bytes()
    with pytest.raises(InputError, match=message) as error:
        remote.set_default(clone, address)
    assert "\n" not in str(error.value)
    assert SECRET not in str(error.value)
    assert (clone / ".dvc/config").read_bytes() == before


@pytest.mark.parametrize(
    ("local", "option"),
    [
        ("[core]\n    remote = web\n", "core.remote"),
        ("['remote \"storage\"']\n    url = gs://other/x\n", "remote.storage.url"),
    ],
)
def test_a_local_setting_that_wins_is_named(clone: Path, local: str, option: str) -> None:
    (clone / ".dvc/config.local").write_text(local)
    with pytest.raises(InputError, match=rf"config.local: got {option}, which wins .* --local --unset {option}"):
        remote.set_default(clone, "gs://sand/dvc")
    assert effective(clone)[1] != "gs://sand/dvc"
    unset = ["config", "--local", "--unset", option]
    subprocess.run(["git", "init", "-q"], cwd=clone, check=True)
    subprocess.run([sys.executable, "-m", "dvc", *unset], cwd=clone, check=True)
    remote.set_default(clone, "gs://sand/dvc")
    assert effective(clone) == ("storage", "gs://sand/dvc")


def test_settings_that_do_not_fit_are_one_line(clone: Path) -> None:
    (clone / ".dvc/config").write_text("['remote \"storage\"']\n    url = s3://old/x\n    region = eu\n")
    with pytest.raises(
        InputError, match=r"got config file error.*expected settings that fit gs://sand/dvc; dvc remote"
    ):
        remote.set_default(clone, "gs://sand/dvc")


@pytest.mark.parametrize(("text", "message"), [(None, "no folder .dvc"), ("[core\n", "DVC's configuration")])
def test_no_clone_or_a_broken_one_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    if text:
        (tmp_path / ".dvc").mkdir()
        (tmp_path / ".dvc/config").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        remote.set_default(tmp_path, "gs://sand/dvc")
    assert "\n" not in str(error.value)
