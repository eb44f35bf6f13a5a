"""Export: every row once within bounded memory, formulas defused, files that spreadsheets read, and the audit."""

from __future__ import annotations

import asyncio
import csv
import io
import socket
import tracemalloc
import zipfile
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import urlencode
from xml.etree import ElementTree

import pytest
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.roles import Role
from paycenter_server.http_console import exports as pages_of_exports
from paycenter_server.http_console.sheets import XlsxWriter
from paycenter_server.services.exports import MOST_OF_ONE, PAGE
from paycenter_server.storage.orders import ORDERS, OrderFilter
from support.console_rig import Browser, browser_of
from support.operators import Person, audit_end, audited, person
from support.system import PayCenterSystem
from support.waiting import eventually

MANY = 20_000
MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


async def seed(system: PayCenterSystem, count: int) -> None:
    """Copies of an order, older than it."""
    order = await system.order(merchant_order_id="FIRST", subject="一杯咖啡")
    names = [name for name in ORDERS.columns if name not in ("id", "merchant_order_id", "next_check_time")]
    await system.rows(
        f"""INSERT INTO pay_order (id, merchant_order_id, {", ".join(names)})
            SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'X' || n, {", ".join(names)}
            FROM pay_order, generate_series(1, $2::int) n WHERE id = $1""",
        order.id, count,
    )  # fmt: skip


async def read_all(browser: Browser, path: str, wanted: str) -> tuple[bytes, dict[str, str]]:
    async with browser.client.post(path, data={"csrf": browser.csrf, "format": wanted}) as response:
        assert response.status == 200
        return await response.read(), {name.lower(): value for name, value in response.headers.items()}


async def test_many_rows_arrive_once_within_bounded_memory(console: Browser) -> None:
    await seed(console.system, MANY)
    begun = await audit_end(console.system)
    assert f"{MANY + 1:,}" in (await console.get("/orders/export?range=all")).check().text
    seen: set[bytes] = set()
    lines, rest, size = 0, b"", 0
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        async with console.client.post("/orders/export?range=all", data={"csrf": console.csrf, "format": "csv"}) as response:
            assert response.headers["Transfer-Encoding"] == "chunked"
            async for piece in response.content.iter_any():
                size += len(piece)
                *whole, rest = (rest + piece).split(b"\r\n")
                lines += len(whole)
                seen |= {line[:27] for line in whole}
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert (lines, len(seen), rest) == (MANY + 2, MANY + 2, b"")
    # The keys that this test has collected are 2 MB of it; all rows together as objects would be 40 MB.
    assert peak < 16_000_000, peak
    assert size > 2_000_000
    (row,) = await audited(console.system, begun)
    assert (row.operator, row.after) == ("console", {"rows": MANY + 1, "whole": True})


async def test_formulas_are_texts(console: Browser) -> None:
    hostile = ("=1+1", "+1", "-1", "@SUM(A1)", "\tx")
    for number, text in enumerate(hostile):
        await console.system.order(merchant_order_id=f"M{number}", subject=f"s{number}", body=text if number < 4 else "")
    await console.system.rows("UPDATE pay_order SET subject = $1 WHERE merchant_order_id = 'M4'", "\tx")
    body, headers = await read_all(console, "/orders/export", "csv")
    assert body.startswith(b"\xef\xbb\xbf")
    rows = list(csv.reader(io.StringIO(body.decode("utf-8-sig"))))
    heads = rows[0]
    assert heads[:3] == ["Order number", "Created (UTC)", "Amount"]
    cells = {row[heads.index("Description")] for row in rows[1:]} | {row[heads.index("Subject")] for row in rows[1:]}
    assert {f"'{text}" for text in hostile} <= cells
    assert not cells & set(hostile)
    assert headers["content-disposition"].startswith('attachment; filename="orders-20')
    assert headers["content-disposition"].endswith('.csv"')
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")


def cells_of(body: bytes, sheet: int = 1) -> list[list[str]]:
    """The values of a sheet. Numbers as they are written."""
    with zipfile.ZipFile(io.BytesIO(body)) as book:
        assert book.testzip() is None
        root = ElementTree.fromstring(book.read(f"xl/worksheets/sheet{sheet}.xml"))
        for name in book.namelist():
            ElementTree.fromstring(book.read(name))
    return [["".join(cell.itertext()) for cell in row] for row in root.iter(f"{MAIN}row")]


async def test_a_workbook_of_refunds(console: Browser) -> None:
    system = console.system
    order = await system.paid("mock", merchant_order_id="M1")
    await system.refund(order, 7, merchant_refund_no="R<1>", reason="x")
    await system.rows("UPDATE pay_refund SET reason = $1", "=cmd\x01&")
    console.speak("zh")
    before = await audit_end(system)
    body, headers = await read_all(console, "/refunds/export?state=SUCCESS", "xlsx")
    assert headers["content-type"].startswith("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet")
    heads, *rows = cells_of(body)
    assert heads[2] == "金额"
    (row,) = rows
    assert row[2] == "0.07"
    assert "R<1>" in row
    assert "'=cmd&" in row
    assert [(one.act, one.after) for one in await audited(system, before)] == [
        ("Console/ExportRefunds", {"rows": 1, "whole": True})
    ]  # fmt: skip


async def test_an_export_that_is_left_is_in_the_audit_too(system: PayCenterSystem) -> None:
    await seed(system, PAGE + 5)
    anne = await person(system, "anne", Role.FINANCE)
    before = await audit_end(system)
    pages = system.services.exports.orders(anne.caller, "shop", OrderFilter())
    async with aclosing(cast("Any", pages)) as opened:
        async for rows in opened:
            assert len(rows) == PAGE
            break
    (row,) = await audited(system, before)
    assert (row.operator, row.app_key, row.after) == ("anne", "shop", {"rows": PAGE, "whole": False})


async def test_so_many_exports_are_in_progress_at_most(system: PayCenterSystem) -> None:
    await seed(system, PAGE + 5)
    anne, ben, carl = [await person(system, name, Role.FINANCE) for name in ("anne", "ben", "carl")]

    async def begun(one: Person) -> Any:
        pages = system.services.exports.orders(one.caller, "shop", OrderFilter())
        await anext(pages)
        return pages

    first = await begun(anne)
    running = [first, await begun(anne), await begun(ben)]
    before = await audit_end(system)
    for who, allowed in ((anne, False), (ben, True), (carl, False)):
        if allowed:
            running.append(await begun(who))
            continue
        with pytest.raises(PayCenterError) as refused:
            await begun(who)
        assert refused.value.reason is Reason.TOO_MANY_CALLS
    assert not await audited(system, before)
    await first.aclose()
    running[0] = await begun(carl)
    for pages in running:
        await pages.aclose()


async def test_a_refused_export_is_a_page(console: Browser) -> None:
    await seed(console.system, PAGE + 5)
    console.system.services.exports._running["console"] = MOST_OF_ONE
    page = (await console.post("/orders/export?range=all", format="csv")).check()
    assert page.status == 429
    assert "Start it again when one has ended" in page.text


async def test_a_reader_that_does_not_read_is_cut_off(console: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep others from exporting, and its rows in memory."""
    monkeypatch.setattr(pages_of_exports, "PIECE_SECONDS", 0.2)
    await seed(console.system, MANY)
    before = await audit_end(console.system)
    cookies = console.client.session.cookie_jar.filter_cookies(console.client.make_url("/"))
    body = urlencode({"csrf": console.csrf, "format": "csv"})
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect((console.client.host, console.client.port))
    reader, writer = await asyncio.open_connection(sock=small, limit=1)
    writer.write(
        f"POST /orders/export?range=all HTTP/1.1\r\nHost: {console.client.host}:{console.client.port}\r\n"
        f"Cookie: {'; '.join(f'{one.key}={one.value}' for one in cookies.values())}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    assert b" 200 " in await reader.read(100)
    (row,) = await eventually(lambda: audited(console.system, before))
    assert row.after is not None
    assert not row.after["whole"]
    writer.close()


def test_a_workbook_has_as_many_sheets_as_it_needs() -> None:
    writer = XlsxWriter(rows_of_a_sheet=2)
    body = writer.begin(["n"]) + writer.rows([[1], ["two"], [3]]) + writer.rows([[4], [None]]) + writer.end()
    assert [cells_of(body, sheet) for sheet in (1, 2, 3)] == [[["n"], ["1"], ["two"]], [["n"], ["3"], ["4"]], [["n"], [""]]]


@pytest.mark.parametrize(("role", "status"), [(Role.VIEWER, 403), (Role.FINANCE, 200)])
async def test_who_may_export_and_what(system: PayCenterSystem, role: Role, status: int) -> None:
    await system.add_app("other", codes=("mock",))
    await system.paid("mock", merchant_order_id="OF-SHOP")
    async with browser_of(system, await person(system, "anne", role, ("other",))) as browser:
        assert ("/orders/export" in (await browser.get("/orders")).links("/orders/export")) is (status == 200)
        page = await browser.post("/orders/export?range=all", format="csv")
        assert page.status == status
        assert "OF-SHOP" not in page.html
        if status == 200:
            assert (await browser.post("/orders/export", format="exe")).status == 400
            assert (await browser.post("/orders/export?app=shop", format="csv")).status == 404
            assert (await browser.get("/orders/export?app=shop")).status == 404
