"""WeChat Pay trade bills (v3 tradebill and v2 downloadbill): UTF-8 with BOM, a backtick before every field, two summary lines.

Source: WeChat Pay v3, "Apply for a trade bill", field table of type ALL. Columns are identified by their names, because SUCCESS and
REFUND bills have others.
"""

from __future__ import annotations

from collections.abc import Iterator

from paycenter_server.channels.bills import BillError, BillKind, BillLine, signed_fen
from paycenter_server.channels.times import parse_alipay

_NEEDED = ("交易时间", "微信订单号", "商户订单号", "交易状态", "订单金额", "手续费")
_SUMMARY = "总交易单数"


def parse_trade_bill(raw: bytes) -> Iterator[BillLine]:
    """The detail lines of a decompressed bill. BillError if it is not a bill, or ends before its summary."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BillError("the bill is not UTF-8") from error
    lines = iter(text.split("\n"))
    header = next(lines, "").rstrip("\r").split(",")
    columns = {name.strip(): index for index, name in enumerate(header)}
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise BillError(f"the bill has no column {missing[0]}")
    for number, line in enumerate(lines, start=2):
        line = line.rstrip("\r")
        if line.startswith(_SUMMARY):
            return
        if not line.startswith("`"):
            raise BillError(f"line {number}: neither a detail nor the summary")
        cells = line[1:].split(",`")
        if len(cells) != len(header):
            raise BillError(f"line {number}: {len(cells)} fields instead of {len(header)}")
        yield _line(cells, columns, f"line {number}")
    raise BillError("the bill ends before its summary: it is not complete")


def _line(cells: list[str], columns: dict[str, int], where: str) -> BillLine:
    def cell(name: str) -> str:
        index = columns.get(name)
        return cells[index].strip() if index is not None else ""

    # A reversed bar code payment has another line, REVOKED, with the refund that the channel made of it.
    refunded = cell("交易状态") in ("REFUND", "REVOKED")
    return BillLine(
        kind=BillKind.REFUND if refunded else BillKind.PAYMENT,
        out_trade_no=cell("商户订单号"),
        channel_order_no=cell("微信订单号"),
        out_refund_no=cell("商户退款单号") if refunded else "",
        channel_refund_no=cell("微信退款单号") if refunded else "",
        amount=signed_fen(cell("申请退款金额") if refunded and "申请退款金额" in columns else cell("订单金额"), where),
        fee=signed_fen(cell("手续费"), where),
        state=cell("退款状态") if refunded else cell("交易状态"),
        time=parse_alipay(cell("交易时间")),
    )
