"""What a file is: by its name, by its first bytes, by its encoding. Shared by `read` and `write`."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from typing import IO, TYPE_CHECKING, Final, Literal, NamedTuple, cast

from reviewmill.errors import InputError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Format = Literal["csv", "tsv", "jsonl", "json", "parquet", "xlsx", "txt"]

EXTENSIONS: Final[dict[str, Format]] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
    ".txt": "txt",
    ".log": "txt",
}
"""Which extension means which format. A further `.gz` is taken with all text formats."""

TEXT_FORMATS: Final = frozenset({"csv", "tsv", "jsonl", "json", "txt"})

XLSX_MAX_ROWS: Final = 1_048_575
"""Rows of an XLSX sheet (specifications and limits of Excel), less the header."""

XLSX_MAX_CELL: Final = 32_767
"""Characters of an XLSX cell, in UTF-16 code units (likewise)."""

CUT_MARK: Final = "…[cut]"
"""Stands at the end of an XLSX cell whose text was longer than `XLSX_MAX_CELL`."""

MAX_UNPACKED_BYTES: Final = 2 * 1024**3
"""An XLSX that unpacks to more is refused."""

MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""A text file with a longer line is refused: it is no file of comments, and lines are held in memory."""

_CHUNK: Final = 1 << 20

_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_MAGIC: Final = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF-", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive (or XLSX, DOCX)"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (.xls, .doc) or a password-protected one"),
    (b"GGUF", "a GGUF model file"),
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x7fELF", "a program"),
)

# What Chinese text of any kind is full of, simplified and traditional: at least 41% of the non-ASCII characters in
# every 20 comments of sixteen public Chinese corpora. Text in another encoding that happens to decode as GB18030
# (Big5, EUC-KR, EUC-JP, Shift-JIS, Windows-1252, damaged UTF-8) held at most 8%.
_COMMON_CHINESE: Final = frozenset(
    "的一是了我不在人有来他这上着个大里说就去子得也和那要下看天时过出小么起你都把好还多没为又可家学只以会样年想生同"
    "老中十从自面前头后然走很像见两用她进成回什边作对开些现山给水几于高手知点心问但方实吃做叫当住听真全才最太味道"
    "质量物品货快服务满意差错价格便宜喜欢店东西电话钱买卖送客评论内容编号这們個來說時過還沒為會樣從後見對開現給幾點"
    "問實餐廳麼錯價質買賣員務態度機歡，。！？、：；（）“”…"
)
_MAX_EVIDENCE: Final = 20_000
_MIN_COMMON_SHARE: Final = 0.15


class FileKind(NamedTuple):
    """The format of a file's content, and whether it is packed with gzip."""

    format: Format
    gzipped: bool


def file_kind(path: Path, given: str | None, *, error: type[InputError | OutputError]) -> FileKind:
    """Tell a file's format from its name, or from the format that the user gave.

    Args:
        path: the file; it need not exist.
        given: a format's name or an extension, with or without the dot; None: by the file's own extension, and text
            lines if it has none.
        error: what to raise.

    Raises:
        InputError, OutputError: (as `error` says) the format is not known.
    """
    suffix = path.suffix.lower()
    gzipped = suffix == ".gz"
    if gzipped:
        suffix = path.with_suffix("").suffix.lower()
    wanted = suffix if given is None else f".{given.lower().lstrip('.')}"
    if wanted.endswith(".gz"):
        wanted, gzipped = wanted[:-3], True
    if not wanted:
        return FileKind("txt", gzipped)
    kind = EXTENSIONS.get(wanted)
    if kind is None or (gzipped and kind not in TEXT_FORMATS):
        raise error(
            f"{path}: the format {path.suffix if given is None else given} is not known.", hint=_formats(wanted)
        )
    return FileKind(kind, gzipped)


def _formats(wanted: str) -> str:
    known = ", ".join(EXTENSIONS)
    if wanted in {".xls", ".xlsb", ".ods", ".et"}:
        return f"Save the spreadsheet as .xlsx or .csv. Known: {known}; text formats also with .gz."
    return f"Known: {known}; text formats also with .gz. If the content is one of these, name its format (--format)."


class TextFile(NamedTuple):
    """A text file whose encoding is known to decode all of it."""

    path: Path
    gzipped: bool
    encoding: str

    def open(self, newline: str | None = None) -> io.TextIOWrapper:
        """Open it for reading; `newline` as for the built-in `open`."""
        return io.TextIOWrapper(_open_bytes(self.path, self.gzipped), encoding=self.encoding, newline=newline)


def probe_text(path: Path, *, gzipped: bool, lines: bool) -> TextFile:
    """Find the encoding of a text file: a byte order mark, else UTF-8, else GB18030. Reads the whole file, streaming.

    GB18030 can decode much that is not GB18030; it is accepted only if the result reads like Chinese. Big5 and the
    other encodings that nothing marks are not guessed.

    Args:
        path: an existing file.
        gzipped: whether it is packed.
        lines: whether the format is made of lines, so that an endless line is an error.

    Raises:
        InputError: the file is binary, or is none of these encodings, or holds a line over `MAX_LINE_BYTES`.
    """
    with _open_bytes(path, gzipped) as handle:
        head = handle.read(_CHUNK // 16)
    _refuse_binary(path, head)
    marked = next((encoding for bom, encoding in _BOMS if head.startswith(bom)), None)
    encoding = marked or "utf-8"
    bad = _first_undecodable(_chunks(path, gzipped, lines=lines), encoding)
    if bad is not None and marked is None and _is_gb18030(path, gzipped):
        return TextFile(path, gzipped, "gb18030")
    if bad is not None:
        tried = f"{encoding}, as its byte order mark says" if marked else "UTF-8, and does not read as GB18030 either"
        raise InputError(
            f"{path}: byte {bad:,} (of the {'unpacked ' if gzipped else ''}file) is not valid {tried}.",
            hint="If it is in another encoding, convert it: iconv -f BIG5 -t UTF-8 IN > OUT (or save it as UTF-8).",
        )
    return TextFile(path, gzipped, encoding)


def _open_bytes(path: Path, gzipped: bool) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if gzipped else path.open("rb")


def _chunks(path: Path, gzipped: bool, *, lines: bool) -> Iterator[bytes]:
    """The file's bytes, in pieces; raises InputError where a line does not end within `MAX_LINE_BYTES`."""
    offset = unbroken = 0
    with _open_bytes(path, gzipped) as handle:
        while chunk := handle.read(_CHUNK):
            offset += len(chunk)
            last = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
            unbroken = unbroken + len(chunk) if last < 0 else len(chunk) - last - 1
            if lines and unbroken > MAX_LINE_BYTES:
                raise InputError(
                    f"{path}: the line from byte {offset - unbroken:,} on is over {MAX_LINE_BYTES >> 20} MB long.",
                    hint="Is it a text file with one record a line? A JSON array belongs in a .json file.",
                )
            yield chunk


def _first_undecodable(chunks: Iterator[bytes], encoding: str) -> int | None:
    """The offset of the first byte that cannot be decoded, or None."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    consumed = pending = 0
    try:
        for chunk in chunks:
            pending = len(decoder.getstate()[0])
            decoder.decode(chunk)
            consumed += len(chunk)
        pending = len(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        return consumed - pending + error.start
    return None


def _is_gb18030(path: Path, gzipped: bool) -> bool:
    """Whether all of the file decodes as GB18030 and what comes out reads like Chinese."""
    decoder = codecs.getincrementaldecoder("gb18030")("strict")
    evidence: list[str] = []
    try:
        for chunk in _chunks(path, gzipped, lines=False):
            decoded = decoder.decode(chunk)
            if len(evidence) < _MAX_EVIDENCE:
                evidence.extend(re.findall(r"[^\x00-\x7f]", decoded))
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return sum(character in _COMMON_CHINESE for character in evidence) >= _MIN_COMMON_SHARE * len(evidence)


def _refuse_binary(path: Path, head: bytes) -> None:
    for magic, what in _MAGIC:
        if head.startswith(magic):
            hint = "Name a file of comments, or give this one the extension of what it is (.xlsx, .parquet, .csv.gz)."
            raise InputError(f"{path} is not text: it is {what}.", hint=hint)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return
    control = len(head) - len(head.translate(None, bytes({*range(32), 127} - {9, 10, 11, 12, 13, 27})))
    if control > max(8, 0.1 * len(head)):  # a stray one is nothing, even in a tiny file
        raise InputError(
            f"{path} is not text: {control:,} of its first {len(head):,} bytes are control characters.",
            hint="If it is UTF-16 without a byte order mark, convert it: iconv -f UTF-16LE -t UTF-8 IN > OUT.",
        )


UNREADABLE: Final = (OSError, EOFError, zlib.error, UnicodeError)
"""What reading bytes and text can raise when the medium, the packing or the encoding is broken."""


def too_many_rows(path: Path, count: str) -> OutputError:
    """What is told where an XLSX file would need more rows than a sheet has."""
    return OutputError(
        f"{path}: {count} rows are more than an XLSX sheet holds ({XLSX_MAX_ROWS:,} and the header).",
        hint="Write .csv or .parquet instead.",
    )
