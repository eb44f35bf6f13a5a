"""Files of rows, CSV and XLSX, written piece by piece so that only the rows of one page are in memory.

XLSX (ECMA-376) is a ZIP of XML files. It is written with `zipfile` into a buffer that is emptied after each page; libraries that
write it need all rows before the first byte, or a temporary file.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import IO, Protocol, cast
from xml.sax.saxutils import escape

Cell = str | Decimal | int | None
"""A Decimal is an amount with two decimals."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
# What XML 1.0 cannot contain.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
ROWS_OF_A_SHEET = 500_000
"""Excel reads 1,048,576 rows of a sheet. A sheet of this size stays below 2 GB, so that the ZIP needs no ZIP64."""
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_STYLES = (
    f'{_HEAD}<styleSheet xmlns="{_MAIN}"><fonts count="2"><font/><font><b/></font></fonts>'
    '<fills count="2"><fill><patternFill patternType="none"/></fill><fill><patternFill patternType="gray125"/></fill></fills>'
    '<borders count="1"><border/></borders><cellStyleXfs count="1"><xf/></cellStyleXfs>'
    '<cellXfs count="3"><xf/><xf numFmtId="4" applyNumberFormat="1"/><xf fontId="1" applyFont="1"/></cellXfs>'
    '<cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles></styleSheet>'
)


def defused(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


class RowWriter(Protocol):
    """A file that is being written. Each call returns the bytes that are ready."""

    content_type: str

    def begin(self, heads: Sequence[str]) -> bytes:
        """Begin with the names of the columns."""
        ...

    def rows(self, rows: Iterable[Sequence[Cell]]) -> bytes:
        """Write rows."""
        ...

    def end(self) -> bytes:
        """End the file."""
        ...


class CsvWriter:
    """CSV (RFC 4180) in UTF-8 with the mark by which Excel knows it."""

    content_type = "text/csv; charset=utf-8"

    def begin(self, heads: Sequence[str]) -> bytes:
        """See `RowWriter`."""
        return b"\xef\xbb\xbf" + self.rows([heads])

    def rows(self, rows: Iterable[Sequence[Cell]]) -> bytes:
        """See `RowWriter`."""
        text = io.StringIO()
        writer = csv.writer(text)
        for row in rows:
            writer.writerow([defused(cell) if isinstance(cell, str) else cell for cell in row])
        return text.getvalue().encode("utf-8", "replace")

    def end(self) -> bytes:
        """See `RowWriter`."""
        return b""


class _Buffer:
    """What `zipfile` writes to. It cannot seek, so sizes follow the data."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def taken(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


class XlsxWriter:
    """A workbook with as many sheets as the rows need."""

    content_type = f"{_TYPE}.sheet"

    def __init__(self, rows_of_a_sheet: int = ROWS_OF_A_SHEET) -> None:
        self._most = rows_of_a_sheet
        self._buffer = _Buffer()
        self._zip = zipfile.ZipFile(cast("IO[bytes]", self._buffer), "w", zipfile.ZIP_DEFLATED)
        self._heads: Sequence[str] = ()
        self._sheets = 0
        self._rows = 0
        self._sheet: IO[bytes] | None = None

    def begin(self, heads: Sequence[str]) -> bytes:
        """See `RowWriter`."""
        self._heads = heads
        self._open_sheet()
        return self._buffer.taken()

    def rows(self, rows: Iterable[Sequence[Cell]]) -> bytes:
        """See `RowWriter`."""
        for row in rows:
            if self._rows >= self._most:
                self._close_sheet()
                self._open_sheet()
            self._write(row)
        return self._buffer.taken()

    def end(self) -> bytes:
        """See `RowWriter`."""
        self._close_sheet()
        numbers = range(1, self._sheets + 1)
        sheets = "".join(f'<sheet name="{number}" sheetId="{number}" r:id="s{number}"/>' for number in numbers)
        links = "".join(
            f'<Relationship Id="s{number}" Type="{_OFFICE}/worksheet" Target="worksheets/sheet{number}.xml"/>' for number in numbers
        )
        parts = "".join(
            f'<Override PartName="/xl/worksheets/sheet{number}.xml" ContentType="{_TYPE}.worksheet+xml"/>' for number in numbers
        )
        self._zip.writestr(
            "xl/workbook.xml", f'{_HEAD}<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>{sheets}</sheets></workbook>'
        )
        self._zip.writestr(
            "xl/_rels/workbook.xml.rels",
            f'{_HEAD}<Relationships xmlns="{_PACKAGE}/relationships">{links}'
            f'<Relationship Id="styles" Type="{_OFFICE}/styles" Target="styles.xml"/></Relationships>',
        )
        self._zip.writestr("xl/styles.xml", _STYLES)
        self._zip.writestr(
            "_rels/.rels",
            f'{_HEAD}<Relationships xmlns="{_PACKAGE}/relationships">'
            f'<Relationship Id="book" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        )
        self._zip.writestr(
            "[Content_Types].xml",
            f'{_HEAD}<Types xmlns="{_PACKAGE}/content-types"><Default Extension="xml" ContentType="application/xml"/>'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.sheet.main+xml"/>'
            f'<Override PartName="/xl/styles.xml" ContentType="{_TYPE}.styles+xml"/>{parts}</Types>',
        )
        self._zip.close()
        return self._buffer.taken()

    def _open_sheet(self) -> None:
        self._sheets, self._rows = self._sheets + 1, 0
        self._sheet = self._zip.open(f"xl/worksheets/sheet{self._sheets}.xml", "w")
        self._sheet.write(f'{_HEAD}<worksheet xmlns="{_MAIN}"><sheetData>'.encode())
        self._sheet.write(_row(self._heads, style=2))

    def _close_sheet(self) -> None:
        if self._sheet is not None:
            self._sheet.write(b"</sheetData></worksheet>")
            self._sheet.close()
            self._sheet = None

    def _write(self, row: Sequence[Cell]) -> None:
        assert self._sheet is not None
        self._sheet.write(_row(row))
        self._rows += 1


def _row(cells: Sequence[Cell], style: int = 0) -> bytes:
    return f"<row>{''.join(_cell(cell, style) for cell in cells)}</row>".encode("utf-8", "replace")


def _cell(cell: Cell, style: int) -> str:
    if cell is None or cell == "":
        return "<c/>"
    if isinstance(cell, Decimal):
        return f'<c s="1"><v>{cell}</v></c>'
    if isinstance(cell, int):
        return f"<c><v>{cell}</v></c>"
    text = escape(_FORBIDDEN.sub("", defused(cell)))
    return f'<c t="inlineStr"{f" s={chr(34)}{style}{chr(34)}" if style else ""}><is><t xml:space="preserve">{text}</t></is></c>'


WRITERS: dict[str, type[CsvWriter] | type[XlsxWriter]] = {"csv": CsvWriter, "xlsx": XlsxWriter}
