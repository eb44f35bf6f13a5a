"""Bills: WeChat Pay v3 and v2, Alipay."""

from __future__ import annotations

import csv
import datetime
import gzip
import hashlib
import io
import time
import zipfile
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.vectors import VECTORS

from .merchant import CHINA, AlipayClient, Answer, SimulatorSystem, WechatClient
from .xml_merchant import XmlClient, fields_of

pytestmark = pytest.mark.asyncio
SAMPLE = VECTORS / "wechat_bill_ALL.csv"
ALL_HEADER = (
    "交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,交易类型,交易状态,付款银行,货币种类,应结订单金额,"
    "代金券金额,微信退款单号,商户退款单号,退款金额,充值券退款金额,退款类型,退款状态,商品名称,商户数据包,手续费,费率,订单金额,"
    "申请退款金额,费率备注"
)
ALL = ALL_HEADER.split(",")


def today() -> datetime.date:
    return datetime.datetime.now(CHINA).date()


async def tomorrow(system: SimulatorSystem) -> str:
    """Move the clock to the next day; returns the day before."""
    day = today()
    await system.advance(86400)
    return day.isoformat()


def parsed(content: bytes) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Details and summary by column name."""
    assert content.startswith(b"\xef\xbb\xbf") and content.endswith(b"\r\n")
    lines = content[3:].decode().removesuffix("\r\n").split("\r\n")
    rows = [line.removeprefix("`").split(",`") for line in lines]
    heads = [lines[0].split(","), lines[-2].split(",")]
    assert all(len(row) == len(heads[0]) for row in rows[1:-2])
    return [dict(zip(heads[0], row, strict=True)) for row in rows[1:-2]], dict(zip(heads[1], rows[-1], strict=True))


async def trades_with_refund(system: SimulatorSystem) -> None:
    """One payment of 1.00 with a refund of 0.30, one payment of 20.00, one unpaid order."""
    client, old = WechatClient(system), XmlClient(system)
    await client.create("order0001", attach="a,b")
    await old.order("order0002", total=2000)
    await client.create("order0003")
    for number in ("order0001", "order0002"):
        await system.post(f"/simulator/pay/{number}", {"notify": False})
    await client.refund("order0001", "refund1", 30, reason="x,y")
    await system.advance(1)


async def bill(client: WechatClient, query: str, kind: str = "tradebill") -> Answer:
    return await client.call("GET", f"/v3/bill/{kind}?{query}")


async def fetched(client: WechatClient, offer: Answer) -> bytes:
    assert client.verified(offer.headers, offer.body)
    url = urlsplit(offer.json["download_url"])
    assert f"{url.scheme}://{url.netloc}" == client.system.base
    answer = await client.call("GET", f"{url.path}?{url.query}")
    assert answer.status == 200 and "Wechatpay-Signature" not in answer.headers
    return answer.body


async def test_wechat_trade_bill(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await trades_with_refund(system)
    day = await tomorrow(system)
    offer = await bill(client, f"bill_date={day}&bill_type=ALL")
    content = await fetched(client, offer)
    assert (offer.json["hash_type"], offer.json["hash_value"]) == ("SHA1", hashlib.sha1(content).hexdigest())
    details, summary = parsed(content)
    assert list(details[0]) == ALL
    by_number = {(row["商户订单号"], row["交易状态"]): row for row in details}
    assert set(by_number) == {("order0001", "SUCCESS"), ("order0001", "REFUND"), ("order0002", "SUCCESS")}
    paid, back = by_number["order0001", "SUCCESS"], by_number["order0001", "REFUND"]
    assert (paid["订单金额"], paid["应结订单金额"], paid["手续费"], paid["商户数据包"]) == ("1.00", "1.00", "0.01000", "a，b")
    assert (back["商户退款单号"], back["申请退款金额"], back["退款金额"], back["退款状态"]) == (
        "refund1",
        "0.30",
        "0.30",
        "SUCCESS",
    )
    assert back["订单金额"] == "0.00"
    assert (summary["总交易单数"], summary["订单总金额"], summary["申请退款总金额"]) == ("3.0", "21.00", "0.30")
    packed = await bill(client, f"bill_date={day}&bill_type=ALL&tar_type=GZIP")
    assert gzip.decompress(await fetched(client, packed)) == content
    assert packed.json["hash_value"] == offer.json["hash_value"]


@pytest.mark.parametrize(("kind", "count"), [("SUCCESS", 2), ("REFUND", 1)])
async def test_wechat_bills_by_type(system: SimulatorSystem, kind: str, count: int) -> None:
    client = WechatClient(system)
    await trades_with_refund(system)
    day = await tomorrow(system)
    details, _ = parsed(await fetched(client, await bill(client, f"bill_date={day}&bill_type={kind}")))
    assert len(details) == count
    assert ("商户退款单号" in details[0]) is ("退款成功时间" in details[0]) is (kind == "REFUND")


@pytest.mark.skipif(not SAMPLE.exists(), reason="the published sample is outside the repository")
async def test_format_of_the_published_sample(system: SimulatorSystem) -> None:
    await trades_with_refund(system)
    client = WechatClient(system)
    ours = await fetched(client, await bill(client, f"bill_date={await tomorrow(system)}"))
    theirs = SAMPLE.read_bytes()
    for content in (ours, theirs):
        assert list(parsed(content)[0][0]) == ALL
    ours_lines, theirs_lines = ours.split(b"\r\n"), theirs.split(b"\r\n")
    assert (ours_lines[0], ours_lines[-3]) == (theirs_lines[0], theirs_lines[-3])


async def test_wechat_fund_flow_bill(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await trades_with_refund(system)
    day = await tomorrow(system)
    details, summary = parsed(await fetched(client, await bill(client, f"bill_date={day}", "fundflowbill")))
    moved = sorted((row["业务凭证号"], row["收支类型"], row["收支金额(元)"]) for row in details)
    assert moved == [
        ("order0001", "支出", "0.01"),
        ("order0001", "收入", "1.00"),
        ("order0002", "支出", "0.12"),
        ("order0002", "收入", "20.00"),
        ("refund1", "支出", "0.30"),
    ]
    assert details[-1]["账户结余(元)"] == "20.57"
    assert summary == {"资金流水总笔数": "5.0", "收入笔数": "2.0", "收入金额": "21.00", "支出笔数": "3.0", "支出金额": "0.43"}
    assert len({row["资金流水单号"] for row in details}) == 5
    empty = await bill(client, f"bill_date={day}&account_type=FEES", "fundflowbill")
    assert empty.json["code"] == "NO_STATEMENT_EXIST"


async def test_missing_wechat_bills(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    empty = await bill(client, f"bill_date={today() - datetime.timedelta(1)}")
    assert (empty.status, empty.json["code"]) == (400, "NO_STATEMENT_EXIST")
    for query in (
        f"bill_date={today()}",
        "bill_date=20260101",
        "bill_type=ALL",
        "bill_date=2026-01-01&bill_type=X",
        "bill_date=2026-01-01&tar_type=X",
    ):
        assert (await bill(client, query)).json["code"] == "PARAM_ERROR"
    await system.fault("wx.tradebill", "decline", code="STATEMENT_CREATING")
    assert (await bill(client, "bill_date=2026-01-01")).status == 400
    await trades_with_refund(system)
    offer = await bill(client, f"bill_date={await tomorrow(system)}")
    url = urlsplit(offer.json["download_url"])
    async with system.session.get(offer.json["download_url"]) as answer:
        assert answer.status == 401
    await system.advance(301)
    assert (await client.call("GET", f"{url.path}?{url.query}")).status == 404


async def test_a_reversed_payment_in_the_bill(system: SimulatorSystem) -> None:
    old, client = XmlClient(system), WechatClient(system)
    await old.micropay("order0001")
    await old.reverse("order0001")
    details, _ = parsed(await fetched(client, await bill(client, f"bill_date={await tomorrow(system)}")))
    assert [row["交易状态"] for row in details] == ["SUCCESS", "REVOKED"]


async def test_wechat_v2_bill(system: SimulatorSystem) -> None:
    client = XmlClient(system)
    await trades_with_refund(system)
    day = (await tomorrow(system)).replace("-", "")

    async def raw(**fields: Any) -> bytes:
        async with system.session.post(system.base + "/pay/downloadbill", data=client.body(fields)) as answer:
            assert answer.status == 200
            return await answer.read()

    content = await raw(bill_date=day, bill_type="ALL")
    assert len(parsed(content)[0]) == 3
    assert gzip.decompress(await raw(bill_date=day, bill_type="ALL", tar_type="GZIP")) == content
    failure = fields_of(await raw(bill_date="20200101", bill_type="ALL"))
    assert (failure["return_code"], failure["return_msg"], failure["error_code"]) == ("FAIL", "No Bill Exist", "20002")
    assert fields_of(await raw(bill_date="x", bill_type="ALL"))["error_code"] == "20001"
    assert fields_of(await raw(bill_date=day, bill_type="X"))["error_code"] == "20001"


METHOD = "alipay.data.dataservice.bill.downloadurl.query"


async def opened(system: SimulatorSystem, url: str) -> dict[str, str]:
    """The files of a bill by name."""
    async with system.session.get(url) as answer:
        assert answer.status == 200
        archive = zipfile.ZipFile(io.BytesIO(await answer.read()))
    return {name.encode("cp437").decode("gbk"): archive.read(name).decode("gbk") for name in archive.namelist()}


def listed(text: str) -> list[dict[str, str]]:
    """The details of a file, by column name."""
    lines = text.splitlines()
    assert lines[3].endswith("列表" + "-" * 40)
    end = next(index for index, line in enumerate(lines) if line.endswith("列表结束" + "-" * 36))
    rows = list(csv.DictReader(lines[4:end]))
    return [{name: value.strip() for name, value in row.items()} for row in rows]


async def test_alipay_bills(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await client.precreate("order1", "100.00", subject="Tea, green 茶")
    await system.post("/simulator/pay/order1", {"notify": False})
    await client.refund("order1", "refund1", "30.00", refund_reason="broken")
    await client.precreate("order2")
    moment = time.time()
    day = await tomorrow(system)
    offer = await client.call(METHOD, {"bill_type": "trade", "bill_date": day})
    files = await opened(system, offer["bill_download_url"])
    seller = system.keys.alipay["seller_id"]
    stem = f"{seller}0156_{day.replace('-', '')}_业务明细"
    assert list(files) == [f"{stem}.csv", f"{stem}(汇总).csv"]
    paid, back = listed(files[f"{stem}.csv"])
    assert len(paid) == 25
    assert (paid["业务类型"], paid["商户订单号"], paid["订单金额（元）"], paid["商品名称"]) == (
        "交易",
        "order1",
        "100.00",
        "Tea， green 茶",
    )
    assert (back["业务类型"], back["退款批次号/请求号"], back["商家实收（元）"], back["备注"]) == (
        "退款",
        "refund1",
        "-30.00",
        "broken",
    )
    assert (paid["服务费（元）"], back["服务费（元）"]) == ("-0.60", "0.18")
    done = datetime.datetime.strptime(paid["完成时间"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=CHINA).timestamp()
    assert abs(done - moment) < 60
    offer = await client.call(METHOD, {"bill_type": "signcustomer", "bill_date": day})
    files = await opened(system, offer["bill_download_url"])
    flows = listed(next(text for name, text in files.items() if name.endswith("账务明细.csv")))
    assert [(row["业务类型"], row["收入金额（+元）"], row["支出金额（-元）"], row["账户余额（元）"]) for row in flows] == [
        ("在线支付", "100.00", "0.00", "100.00"),
        ("收费", "0.00", "-0.60", "99.40"),
        ("交易退款", "0.00", "-30.00", "69.40"),
        ("退费", "0.18", "0.00", "69.58"),
    ]
    assert len({row["账务流水号"] for row in flows}) == 4
    await system.advance(31)
    async with system.session.get(offer["bill_download_url"]) as answer:
        assert answer.status == 403


async def test_alipay_bill_of_a_month(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await client.precreate("order1")
    await system.post("/simulator/pay/order1", {"notify": False})
    month = today().isoformat()[:7]
    early = await client.call(METHOD, {"bill_type": "trade", "bill_date": month})
    assert early["sub_code"] == "INVALID_ARGUMENTS"
    await system.advance(32 * 86400)
    offer = await client.call(METHOD, {"bill_type": "trade", "bill_date": month})
    assert len(await opened(system, offer["bill_download_url"])) == 2


async def test_missing_alipay_bills(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    for kind in ("trade", "signcustomer"):
        assert (await client.call(METHOD, {"bill_type": kind, "bill_date": "2026-01-01"}))["sub_code"] == "BILL_NOT_EXIST"
    for biz in (
        {"bill_type": "x", "bill_date": "2026-01-01"},
        {"bill_type": "trade", "bill_date": "2026-1-1"},
        {"bill_type": "trade"},
    ):
        assert (await client.call(METHOD, biz))["sub_code"] == "INVALID_ARGUMENTS"
