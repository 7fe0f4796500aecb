"""Weights of the registry are fetched once, a broken download is gone on with, and other bytes are refused."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save

from sandwatch import params
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.model import registry
from sandwatch.model.cache import PART, PLACE, fetch, place
from sandwatch.model.entry import Entry, reflectances
from sandwatch.model.network import Model
from sandwatch.retries import ATTEMPTS, WAIT_FACTOR
from tests.models import SECTION, section
from tests.servers.faults import Handler, Server
from tests.servers.hub import serve_hub

CONTENT = bytes(range(256)) * 40_000


@dataclass
class Files:
    """A server of one file, with ranges, that may break off.

    Attributes:
        url: of the file.
        ranges: the first byte asked for, of each request.
        breaks: after how many bytes each of the first answers ends.
        status: of every answer, where it is not what was asked for.
    """

    url: str = ""
    ranges: list[int] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    status: int = 0


@contextmanager
def served(content: bytes = CONTENT) -> Iterator[Files]:
    files = Files()

    class One(Handler):
        def do_GET(self) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            first = int(asked[1]) if asked else 0
            files.ranges.append(first)
            if files.status:
                self.answer({"error": "no"}, status=files.status)
                return
            if first >= len(content):
                self.answer({"error": "range"}, status=416)
                return
            part = content[first:]
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part[: files.breaks.pop(0)] if files.breaks else part)
            self.close_connection = True

    server = Server(One)
    with server.running():
        files.url = f"{server.url}/weights.pth"
        yield files


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path / "cache"))
    monkeypatch.setenv(WAIT_FACTOR, "0.001")


def entry(files: Files, sha: str = "") -> Entry:
    return Entry(
        name="someone/network/way",
        address=files.url,
        sha256=sha,
        megabytes=10,
        licence="MIT",
        network={"kind": "smp"},
        bands=reflectances(["B2"]),
        source="a test",
    )


def test_a_file_is_fetched_once_and_its_progress_told() -> None:
    told: list[tuple[int, int]] = []
    digest = hashlib.sha256(CONTENT).hexdigest()
    with served() as files:
        path = fetch(entry(files, digest[:8]), lambda done, total: told.append((done, total)))
        assert path.read_bytes() == CONTENT
        assert fetch(entry(files, digest[:8])) == path == place(entry(files))
        assert files.ranges == [0]
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert list(path.parent.iterdir()) == [path]


def test_a_download_that_breaks_off_goes_on_where_it_was() -> None:
    with served() as files:
        files.breaks = [3_000_000, 2_000_000]
        assert fetch(entry(files)).read_bytes() == CONTENT
        first, *more = files.ranges
        assert first == 0
        assert more == sorted(more)
        assert more[0] > 0


def test_what_an_earlier_run_left_is_gone_on_with() -> None:
    with served() as files:
        path = place(entry(files))
        path.parent.mkdir(parents=True)
        path.with_name(path.name + PART).write_bytes(CONTENT[:1_000_000])
        assert fetch(entry(files)).read_bytes() == CONTENT
        path.rename(path.with_name(path.name + PART))  # all of it was there, and only the last step was missing
        assert fetch(entry(files)).read_bytes() == CONTENT
        assert files.ranges == [1_000_000, len(CONTENT)]


def test_other_bytes_than_published_are_removed_and_refused() -> None:
    with served() as files:
        with pytest.raises(InputError, match=r"way: got a file with the SHA-256 \w+; expected 0{8}"):
            fetch(entry(files, "0" * 8))
        assert not list(place(entry(files)).parent.iterdir())


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, ATTEMPTS)])
def test_a_server_that_has_them_not_is_one_line_and_asked_again_only_where_that_helps(
    status: int, requests: int
) -> None:
    with served() as files:
        files.status = status
        with pytest.raises(InputError, match=rf"someone/network/way: got {status} .*; expected an answer of http") as e:
            fetch(entry(files))
        assert len(files.ranges) == requests
    assert "\n" not in str(e.value)


def test_a_name_whose_hash_the_registry_knows_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as files:
        known = replace(entry(files), sha256=hashlib.sha256(CONTENT).hexdigest())
        monkeypatch.setattr(registry, "ENTRIES", (known,))
        assert (
            section(weights=known.name).weights
            == params.check(Model, SECTION | {"weights": {"name": known.name, "sha256": known.sha256}}).weights
        )
        monkeypatch.setattr(registry, "ENTRIES", (replace(known, sha256=known.sha256[:8]),))
        with pytest.raises(InputError, match=r"model\.weights: got 'someone/network/way'; expected null, or"):
            params.check(Model, SECTION | {"weights": known.name})


def command(folder: Path, hub: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    ours = {"HF_ENDPOINT": hub, PLACE: str(folder / "cache"), WAIT_FACTOR: "0.001", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", "from sandwatch.cli import main; main()", "models", *arguments],
        cwd=folder, env={**os.environ, **ours}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_prints_what_params_yaml_takes(tmp_path: Path) -> None:
    """What it fetches from the hub's own layout, training then starts from."""
    from sandwatch.train.initial import initial

    whole = section(depth=5, decoder_channels=[]).build(["B4", "B3", "B2"], 32).get_submodule("encoder")
    theirs = {name: tensor.contiguous() for name, tensor in whole.state_dict().items()}
    files = {"smp-hub/resnet18.imagenet/model.safetensors": save(theirs | {"fc.bias": torch.zeros(9)})}
    with serve_hub(files) as hub:
        done = command(tmp_path, hub.url, "smp/resnet18/imagenet")
        assert done.returncode == 0, done.stderr
        hub.requests.clear()
        assert command(tmp_path, hub.url, "smp/resnet18/imagenet").stdout == done.stdout
        assert hub.requests == []
    lines = done.stdout.splitlines()
    written = yaml.safe_load("\n".join(lines[lines.index("write into params.yaml, section model:") + 1 :]))
    assert (written["kind"], written["encoder"]) == ("smp", "resnet18")
    model = section(weights=written["weights"])
    assert model.weights is not None
    assert model.weights.sha256 == sha256(next((tmp_path / "cache").iterdir()))
    begun = initial(model, ("B2", "B3", "B4"), dict.fromkeys(("B2", "B3", "B4"), (1000.0, 200.0)), 32, tmp_path)
    found = begun.network.get_submodule("encoder").state_dict()
    assert all(torch.equal(found[name], theirs[name]) for name in found)
    assert [channel.name for channel in begun.match.channels] == ["B4", "B3", "B2"]


def test_the_command_lists_what_there_is_and_refuses_what_there_is_not(tmp_path: Path) -> None:
    with serve_hub({}) as hub:
        listed = command(tmp_path, hub.url)
        assert listed.returncode == 0, listed.stderr
        for one in registry.ENTRIES:
            assert one.name in listed.stdout
        unknown = command(tmp_path, hub.url, "ssl4eo/none")
        assert unknown.returncode == 1
        assert unknown.stderr.startswith("error: weights ssl4eo/none: got no such name; expected one of the ")
        absent = command(tmp_path, hub.url, "smp/resnet18/nothing")
        assert absent.returncode == 1
        assert len(absent.stderr.splitlines()) <= 2  # the bar, and the error
        assert "error: weights smp/resnet18/nothing: got 404" in absent.stderr
