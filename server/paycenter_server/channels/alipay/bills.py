"""Alipay trade bills: a zip of GBK files of comma-separated values, comment lines with `#`, values padded with tabs.

Source: Alipay Open API, "Bill download", 业务明细. Columns are identified by their names.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO

from paycenter_server.channels.bills import BillError, BillKind, BillLine, signed_fen
from paycenter_server.channels.times import parse_alipay

MAX_BYTES = 256 * 1024 * 1024
_FIRST = "支付宝交易号"
_END = "业务明细列表结束"
_NEEDED = (_FIRST, "商户订单号", "业务类型", "完成时间", "订单金额（元）", "商家实收（元）", "服务费（元）", "退款批次号/请求号")


def parse_trade_bill(raw: bytes) -> Iterator[BillLine]:
    """The detail lines of a zipped bill. BillError if it is not a bill, or ends before its last comment."""
    try:
        with zipfile.ZipFile(BytesIO(raw)) as archive:
            entry = next((item for item in archive.infolist() if _is_detail(item)), None)
            if entry is None:
                raise BillError("the zip holds no 业务明细 file")
            if entry.file_size > MAX_BYTES:
                raise BillError("the bill is larger than 256 MiB")
            # zipfile reads no more than the size that the zip declares.
            content = archive.read(entry)
    except (
        zipfile.BadZipFile,
        ValueError,
        OSError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise BillError(f"the bill is not a zip that can be read: {error}"[:200]) from error
    yield from _lines(content)


def _is_detail(item: zipfile.ZipInfo) -> bool:
    name = item.filename
    if not item.flag_bits & 0x800:
        # Alipay writes GBK names without the flag, and zipfile decodes them as cp437.
        name = name.encode("cp437", "replace").decode("gbk", "replace")
    return "业务明细" in name and "汇总" not in name


def _lines(content: bytes) -> Iterator[BillLine]:
    try:
        text = content.decode("gb18030")
    except UnicodeDecodeError as error:
        raise BillError("the bill is not GBK") from error
    columns: dict[str, int] = {}
    width = 0
    for number, line in enumerate(text.split("\n"), start=1):
        # Values are not quoted: a quotation mark is part of a product's name and must not join lines.
        cells = [cell.strip() for cell in line.split(",")]
        if not any(cells):
            continue
        if cells[0].startswith("#"):
            if _END in cells[0]:
                return
            continue
        if not columns:
            columns, width = {name: index for index, name in enumerate(cells)}, len(cells)
            missing = [name for name in _NEEDED if name not in columns]
            if missing:
                raise BillError(f"the bill has no column {missing[0]}")
            continue
        if len(cells) == width + 1 and not cells[-1]:
            cells.pop()  # a comma at the end of the line
        if len(cells) != width:
            raise BillError(f"line {number}: {len(cells)} fields instead of {width}")
        yield _line(cells, columns, f"line {number}")
    raise BillError("the bill ends before its last line: it is not complete")


def _line(cells: list[str], columns: dict[str, int], where: str) -> BillLine:
    def cell(name: str) -> str:
        return cells[columns[name]]

    refunded = cell("业务类型") == "退款"
    amount = signed_fen(cell("商家实收（元）") if refunded else cell("订单金额（元）"), where)
    return BillLine(
        kind=BillKind.REFUND if refunded else BillKind.PAYMENT,
        out_trade_no=cell("商户订单号"),
        channel_order_no=cell(_FIRST),
        out_refund_no=cell("退款批次号/请求号") if refunded else "",
        channel_refund_no="",
        amount=abs(amount),
        fee=-signed_fen(cell("服务费（元）"), where),
        state="SUCCESS",
        time=parse_alipay(cell("完成时间")),
    )
