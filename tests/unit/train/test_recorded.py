import json
import subprocess
import sys
from pathlib import Path

import pytest

ARITHMETIC = "44e350fa7e607c87ee76aa1df167e58be1e24b2848a2e16dffc0cecbcecb9a72"
RECORDED = {
    "binary": "9f2e24d4e1fbd8711a8df4b9565d72027600f8b2a7af707edce2e9d18ef2a07f",
    "three_class": "6628048ff319fe8eeef5bb8caf1edd03be75169b2fc7b8f22152fd7da3507230",
}
"""Of the code as it was before any of these options, commit 102ec2b, with the pinned set of constraints/cpu.txt."""


def test_options_that_are_off_change_no_bit_of_the_weights() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.recorded_training"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if found.pop("arithmetic") != ARITHMETIC:
        pytest.skip("another arithmetic than that of the recorded training: bits can't be compared")
    assert found == RECORDED
