from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paycenter_server.channels.alipay.bills import parse_trade_bill as alipay
from paycenter_server.channels.bills import BillError, BillKind, signed_fen
from paycenter_server.channels.wechatpay.bills import parse_trade_bill as wechat
from support.vectors import VECTORS

SAMPLE = VECTORS / "wechat_bill_ALL.csv"


@pytest.mark.skipif(not SAMPLE.exists(), reason="the published bill is not beside this checkout")
def test_the_published_bill() -> None:
    lines = list(wechat(SAMPLE.read_bytes()))
    assert len(lines) == 45
    summary = SAMPLE.read_text(encoding="utf-8-sig").splitlines()[-1].replace("`", "").split(",")
    assert int(float(summary[0])) == 45
    payments = sum(line.amount for line in lines if line.kind is BillKind.PAYMENT)
    refunds = sum(line.amount for line in lines if line.kind is BillKind.REFUND)
    assert payments == signed_fen(summary[5], "summary")
    assert refunds == signed_fen(summary[6], "summary")
    assert sum(line.fee for line in lines) == round(float(summary[4]) * 100)
    assert all(line.time and line.time.utcoffset() for line in lines)


HEADER = "支付宝交易号,商户订单号,业务类型,完成时间,订单金额（元）,商家实收（元）,服务费（元）,退款批次号/请求号"


def zipped(text: str, name: str = "2088_业务明细.csv") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("2088_业务明细(汇总).csv", "#".encode("gbk"))
        archive.writestr(name, text.encode("gbk"))
    return made.getvalue()


def test_an_alipay_bill() -> None:
    text = (
        f"#支付宝业务明细查询\n{HEADER}\n2026\t,P1\t,交易,2026-01-02 03:04:05,100.00,100.00,-0.60,\n"
        "2026\t,P1\t,退款,2026-01-02 04:04:05,-30.00,-30.00,0.18,R1\n#-------业务明细列表结束-------\n#x\n"
    )
    paid, refunded = alipay(zipped(text))
    assert (paid.kind, paid.out_trade_no, paid.amount, paid.fee) == (BillKind.PAYMENT, "P1", 10_000, 60)
    assert (refunded.kind, refunded.out_refund_no, refunded.amount, refunded.fee) == (BillKind.REFUND, "R1", 3_000, -18)


def test_a_quotation_mark_does_not_join_lines() -> None:
    header = HEADER + ",商品名称\t"
    lines = [f"2026,P{n},交易,2026-01-02 03:04:05,1.00,1.00,-0.01,,{name}" for n, name in enumerate(['"Tea', "x", '"', "y", '""'])]
    text = "\n".join(["#x", header, *lines, "#业务明细列表结束"])
    assert [line.out_trade_no for line in alipay(zipped(text))] == ["P0", "P1", "P2", "P3", "P4"]
    with pytest.raises(BillError, match="10 fields instead of 9"):
        list(alipay(zipped(text.replace('"Tea', "Tea, green"))))


def test_a_zip_with_another_method_is_refused() -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("2088_业务明细.csv", "x" * 200)
    whole = made.getvalue()
    for place in range(60, len(whole) - 80):
        with pytest.raises(BillError):
            list(alipay(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]))


@pytest.mark.parametrize(
    "text", ["", "#x", "a,b\n1,2\n", HEADER, f"{HEADER}\n1,2\n#业务明细列表结束", f"{HEADER}\n1,2,交易,x,1e5,1,1,\n"]
)
def test_an_alipay_bill_that_is_refused(text: str) -> None:
    with pytest.raises(BillError):
        list(alipay(zipped(text)))


@pytest.mark.parametrize(
    "raw", [b"", b"\xff", b"a,b\n`1,`2\n", "交易时间,微信订单号,商户订单号,交易状态,订单金额,手续费\n`1\n".encode()]
)
def test_a_wechat_bill_that_is_refused(raw: bytes) -> None:
    with pytest.raises(BillError):
        list(wechat(raw))


def test_a_bill_that_is_cut_off_is_refused() -> None:
    if SAMPLE.exists():
        raw = SAMPLE.read_bytes()
        with pytest.raises(BillError, match=r"complete|instead|amount"):
            list(wechat(raw[: len(raw) // 2]))


@given(
    st.binary(max_size=300)
    | st.text(max_size=300).map(str.encode)
    | st.text(max_size=100).map(lambda text: zipped("#" + text.encode("gbk", "ignore").decode("gbk")))
)
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    for parser in (wechat, alipay):
        try:
            list(parser(raw))
        except BillError:
            pass
