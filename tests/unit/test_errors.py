"""The error that users read is one line, and survives the way out of a worker process."""

import pickle

from sandwatch.errors import InputError


def test_it_is_one_line_and_can_be_pickled() -> None:
    error = InputError("a.csv, line 2", got="x\n y", expected="a number", fix="correct it")
    assert str(error) == "a.csv, line 2: got x y; expected a number; correct it"
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.got, type(back)) == (str(error), "x\n y", InputError)
