"""Trade and fund flow bills of APIv3, and the trade bill of APIv2.

The format is UTF-8 with BOM and CRLF, with amounts in yuan and a backtick before every value. A file has a header, the details and
two lines of summary. Sources: WeChat Pay APIv3, trade bill; fund flow bill; bill download. WeChat Pay APIv2, download bill.
"""

from __future__ import annotations

import gzip
import hashlib
from typing import Any

from paycenter_server.simulator.bills import BillEntry, Period, fee_of, fund_entries, plain_text, trade_entries, two_decimals
from paycenter_server.simulator.clock import china_time
from paycenter_server.simulator.state import Simulator
from paycenter_server.simulator.trades import WECHATPAY_V3
from paycenter_server.simulator.wechatpay.v2_call import V2Call, V2Error
from paycenter_server.simulator.wechatpay.v2_trades import trade_type
from paycenter_server.simulator.wechatpay.v3_call import WechatCall, WechatError, invalid

__all__ = ["DOWNLOAD_PATH", "download", "download_v2", "fund_flow_bill", "trade_bill"]

DOWNLOAD_PATH = "/v3/billdownload/file"
_URL_SECONDS = 300
_HEAD = (
    "交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,"
    "交易类型,交易状态,付款银行,货币种类,应结订单金额,代金券金额"
)
_REFUND = "微信退款单号,商户退款单号,退款金额,充值券退款金额,退款类型,退款状态"
_GOODS = "商品名称,商户数据包,手续费,费率,订单金额"
_COLUMNS = {
    "ALL": f"{_HEAD},{_REFUND},{_GOODS},申请退款金额,费率备注",
    "SUCCESS": f"{_HEAD},{_GOODS},费率备注",
    "REFUND": f"{_HEAD},退款申请时间,退款成功时间,{_REFUND},{_GOODS},申请退款金额,费率备注",
}
_SUMMARY = "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额"
_FUND_COLUMNS = (
    "记账时间,微信支付业务单号,资金流水单号,业务名称,业务类型,收支类型,收支金额(元),账户结余(元),资金变更提交申请人,备注,业务凭证号"
)
_FUND_SUMMARY = "资金流水总笔数,收入笔数,收入金额,支出笔数,支出金额"
_REFUND_STATES = {"PROCESSING": "PROCESSING", "SUCCESS": "SUCCESS", "ABNORMAL": "CHANGE", "CLOSED": "FAIL"}


def _line(values: list[str]) -> str:
    return ",".join("`" + value for value in values)


def _file(lines: list[str]) -> bytes:
    return b"\xef\xbb\xbf" + "".join(line + "\r\n" for line in lines).encode()


def _row(entry: BillEntry) -> dict[str, str]:
    """One line of details by column name, with the columns of all bill types."""
    trade, refund = entry.trade, entry.refund
    state = "REVOKED" if refund and trade.state == "REVOKED" else "REFUND" if refund else "SUCCESS"
    fee = -fee_of(entry.amount) if refund else fee_of(entry.amount)
    row = {
        "交易时间": china_time(entry.moment),
        "公众账号ID": trade.app_id,
        "商户号": trade.merchant_id,
        "特约商户号": "0",
        "设备号": "",
        "微信订单号": trade.transaction_id,
        "商户订单号": trade.number,
        "用户标识": trade.payer,
        "交易类型": trade_type(trade),
        "交易状态": state,
        "付款银行": "OTHERS",
        "货币种类": "CNY",
        "应结订单金额": "0.00" if refund else two_decimals(entry.amount),
        "代金券金额": "0.00",
        "微信退款单号": "0",
        "商户退款单号": "0",
        "退款金额": "0.00",
        "充值券退款金额": "0.00",
        "退款类型": "",
        "退款状态": "",
        "商品名称": plain_text(trade.subject),
        "商户数据包": plain_text(trade.attach),
        "手续费": two_decimals(fee) + "000",
        "费率": "0.60%",
        "订单金额": "0.00" if refund else two_decimals(entry.amount),
        "申请退款金额": "0.00",
        "费率备注": "",
    }
    if refund is not None:
        row |= {
            "退款申请时间": china_time(refund.created),
            "退款成功时间": china_time(refund.finished) if refund.state == "SUCCESS" else "",
            "微信退款单号": refund.refund_id,
            "商户退款单号": refund.number,
            "退款金额": two_decimals(refund.amount),
            "退款类型": "ORIGINAL",
            "退款状态": _REFUND_STATES[refund.state],
            "申请退款金额": two_decimals(refund.amount),
        }
    return row


def _trade_file(simulator: Simulator, period: Period, kind: str) -> bytes | None:
    entries = trade_entries(simulator.trades, WECHATPAY_V3, period)
    entries = [entry for entry in entries if kind == "ALL" or (entry.refund is not None) is (kind == "REFUND")]
    if not entries:
        return None
    columns = _COLUMNS[kind].split(",")
    rows = [_row(entry) for entry in entries]
    paid = sum(entry.amount for entry in entries if entry.refund is None)
    back = sum(entry.amount for entry in entries if entry.refund is not None)
    fees = sum(fee_of(entry.amount) * (-1 if entry.refund else 1) for entry in entries)
    total = [
        f"{len(entries)}.0",
        two_decimals(paid),
        two_decimals(back),
        "0.0",
        two_decimals(fees),
        two_decimals(paid),
        two_decimals(back),
    ]
    details = [_line([row[column] for column in columns]) for row in rows]
    return _file([_COLUMNS[kind], *details, _SUMMARY, _line(total)])


def _flows(entry: BillEntry) -> list[tuple[str, str, int]]:
    """Name, type and signed fen of each account movement of an entry."""
    if entry.refund is None:
        return [("交易", "交易", entry.amount), ("交易手续费", "扣除交易手续费", -fee_of(entry.amount))]
    return [("退款", "退款", -entry.amount), ("退还手续费", "退还手续费", fee_of(entry.amount))]


def _fund_file(simulator: Simulator, period: Period) -> bytes | None:
    balance, lines, moved = 0, [], []
    for entry in fund_entries(simulator.trades, WECHATPAY_V3):
        for place, (name, kind, fen) in enumerate(_flows(entry)):
            balance += fen
            if entry.moment not in period or not fen:
                continue
            moved.append(fen)
            trade, refund = entry.trade, entry.refund
            lines.append(
                _line(
                    [
                        china_time(entry.moment),
                        refund.refund_id if refund else trade.transaction_id,
                        f"{trade.merchant_id}{(refund.refund_id if refund else trade.transaction_id)[-18:]}{place}",
                        name,
                        kind,
                        "收入" if fen > 0 else "支出",
                        two_decimals(abs(fen)),
                        two_decimals(balance),
                        "system" if place or refund is None or refund.by_console else trade.merchant_id + "API",
                        plain_text(refund.reason) if refund else "",
                        refund.number if refund else trade.number,
                    ]
                )
            )
    if not lines:
        return None
    gains, losses = [fen for fen in moved if fen > 0], [-fen for fen in moved if fen < 0]
    counts = [f"{len(moved)}.0", f"{len(gains)}.0", two_decimals(sum(gains)), f"{len(losses)}.0", two_decimals(sum(losses))]
    return _file([_FUND_COLUMNS, *lines, _FUND_SUMMARY, _line(counts)])


def _period(call: WechatCall) -> Period:
    try:
        period = Period.parse(call.query.get("bill_date", ""), "%Y-%m-%d")
    except ValueError as error:
        raise invalid("bill_date", "bill_date格式不正确") from error
    if not period.over(call.simulator.clock.now()):
        raise invalid("bill_date", "只能下载今天以前的账单")
    return period


def _choice(call: WechatCall, field: str, allowed: tuple[str, ...], default: str) -> str:
    value = call.query.get(field, default)
    if value not in allowed:
        raise invalid(field, f"{field}取值不正确")
    return value


def _offer(call: WechatCall, content: bytes | None) -> tuple[int, dict[str, Any]]:
    packed = _choice(call, "tar_type", ("", "GZIP"), "") == "GZIP"
    if content is None:
        raise WechatError(400, "NO_STATEMENT_EXIST", "账单文件不存在")
    token = call.simulator.bills.put(gzip.compress(content, mtime=0) if packed else content, _URL_SECONDS)
    return 200, {
        "hash_type": "SHA1",
        # over the uncompressed file, as in the official Java sample
        "hash_value": hashlib.sha1(content, usedforsecurity=False).hexdigest(),
        "download_url": f"{call.origin}{DOWNLOAD_PATH}?token={token}" + ("&tartype=gzip" if packed else ""),
    }


def trade_bill(call: WechatCall) -> tuple[int, dict[str, Any]]:
    """GET /v3/bill/tradebill."""
    kind = _choice(call, "bill_type", tuple(_COLUMNS), "ALL")
    return _offer(call, _trade_file(call.simulator, _period(call), kind))


def fund_flow_bill(call: WechatCall) -> tuple[int, dict[str, Any]]:
    """GET /v3/bill/fundflowbill; only the BASIC account of this merchant has movements."""
    account = _choice(call, "account_type", ("BASIC", "OPERATION", "FEES"), "BASIC")
    period = _period(call)
    return _offer(call, _fund_file(call.simulator, period) if account == "BASIC" else None)


def download(call: WechatCall) -> bytes:
    """The file of a download_url. The answer has no signature."""
    content = call.simulator.bills.get(call.query.get("token", ""))
    if content is None:
        raise WechatError(404, "RESOURCE_NOT_EXISTS", "下载地址无效或已过期")
    return content


def download_v2(call: V2Call) -> bytes:
    """/pay/downloadbill: the file. The answer has no signature."""
    kind, packed = call.optional("bill_type") or "ALL", call.optional("tar_type")
    if kind not in _COLUMNS or packed not in ("", "GZIP"):
        raise V2Error("", "bill_type或tar_type无效", error_code="20001")
    try:
        period = Period.parse(call.text("bill_date", 8), "%Y%m%d")
    except ValueError as error:
        raise V2Error("", "invalid bill_date", error_code="20001") from error
    if not period.over(call.simulator.clock.now()):
        raise V2Error("", "invalid bill_date", error_code="20001")
    content = _trade_file(call.simulator, period, kind)
    if content is None:
        raise V2Error("", "No Bill Exist", error_code="20002")
    return gzip.compress(content, mtime=0) if packed else content
