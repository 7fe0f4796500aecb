"""The same training on emulated processors of two makers gives the bits that it gives here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EMULATOR = shutil.which("qemu-x86_64")
CODE = "import sys; sys.path[:0] = {path}; from tests.training_steps import main; main()"


def steps(*emulator: str) -> dict[str, Any]:
    """Hashes of two training steps of the sample's network, and of this or the emulated processor's arithmetic."""
    # The interpreter itself, since an emulator runs no links: what a virtual environment adds is given by hand.
    path = [str(ROOT / "src"), str(ROOT), *(entry for entry in sys.path if entry.endswith("site-packages"))]
    command = [*emulator, str(Path(sys.executable).resolve()), "-c", CODE.format(path=path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def native() -> dict[str, Any]:
    return steps()


@pytest.mark.slow
@pytest.mark.skipif(EMULATOR is None, reason="NOT TESTED: no emulator of processors; apt-get install qemu-user")
@pytest.mark.parametrize("processor", ["EPYC-Rome", "Haswell"])
def test_a_training_step_gives_the_same_bits_on_an_emulated_processor(native: dict[str, Any], processor: str) -> None:
    assert steps(str(EMULATOR), "-cpu", processor) == native
