"""Sessions, cross-site requests, login limits, cookies, static files."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
from pathlib import Path

import pytest
import structlog
from paycenter_server.cli.console import console_parts
from paycenter_server.connections import Connections
from paycenter_server.domain.sessions import IDLE_SECONDS, NAME_DELAYS
from paycenter_server.http_console import assets
from paycenter_server.http_console.app import create_app, serve
from paycenter_server.http_console.security import local_path
from paycenter_server.local.ports import accepts
from support.console_rig import Browser, open_console
from support.ports import free_port
from support.system import OPERATOR, PayCenterSystem
from support.waiting import eventually


async def test_without_a_session_every_page_leads_to_the_login(system: PayCenterSystem) -> None:
    async with open_console(system) as console:
        for path in ("/", "/orders", "/orders/O1", "/apps/shop", "/search?q=1", "/nothing"):
            page = (await console.get(path)).check()
            assert page.url.startswith("/login?next=/"), path
            assert page.status == 200
        page = await console.post_raw("/apps/shop/secret")
        assert page.url == "/login"
        # htmx would put the login page into a part of the page.
        async with console.client.get("/search/live?q=abc", headers={"HX-Request": "true"}) as response:
            assert (response.status, response.headers["HX-Refresh"]) == (204, "true")


async def test_the_login_leads_back_to_the_page(system: PayCenterSystem) -> None:
    async with open_console(system) as console:
        wrong = (await console.post_raw("/login", name=console.name, password="wrong", next="/health")).check()
        assert wrong.status == 401
        assert "The name or the password is wrong." in wrong.text
        page = await console.post_raw("/login", name=console.name, password=console.password, next="/health")
        assert page.url == "/health"
        assert (await console.get("/login")).url == "/"


async def test_credentials_do_not_log_in(system: PayCenterSystem) -> None:
    credential, secret = await system.services.credentials.create(OPERATOR, "shop", "x")
    of_operator = await system.services.credentials.create_operator("robot")
    async with open_console(system) as console:
        for name, password in ((credential.key_id, secret), of_operator):
            assert (await console.post_raw("/login", name=name, password=password)).status == 401


@pytest.mark.parametrize("path", ["https://evil.test/", "//evil.test", "/\\evil.test", "javascript:alert(1)", "x", "", "/a\nb"])
def test_a_login_does_not_lead_to_another_site(path: str) -> None:
    assert local_path(path) == "/"


async def test_a_session_ends_by_logout_and_by_time(system: PayCenterSystem) -> None:
    async with open_console(system) as console:
        await console.login()
        assert (await console.post("/logout")).url == "/login"
        assert (await console.get("/health")).url.startswith("/login")
        await console.login()
        await console.system.value("UPDATE pay_session SET used_time = used_time - make_interval(secs => $1)", IDLE_SECONDS + 1)
        assert (await console.get("/health")).url.startswith("/login")


async def test_failed_logins_are_refused_after_some(system: PayCenterSystem) -> None:
    async with open_console(system) as console:
        for _ in range(NAME_DELAYS.free + 1):
            assert (await console.post_raw("/login", name=console.name, password="x")).status == 401
        page = (await console.post_raw("/login", name=console.name, password=console.password)).check()
        assert page.status == 429


async def test_a_post_needs_the_token_of_its_session(console: Browser) -> None:
    before = await console.system.value("SELECT notification_secret FROM pay_app WHERE app_key = 'shop'")
    for fields in ({}, {"csrf": ""}, {"csrf": "x" * 32}):
        page = await console.post_raw("/apps/shop/secret", None, **fields)
        assert page.status == 403, fields
        page.check()
    foreign: list[dict[str, str]] = [{"Origin": "https://evil.test"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
    for headers in foreign:
        assert (await console.post_raw("/apps/shop/secret", headers, csrf=console.csrf)).status == 403, headers
        assert (await console.post_raw("/login", headers, name=console.name, password=console.password)).status == 403
    assert await console.system.value("SELECT notification_secret FROM pay_app WHERE app_key = 'shop'") == before
    assert (await console.get("/apps/shop/secret")).status == 405


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Encoding": "gzip", "Content-Type": "application/x-www-form-urlencoded"}, b"abc", 415),
        ({"Content-Encoding": "deflate", "Content-Type": "application/x-www-form-urlencoded"}, b"\xff\xff", 415),
        ({"Content-Type": "application/x-www-form-urlencoded; charset=nothing"}, b"name=a", 400),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"name=\xff\xfe", 400),
        ({"Content-Type": "multipart/form-data"}, b"name", 400),
    ],
)
async def test_a_body_that_is_no_form_is_refused(console: Browser, headers: dict[str, str], body: bytes, status: int) -> None:
    for path in ("/login", "/apps/shop/secret"):
        with structlog.testing.capture_logs() as logs:
            async with console.client.post(path, data=body, headers=headers) as response:
                assert response.status == status, path
        assert not [entry for entry in logs if entry["log_level"] == "error"], logs


@pytest.mark.parametrize(
    ("path", "size", "status"), [("/login", "20000", 413), ("/preferences", "", 413), ("/apps/shop/secret", "1000000", 303)]
)
async def test_without_a_session_no_large_form_is_read(system: PayCenterSystem, path: str, size: str, status: int) -> None:
    """It would be in memory before anybody is asked for a password. The answer comes before the body."""
    async with open_console(system) as console:
        length = f"Content-Length: {size}" if size else "Transfer-Encoding: chunked"
        reader, writer = await asyncio.open_connection(console.client.host, console.client.port)
        writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
        async with asyncio.timeout(10):
            assert f" {status} ".encode() in await reader.readline()
        writer.close()


async def test_connections_that_send_nothing_make_room_for_others(system: PayCenterSystem) -> None:
    stop, port, connections = asyncio.Event(), free_port(), Connections(3)
    app = create_app(console_parts(system.services, system.settings))
    serving = asyncio.create_task(serve(app, "127.0.0.1", port, stop, connections=connections))
    await eventually(lambda: accepts(port))
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
    async with asyncio.timeout(10):
        for reader, _ in idle[:2]:
            assert await reader.read() == b""
    assert len(connections) == 3
    async with system.session.get(f"http://127.0.0.1:{port}/login") as response:
        assert response.status == 200
    for _, writer in idle:
        writer.close()
    stop.set()
    await serving


async def test_every_form_has_the_token(console: Browser) -> None:
    await console.system.paid()
    pages = ["/", "/orders", "/apps/shop", "/accounts/new", "/apps/new"]
    pages += (await console.get("/orders")).links("/orders/O") + (await console.get("/accounts")).links("/accounts/M")
    for path in pages:
        html = (await console.get(path)).html
        for form in re.findall(r'<form method="post".*?</form>', html, re.DOTALL):
            assert f'name="csrf" value="{console.csrf}"' in form, path


async def test_the_cookie_is_tied_to_the_host_with_https(system: PayCenterSystem) -> None:
    async with open_console(system) as console:
        for headers, name in (({}, "paycenter"), ({"X-Forwarded-Proto": "https"}, "__Host-paycenter")):
            form = {"name": console.name, "password": console.password}
            async with console.client.post("/login", data=form, headers=headers, allow_redirects=False) as response:
                cookie = response.headers["Set-Cookie"]
                assert cookie.startswith(f"{name}=")
                assert ("Secure" in cookie) == (name != "paycenter")
                assert "HttpOnly" in cookie
                assert "SameSite=Lax" in cookie
                assert "Path=/" in cookie
                assert "Domain" not in cookie


async def test_the_language_follows_the_browser_and_the_choice(system: PayCenterSystem) -> None:
    async with open_console(system) as console:
        assert "登录" in (await console.get("/login", **{"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"})).text
        assert "Log in" in (await console.get("/login", **{"Accept-Language": "en-US,zh;q=0.5"})).text
        assert "Log in" in (await console.get("/login", **{"Accept-Language": "fr;q=x, *"})).text
        page = await console.post_raw("/preferences", language="zh", next="/login?next=%2Forders")
        assert page.url == "/login?next=/orders"
        assert "登录" in page.text
        page = await console.post_raw("/preferences", theme="dark", next="//evil.test")
        assert 'data-bs-theme="dark"' in page.html
        assert page.url.startswith("/login")


async def test_static_files(system: PayCenterSystem) -> None:
    async with open_console(system) as console:
        page = await console.get("/login")
        paths = [values.get("src") or values.get("href") for tag, values in page.elements if tag in ("script", "link")]
        for path in paths:
            assert path is not None
            async with console.client.get(path, headers={"Accept-Encoding": "gzip"}) as response:
                assert response.status == 200
                assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
                assert response.headers["Content-Encoding"] == "gzip"
                assert response.headers["X-Content-Type-Options"] == "nosniff"
        async with console.client.get("/static/old/console.css") as response:
            assert (response.status, response.headers["Cache-Control"]) == (200, "no-cache")
        for path in ("/static/x/VENDORED.md", "/static/x/..%2fapp.py", "/static/x/nothing.js"):
            async with console.client.get(path) as response:
                assert response.status == 404, path
        for path in ("/healthz", "/readyz"):
            async with console.client.get(path) as response:
                assert (response.status, await response.text()) == (200, "ok")


def test_vendored_files_are_those_that_are_listed() -> None:
    folder = assets.FOLDER
    listed = re.findall(r"^\| ([a-z.]+) \| .* \| ([0-9a-f]{64}) \|$", (folder / "VENDORED.md").read_text(), re.MULTILINE)
    assert {name for name, _ in listed} == {"tabler.min.css", "htmx.min.js", "chart.umd.min.js"}
    for name, expected in listed:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected, name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_100_000
    loaded = assets.Assets(Path(folder))
    assert gzip.decompress(loaded.files["htmx.min.js"].compressed) == (folder / "htmx.min.js").read_bytes()
