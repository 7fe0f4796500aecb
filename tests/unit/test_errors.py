"""The error that users read is one line, and survives the way out of a worker process."""

import pickle

import pytest

from sandwatch.errors import LONGEST, InputError, unsigned


def test_it_is_one_line_and_can_be_pickled() -> None:
    error = InputError("a.csv, line 2", got="x\n y", expected="a number", fix="correct it")
    assert str(error) == "a.csv, line 2: got x y; expected a number; correct it"
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.got, type(back)) == (str(error), "x\n y", InputError)


def test_what_is_not_seen_does_nothing_to_the_line() -> None:
    error = InputError("a\x1b[2K.csv", got="x\u202ey\udce9", expected="a\u200enumber", fix="correct\x9bit")
    assert str(error) == "a�[2K.csv: got x�y�; expected a�number; correct�it"
    assert error.got == "x\u202ey\udce9", "what was found is kept as it was"


def test_a_message_has_the_length_that_people_read() -> None:
    error = InputError("k" * 5_000, got=["x" * 5_000], expected="a value", fix="correct it")
    assert str(error).startswith("k" * LONGEST + " ... (5,000 characters): got ['xxx")
    assert str(error).endswith("x ... (5,004 characters); expected a value; correct it")
    assert len(str(error)) < 2 * LONGEST + 100


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
        (r'{"url":"https:\/\/x.example\/a?sig=KEY"}', '{"url":"https://x.example/a'),
        ("'http://me:KEY@x.example/a?sig=KEY'", "'http://x.example/a"),
        (r'{"url":"https:\/\/me:KEY@x.example\/a"}', '{"url":"https://x.example/a"}'),
        ("/login?token=KEY&next=http://x.example", "/login"),
        ("https://a.example/get/http://me:KEY@x.example/a", "https://a.example/get/"),
        ("https://a.example/get/http%253A%252F%252Fx.example%252Fa%253Fsig%253DKEY", "https://a.example/get/"),
        ("https%3A%2F%2Fme:KEY@x.example/a", "https://x.example/a"),
        ("http://[KEY/a?b=KEY", "an address"),
        ("uploads?upload_id=KEY", "uploads"),
        ("gs://bucket/a b, really? yes", "gs://bucket/a b, really? yes"),
        ("no address at all: 3 / 4", "no address at all: 3 / 4"),
    ],
)
def test_of_an_address_scheme_host_and_path_are_shown(said: str, shown: str) -> None:
    assert "KEY" not in shown
    assert unsigned(ValueError(said)) == shown
