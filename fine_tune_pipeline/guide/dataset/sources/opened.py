"""Sources of rows: files of every type, queries of a database, chats. A row that cannot be read is a broken row, not an error."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from fine_tune_pipeline.guide.dataset.sources.chats.exports import chat_rows, chat_sha256
from fine_tune_pipeline.guide.dataset.sources.files import SourceFile, files_at
from fine_tune_pipeline.guide.dataset.sources.queries import asked
from fine_tune_pipeline.guide.dataset.sources.readers import rows_of
from fine_tune_pipeline.guide.dataset.sources.rows import Row
from fine_tune_pipeline.spec.sources import ChatSource, FileSource, Source, SqlSource

SUFFIXES = {"jsonl": (".jsonl", ".ndjson"), "json": (".json",), "csv": (".csv", ".tsv"), "parquet": (".parquet",), "excel": (".xlsx",)}
SUFFIXES |= {"slack": (".json", ".zip"), "teams": (".json", ".zip"), "whatsapp": (".txt", ".zip")}
"""Of a folder, the files with these endings are read."""


@dataclass(frozen=True)
class Opened:
    """A source whose content is known: `place` for error messages, `sha256` for the fingerprint, `rows` reads it.

    `origin` says where its rows come from: the name of its only file, or the variable that holds the address of a database.
    """

    source: Source
    name: str
    place: str
    sha256: str
    rows: Callable[[], Iterator[Row]]
    origin: str = ""

    def provenance(self, row: Row) -> dict[str, str]:
        """Where a row stands: file or database, sheet, number."""
        kind = "database" if isinstance(self.source, SqlSource) else "file"
        parts = {kind: row.file or self.origin, "sheet": row.sheet, "row": str(row.number)}
        return {name: value for name, value in parts.items() if value}


def opened(source: Source, *, locate: Callable[[str], str], field: str) -> Opened:
    """Look at a source.

    Args:
        locate: gives the place of a path of the use case, a URL or an absolute path.
        field: where the source stands in the YAML, such as `dataset.sources[0]`.

    Raises:
        MissingSource, UnreadableSource: names the field and the file.
        NoDatabaseUrl, FailedQuery: names the field and the variable, never the URL.
    """
    if isinstance(source, SqlSource):
        answer = asked(source, field=field)
        return Opened(source, source_name(source), f"{field} ({source.url_variable})", answer.sha256(), answer.rows, source.url_variable)
    where = locate(source.path)
    files = files_at(where, suffixes=SUFFIXES[source.type], field=field)
    origin = files[0].name if len(files) == 1 else ""
    if isinstance(source, ChatSource):
        place = f"{field} ({where})"
        return Opened(source, source_name(source), place, chat_sha256(files, source), lambda: chat_rows(files, source, place=place), origin)
    return Opened(source, source_name(source), f"{field} ({where})", _sha256(files), lambda: _file_rows(files, source, field=field), origin)


def source_name(source: Source) -> str:
    """The name of a source: the given one, else its type and place; never a whole path, which another machine would not share."""
    if source.name is not None:
        return source.name
    return f"sql:{source.url_variable}" if isinstance(source, SqlSource) else f"{source.type}:{PurePath(source.path).name}"


def _sha256(files: Sequence[SourceFile]) -> str:
    """Of one file its own; of several that of theirs in their order, since it decides the order of the rows."""
    digests = [file.sha256() for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode("ascii")).hexdigest()


def _file_rows(files: Sequence[SourceFile], source: FileSource, *, field: str) -> Iterator[Row]:
    for file in files:
        for row in rows_of(file, source, place=f"{field} ({file.path})"):
            yield row if len(files) == 1 else replace(row, file=file.name)
