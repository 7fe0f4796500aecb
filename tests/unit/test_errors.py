"""The error that users read is one line, and survives the way out of a worker process."""

import pickle

import pytest

from sandwatch.errors import InputError, unsigned


def test_it_is_one_line_and_can_be_pickled() -> None:
    error = InputError("a.csv, line 2", got="x\n y", expected="a number", fix="correct it")
    assert str(error) == "a.csv, line 2: got x y; expected a number; correct it"
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.got, type(back)) == (str(error), "x\n y", InputError)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("PUT https://x.example/o/a?upload_id=KEY: slow", "PUT https://x.example/o/a slow"),
        (
            "Pool(host='x', port=1): Max retries exceeded with url: /upload/o?name=a&upload_id=KEY (Caused by E('no'))",
            "Pool(host='x', port=1): Max retries exceeded with url: /upload/o (Caused by E('no'))",
        ),
        ("for url: http://me:KEY@x.example:80/a.tif#KEY", "for url: http://x.example:80/a.tif"),
        ("see 'https://x.example/a?X-Goog-Signature=KEY','KEY' there", "see 'https://x.example/a there"),
        (r'{"url":"https:\/\/x.example\/a?sig=KEY"}', r'{"url":"https:\/\/x.example\/a'),
        ("http://[KEY/a?b=KEY", "an address"),
        ("uploads?upload_id=KEY", "uploads"),
        ("gs://bucket/a b, really? yes", "gs://bucket/a b, really? yes"),
        ("no address at all: 3 / 4", "no address at all: 3 / 4"),
    ],
)
def test_of_an_address_scheme_host_and_path_are_shown(said: str, shown: str) -> None:
    assert "KEY" not in shown
    assert unsigned(ValueError(said)) == shown
