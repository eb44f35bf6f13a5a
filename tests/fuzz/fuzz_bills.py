"""Trade bills of both families: invalid content, the same in a zip, and invalid cells in an otherwise valid bill."""

from __future__ import annotations

import io
import zipfile

import atheris  # type: ignore[import-not-found,unused-ignore]
from harness import fuzz

with atheris.instrument_imports(include=["paycenter_server.channels"]):
    from paycenter_server.channels.alipay.bills import parse_trade_bill as alipay
    from paycenter_server.channels.bills import BillError
    from paycenter_server.channels.wechatpay.bills import parse_trade_bill as wechat

WECHAT = "交易时间,微信订单号,商户订单号,交易状态,订单金额,手续费,微信退款单号,商户退款单号,申请退款金额,退款状态"
ALIPAY = "支付宝交易号,商户订单号,业务类型,完成时间,订单金额（元）,商家实收（元）,服务费（元）,退款批次号/请求号"


def zipped(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("2088_业务明细.csv", content)
    return made.getvalue()


def target(data: bytes) -> None:
    how, rest = data[0] if data else 0, data[1:]
    match how % 6:
        case 0:
            lines = list(wechat(rest))
        case 1:
            lines = list(wechat(f"\ufeff{WECHAT}\n".encode() + rest + "\n总交易单数,x\n`1\n".encode()))
        case 2:
            cells = ",`".join(rest.decode("utf-8", "replace").split("|"))
            lines = list(wechat(f"\ufeff{WECHAT}\r\n`{cells}\r\n总交易单数\r\n".encode()))
        case 3:
            lines = list(alipay(rest))
        case 4:
            lines = list(alipay(zipped(rest)))
        case _:
            end = "\n#-----业务明细列表结束-----\n".encode("gbk")
            lines = list(alipay(zipped(f"#x\n{ALIPAY}\n".encode("gbk") + rest.replace(b"|", b"\t,") + end)))
    for line in lines:
        assert abs(line.amount) < 10**16
        assert line.time is None or line.time.utcoffset()


fuzz(target, (BillError,))
