"""Daily and monthly bills: a zip file of CSV files. The contents and the file names are in GBK.

Source: Alipay, alipay.data.dataservice.bill.downloadurl.query.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

from aiohttp import web

from paycenter_server.simulator.alipay.call import AlipayCall, AlipayError
from paycenter_server.simulator.bills import BillEntry, Period, fee_of, fund_entries, plain_text, trade_entries, two_decimals
from paycenter_server.simulator.clock import china_time
from paycenter_server.simulator.http import apply_connection_fault, gateway_error, log_answer, log_request
from paycenter_server.simulator.state import STATE, Simulator
from paycenter_server.simulator.trades import ALIPAY

__all__ = ["add_routes", "download_url"]

_PATH = "/downloadBillFile.resource"
_API = "alipay.billdownload"
_URL_SECONDS = 30
_PAYER = "sim***@example.com"
_TRADE_COLUMNS = (
    "支付宝交易号,商户订单号,业务类型,商品名称,创建时间,完成时间,门店编号,门店名称,操作员,终端号,对方账户,订单金额（元）,商家实收（元）,"
    "支付宝红包（元）,集分宝（元）,支付宝优惠（元）,商家优惠（元）,券核销金额（元）,券名称,商家红包消费金额（元）,卡消费金额（元）,"
    "退款批次号/请求号,服务费（元）,分润（元）,备注"
)
_TRADE_SUMMARY = (
    "门店编号,门店名称,交易订单总笔数,退款订单总笔数,订单金额（元）,商家实收（元）,支付宝优惠（元）,商家优惠（元）,"
    "卡消费金额（元）,服务费（元）,分润（元）,实收净额（元）"
)
_FUND_COLUMNS = (
    "账务流水号,业务流水号,商户订单号,商品名称,发生时间,对方账号,"
    "收入金额（+元）,支出金额（-元）,账户余额（元）,交易渠道,业务类型,备注"
)
_FUND_SUMMARY = "类型,收入笔数,收入金额（+元）,支出笔数,支出金额（-元）"


def add_routes(app: web.Application) -> None:
    """Serve the files. The address is the only authorization."""
    app.router.add_get(_PATH, _download)


async def _download(request: web.Request) -> web.Response:
    simulator = request.app[STATE]
    log_entry = log_request(request, ALIPAY, _API, "", b"")
    rule = simulator.faults.take(_API)
    log_entry.fault = rule.fault if rule else ""
    interruption = await apply_connection_fault(request, rule, "before")
    if interruption is not None:
        return interruption
    content = simulator.bills.get(request.query.get("fileId", ""))
    log_entry.verdict = "valid" if content is not None else "refused: the address has expired"
    if log_entry.fault in ("http_502", "http_503"):
        response = gateway_error(log_entry.fault)
    elif content is None:
        response = web.Response(status=403, text="the address has expired")
    else:
        response = web.Response(body=content, headers={"Content-Type": "application/octet-stream"})
    interruption = await apply_connection_fault(request, rule, "after")
    if interruption is not None:
        return interruption
    return log_answer(log_entry, response)


def download_url(call: AlipayCall) -> dict[str, Any]:
    """alipay.data.dataservice.bill.downloadurl.query: bill_type trade or signcustomer, a day or a month in the past."""
    kind, date = call.optional("bill_type"), call.optional("bill_date")
    if kind not in ("trade", "signcustomer"):
        raise _failure("INVALID_ARGUMENTS", "入参不合法:bill_type")
    try:
        period = Period.parse(date, "%Y-%m-%d" if date.count("-") == 2 else "%Y-%m")
    except ValueError as error:
        raise _failure("INVALID_ARGUMENTS", "入参不合法:bill_date") from error
    if not period.over(call.simulator.clock.now()):
        raise _failure("INVALID_ARGUMENTS", "入参不合法:只能下载已结束的账期")
    compact = date.replace("-", "")
    content = (_trade_zip if kind == "trade" else _fund_zip)(call.simulator, period, compact)
    if content is None:
        raise _failure("BILL_NOT_EXIST", "账单不存在")
    token = call.simulator.bills.put(content, _URL_SECONDS)
    seller = call.simulator.keys.alipay["seller_id"]
    query = f"bizType={kind}&userId={seller}&fileType=csv.zip&bizDates={compact}"
    return {"bill_download_url": f"{call.origin}{_PATH}?{query}&downloadFileName={seller}_{compact}.csv.zip&fileId={token}"}


def _failure(code: str, text: str) -> AlipayError:
    return AlipayError("40004", "Business Failed", code, text)


class _GbkName(zipfile.ZipInfo):
    """Alipay's names are in GBK without the UTF-8 flag. The standard library writes only UTF-8."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode("gbk"), self.flag_bits


def _zip(files: dict[str, list[str]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, lines in files.items():
            text = "".join(line + "\r\n" for line in lines)
            archive.writestr(_GbkName(name), text.encode("gbk", "replace"), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _frame(simulator: Simulator, period: Period, title: str, what: str, body: list[str], foot: list[str]) -> list[str]:
    zone = [f"[{day.strftime('%Y年%m月%d日')} {clock}]" for day, clock in ((period.first, "00:00:00"), (period.last, "24:00:00"))]
    return [
        f"#支付宝{title}查询",
        f"#账号：[{simulator.keys.alipay['seller_id']}0156]",
        f"#起始日期：{zone[0]}   终止日期：{zone[1]}",
        f"#{'-' * 41}{what}列表{'-' * 40}",
        *body,
        f"#{'-' * 41}{what}列表结束{'-' * 36}",
        *foot,
        f"#导出时间：[{china_time(simulator.clock.now())}]",
    ]


def _line(values: list[str]) -> str:
    # A tab after each value prevents spreadsheets from rounding long numbers.
    return ",".join(value + "\t" for value in values)


def _trade_line(entry: BillEntry) -> str:
    trade, refund = entry.trade, entry.refund
    sign = -1 if refund else 1
    amount, none = two_decimals(sign * entry.amount), "0.00"
    head = [trade.transaction_id, trade.number, "退款" if refund else "交易", plain_text(trade.subject)]
    times = [china_time(trade.created), china_time(entry.moment)]
    request, why = (refund.number, plain_text(refund.reason)) if refund else ("", "")
    fee = two_decimals(-sign * fee_of(entry.amount))
    money = [amount, amount, none, none, none, none, none, "", none, none]
    return _line([*head, *times, "", "", "", "", _PAYER, *money, request, fee, none, why])


def _trade_zip(simulator: Simulator, period: Period, compact: str) -> bytes | None:
    entries = trade_entries(simulator.trades, ALIPAY, period)
    if not entries:
        return None
    paid, back = [entry.amount for entry in entries if not entry.refund], [entry.amount for entry in entries if entry.refund]
    foot = [
        f"#交易合计：{len(paid)}笔，商家实收共{two_decimals(sum(paid))}元，商家优惠共0.00元",
        f"#退款合计：{len(back)}笔，商家实收退款共{two_decimals(-sum(back))}元，商家优惠退款共0.00元",
    ]
    fees = sum(fee_of(fen) for fen in back) - sum(fee_of(fen) for fen in paid)
    net = sum(paid) - sum(back)
    counts = ["合计", "", str(len(paid)), str(len(back)), two_decimals(net), two_decimals(net), "0.00", "0.00", "0.00"]
    summary = [_TRADE_SUMMARY, _line([*counts, two_decimals(fees), "0.00", two_decimals(net + fees)])]
    name = f"{simulator.keys.alipay['seller_id']}0156_{compact}_业务明细"
    lines = [_TRADE_COLUMNS, *(_trade_line(entry) for entry in entries)]
    return _zip(
        {
            name + ".csv": _frame(simulator, period, "业务明细", "业务明细", lines, foot),
            name + "(汇总).csv": _frame(simulator, period, "业务汇总", "业务汇总", summary, []),
        }
    )


def _flows(entry: BillEntry) -> list[tuple[str, int]]:
    """Type and signed fen of each account movement of an entry."""
    if entry.refund is None:
        return [("在线支付", entry.amount), ("收费", -fee_of(entry.amount))]
    return [("交易退款", -entry.amount), ("退费", fee_of(entry.amount))]


def _fund_zip(simulator: Simulator, period: Period, compact: str) -> bytes | None:
    balance, lines = 0, []
    gains: list[int] = []
    losses: list[int] = []
    for entry in fund_entries(simulator.trades, ALIPAY):
        for place, (kind, fen) in enumerate(_flows(entry)):
            balance += fen
            if entry.moment not in period or not fen:
                continue
            (gains if fen > 0 else losses).append(fen)
            trade, refund = entry.trade, entry.refund
            # The number of the movement must be unique for each refund of a trade.
            position = 0 if refund is None else trade.refunds.index(refund) + 1
            own = f"{trade.transaction_id[-13:]}{position:02d}{place}"
            money = [two_decimals(fen) if fen > 0 else "0.00", two_decimals(fen) if fen < 0 else "0.00", two_decimals(balance)]
            who = [plain_text(trade.subject), china_time(entry.moment), _PAYER]
            note = plain_text(refund.reason) if refund else ""
            lines.append(_line([own, trade.transaction_id, trade.number, *who, *money, "支付宝", kind, note]))
    if not lines:
        return None
    foot = [
        f"#支出合计：{len(losses)}笔，共{two_decimals(sum(losses))}元",
        f"#收入合计：{len(gains)}笔，共{two_decimals(sum(gains))}元",
    ]
    total = _line(["合计", str(len(gains)), two_decimals(sum(gains)), str(len(losses)), two_decimals(sum(losses))])
    name = f"{simulator.keys.alipay['seller_id']}0156_{compact}_账务明细"
    return _zip(
        {
            name + ".csv": _frame(simulator, period, "账务明细", "账务明细", [_FUND_COLUMNS, *lines], foot),
            name + "(汇总).csv": _frame(simulator, period, "账务汇总", "账务汇总", [_FUND_SUMMARY, total], []),
        }
    )
