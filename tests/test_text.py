import pytest

from maskery.text import count, duration, plain, to_bytes, to_text


@pytest.mark.parametrize(
    ("seconds", "words"), [(3, "3 s"), (89, "89 s"), (300, "5 min"), (3725, "62 min"), (9000, "2 h 30 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("n", "words"), [(0, "0 images"), (1, "1 image"), (1200, "1,200 images")])
def test_counts(n: int, words: str) -> None:
    assert count(n, "image") == words


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a\nb\tc\x00", "a\\nb\\tc\\x00"),
        ("Ü\udcff\x1b[31m.jpg", "Ü\\xff\\x1b[31m.jpg"),
        ("\u2028\u202e", "\\u2028\\u202e"),
        ("Übung 漢字 <b>", "Übung 漢字 <b>"),
        ("\ud800", "\\xed\\xa0\\x80"),
    ],
)
def test_what_cannot_be_seen_is_written_out(name: str, written: str) -> None:
    assert plain(name) == written


def test_any_bytes_come_back() -> None:
    name = "Überraschung".encode() + b"\xff.jpg"
    assert to_bytes(to_text(name)) == name
