"""What the model reads: nothing lost, nothing invented."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sandwatch import stack
from sandwatch.errors import InputError

S2 = hnp.arrays(np.uint16, (2, 3, 4), elements=st.integers(0, 65535))
S1 = hnp.arrays(np.float32, (1, 3, 4), elements=st.floats(-60, 30, width=32) | st.just(np.float32("nan")))


@given(S2, S1)
def test_encode_keeps_reflectance_and_centi_db(s2: np.ndarray, s1: np.ndarray) -> None:
    coded = stack.encode(s2, s1)
    assert coded.dtype == np.int16
    assert coded.shape == (3, 3, 4)
    for band in (0, 1):
        known = (s2[band] > 0) & (s2[band] <= stack.LARGEST)
        assert (coded[band][known] == s2[band][known]).all()
        assert (coded[band][s2[band] == 0] == stack.NODATA).all()
        assert (coded[band][s2[band] > stack.LARGEST] == stack.LARGEST).all()
    unknown = np.isnan(s1[0])
    assert (coded[2][unknown] == stack.NODATA).all()
    assert (np.abs(coded[2][~unknown] / 100.0 - s1[0][~unknown]) <= 0.00501).all()
    assert (stack.valid(coded) == ((s2 > 0).all(axis=0) & ~unknown)).all()


def test_encode_without_radar() -> None:
    s2 = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    assert stack.encode(s2, None).shape == (2, 3, 4)
    assert stack.encode(s2, np.empty((0, 3, 4), dtype=np.float32)).shape == (2, 3, 4)


ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
HEAD = b"{'descr': '<i2', 'fortran_order': False, 'shape': (3, 4, 5), }"


def test_an_array_is_mapped_as_it_was_saved(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ARRAY)
    np.testing.assert_array_equal(stack.load(tmp_path / "a.npy", np.int16, (None, None, 5)), ARRAY)


@pytest.mark.parametrize("array", [ARRAY.astype(np.int32), ARRAY[0], ARRAY[:2], ARRAY.T.copy().T, np.array([None])])
def test_another_array_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(
        InputError, match=r"a.npy: got .+; expected an array of int16 \(3, 'any', 5\); run dvc checkout"
    ):
        stack.load(tmp_path / "a.npy", np.int16, (3, None, 5))


@pytest.mark.parametrize("length", [0, 5, 9, 60, 127, 128, 200, 247, 249])
def test_an_array_that_is_not_whole_is_refused(tmp_path: Path, length: int) -> None:
    np.save(tmp_path / "a.npy", ARRAY)
    content = (tmp_path / "a.npy").read_bytes()
    assert len(content) == 248
    (tmp_path / "a.npy").write_bytes((content + b"0")[:length])
    with pytest.raises(InputError, match=r"a.npy: got .+; expected .+; run dvc checkout chips, or dvc repro -f chips"):
        stack.load(tmp_path / "a.npy", np.int16, (None, None, None))


@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace(b"3", b"-3"), HEAD.replace(b"3", b"9" * 9), HEAD[:-9], HEAD.replace(b"F", b"\xb6"), b"(" * 62,
        HEAD.replace(b"3", b"True"), HEAD.replace(b"i2", b"O8"), b"-" * 9_000 + b"1", HEAD.replace(b"3", b"9" * 30),
        HEAD.replace(b"'<i2'", b"[]"),
    ],
)  # fmt: skip
def test_a_head_that_is_none_is_refused(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + ARRAY.tobytes())
    with pytest.raises(InputError, match=r"a.npy: got .+; expected .+; run dvc checkout chips, or dvc repro -f chips"):
        stack.load(tmp_path / "a.npy", np.int16, (None, None, None))
