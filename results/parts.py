"""Parquet parts: the same rows give the same bytes, and what is read is what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from sensweep.results.errors import Damaged
from sensweep.results.files import Files
from sensweep.results.manifest import Part
from sensweep.results.schema import TABLES

#: Up to this size, handing columns to threads takes longer than decoding them.
_SMALL_BYTES = 2**20


class Missing(Damaged):
    """A part's file is not there; perhaps because a compaction has replaced it since."""

    def __init__(self, address: str, part: Part) -> None:
        super().__init__(f"{address} is missing: restore the file from a copy")
        self.part = part


def encode(rows: pa.Table) -> bytes:
    """Write rows as Parquet with page checksums; equal rows give equal bytes.

    Chunks are joined first, so that the bytes do not tell how the rows were batched.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(rows.combine_chunks(), sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def store(files: Files, folder: str, table: str, generation: int, rows: pa.Table) -> Part:
    """Write rows durably as a part of `generation`. It counts once an entry of the log names it."""
    data = encode(rows)
    sha256 = hashlib.sha256(data).hexdigest()
    path = f"parts/{table}-{generation:08d}-{sha256[:12]}.parquet"
    files.write(f"{folder}/{path}", data)
    return Part(table, path, sha256, rows.num_rows, len(data))


class PartReader:
    """Reads parts, checking each whole file once, and the checksums of its pages every time."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._verified: dict[str, str | None] = {}

    def read(self, folder: str, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a part of the sweep in `folder`, all columns or those named, in that order.

        Raises:
            Missing: the file is not there.
            Damaged: its content is not what was committed.
        """
        path = f"{folder}/{part.path}"
        version = self._files.version(path)
        try:
            data = self._files.read(path)
        except FileNotFoundError:
            raise Missing(self._files.locate(path), part) from None
        if self._verified.get(path) != version:
            found = hashlib.sha256(data).hexdigest()
            if found != part.sha256:
                raise self._damaged(path, f"its sha256 is {found[:12]}…, not {part.sha256[:12]}…")
            self._verified[path] = version
        try:
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            rows = file.read(
                columns=None if columns is None else list(columns),
                use_threads=part.bytes > _SMALL_BYTES,
            )
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(path, str(error).splitlines()[0]) from None
        schema = TABLES[part.table]
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns], schema.metadata)
            rows = rows.select(list(columns))
        if not rows.schema.equals(schema):
            raise self._damaged(path, f"its columns are not those of table {part.table}")
        return rows

    def _damaged(self, path: str, reason: str) -> Damaged:
        return Damaged(
            f"{self._files.locate(path)} is damaged ({reason}): restore the file from a copy"
        )
