"""Arrow's and Parquet's files: opening them, and what their columns may hold."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as parquet


def read_schema(file: str) -> pa.Schema:
    """Raises ValueError naming the file when it is no table."""
    with _reading(file):
        return parquet.read_schema(file) if file.lower().endswith(".parquet") else _arrow(file).schema


def read_columns(file: str, schema: pa.Schema, columns: list[str]) -> pa.Table:
    """Raises ValueError naming the file when it is damaged or one of the columns is not as in `schema`."""
    mine = read_schema(file)
    for name in columns:
        if name not in mine.names or mine.field(name).type != schema.field(name).type:
            there = f"{mine.field(name).type}" if name in mine.names else "missing"
            raise ValueError(f"{file}: column {name!r} is {there}, in the first file it is {schema.field(name).type}")
    with _reading(file):
        if file.lower().endswith(".parquet"):
            # Not memory-mapped: Parquet is decoded into RAM anyway, and a mapped file must not change meanwhile.
            with parquet.ParquetFile(file) as opened:
                return opened.read(columns)
        return _arrow(file).read_all().select(columns)


@contextmanager
def _reading(file: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file} cannot be read as a table: {reason}") from error


def _arrow(file: str) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    mapped = pa.memory_map(file)
    try:
        return pa.ipc.open_file(mapped)
    except pa.ArrowInvalid:
        mapped.seek(0)
        return pa.ipc.open_stream(mapped)


def is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name in ("bytes", "path") for field in kind.fields)
    return is_text(kind) or _is_bytes(kind)


def is_list(kind: pa.DataType) -> bool:
    tests = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(getattr(pa.types, test)(kind) for test in tests)


def text_columns(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if is_text(field.type)]
