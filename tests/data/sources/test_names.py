import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from maskery.data.sources.names import StringArray, hashes, unique
from maskery.text import to_bytes, to_text


@given(st.lists(st.binary(max_size=12)))
def test_any_bytes_come_back(parts):
    names = StringArray.of(parts)
    assert len(names) == len(parts)
    assert list(names.all_raw()) == parts
    assert [to_bytes(name) for name in names] == parts
    assert list(names) == [to_text(part) for part in parts]
    if parts:
        assert names[-1] == to_text(parts[-1]) == names[len(parts) - 1]


@given(st.lists(st.sampled_from([b"a", b"b", b"a#2", b"a#3", b"b#2"]), max_size=12))
def test_unique_names_differ_and_the_first_keep_theirs(parts):
    names = unique(parts)
    assert len(set(names)) == len(parts)
    for i, part in enumerate(parts):
        assert (names[i] == part) == (part not in parts[:i])


def test_the_second_is_number_two():
    assert unique([b"x", b"y", b"x", b"x"]) == [b"x", b"y", b"x#2", b"x#3"]
    assert unique([b"x", b"x", b"x#2"]) == [b"x", b"x#3", b"x#2"]


def test_hashes_are_fixed_values():
    names = ["a/b.jpg", "Überraschung.png", to_text(b"\xff.jpg")]
    want = [0x67ED673B4D9FCCAE, 0x8FC1721AD5CC8409, 0xEE527BD6F46A8636]
    got = hashes(StringArray.of([to_bytes(name) for name in names]))
    assert got.dtype == np.uint64
    assert [int(h) for h in got] == want
    np.testing.assert_array_equal(hashes(names), got)
    np.testing.assert_array_equal(hashes(StringArray(b"ab", np.array([0, 1, 2]), got[:2])), got[:2])
