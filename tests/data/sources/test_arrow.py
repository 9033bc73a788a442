import pyarrow as pa
import pytest

from maskery.data.sources.arrow import holds_images, is_list, is_text


@pytest.mark.parametrize(
    ("kind", "text", "images"),
    [
        (pa.string(), True, True),
        (pa.dictionary(pa.int8(), pa.large_string()), True, True),
        (pa.binary_view(), False, True),
        (pa.struct({"bytes": pa.binary(), "path": pa.string()}), False, True),
        (pa.struct({"x": pa.int8()}), False, False),
        (pa.int64(), False, False),
        (pa.list_(pa.uint8()), False, False),
    ],
)
def test_what_columns_may_hold(kind, text, images):
    assert (is_text(kind), holds_images(kind)) == (text, images)


@pytest.mark.parametrize(
    ("kind", "want"),
    [
        (pa.list_(pa.string()), True),
        (pa.list_(pa.int8(), 3), True),
        (pa.large_list(pa.int64()), True),
        (pa.list_view(pa.int64()), True),
        (pa.large_list_view(pa.int64()), True),
        (pa.struct({"x": pa.list_(pa.int8())}), False),
        (pa.string(), False),
    ],
)
def test_lists(kind, want):
    assert is_list(kind) is want
