"""What the model reads: nothing lost, nothing invented."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sandwatch import stack

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
