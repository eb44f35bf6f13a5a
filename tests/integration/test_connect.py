"""The Connect bridge: the services over HTTP and JSON, as curl, `buf curl` and browsers call them."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientSession
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from paycenter.v1 import pay_order_service_pb2 as pb
from paycenter_server.connections import Connections
from paycenter_server.http_connect.app import MAX_BODY, served
from paycenter_server.http_connect.messages import CODES
from paycenter_server.settings import Settings
from support.grpc_rig import Rig, key_of, open_rig, write_pem
from support.locks import transaction
from support.system import PayCenterSystem

PROTOS = Path(__file__).resolve().parents[2] / "protos"
CREATE, GET = "/paycenter.v1.PayOrderService/CreatePayOrder", "/paycenter.v1.PayOrderService/GetPayOrder"
ORIGIN = "https://desk.example.com"


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


@pytest.fixture
async def client(rig: Rig) -> AsyncIterator[ClientSession]:
    async with (
        served(rig.server.unary, "127.0.0.1", 0, {ORIGIN}, None, None, read_seconds=0.3) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as opened,
    ):
        yield opened


def order(system: PayCenterSystem, **more: Any) -> dict[str, Any]:
    return {"merchantOrderId": system.next_id(), "subject": "咖啡", "amount": "100", "userIp": "203.0.113.9", **more}


async def post(client: ClientSession, path: str, body: Any, rig: Rig | None = None, **headers: str) -> tuple[int, Any]:
    """Status and answer. With a rig: by the app's credentials."""
    given = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if rig is not None:
        given["Authorization"] = aiohttp.BasicAuth(*key_of(rig.system)).encode()
    async with client.post(path, data=body if isinstance(body, bytes | str) else json.dumps(body), headers=given) as answer:
        return answer.status, json.loads(await answer.read() or b"null") if "json" in answer.content_type else await answer.read()


async def test_an_order_as_json_and_as_protobuf(rig: Rig, client: ClientSession) -> None:
    new = order(rig.system)
    status, made = await post(client, CREATE, new, rig)
    assert (status, made["payOrder"]["amount"], made["payOrder"]["state"]) == (200, "100", "PAY_ORDER_STATE_WAITING")
    # Field names of the proto are taken too; the same order by gRPC.
    status, found = await post(client, GET, {"merchant_order_id": new["merchantOrderId"]}, rig)
    assert (status, found["payOrder"]["id"]) == (200, made["payOrder"]["id"])
    assert (await rig.shop.get_order(id=made["payOrder"]["id"])).subject == "咖啡"
    request = pb.GetPayOrderRequest(id=made["payOrder"]["id"]).SerializeToString()
    status, raw = await post(client, GET, request, rig, Content_Type="application/proto")
    assert status == 200
    assert pb.GetPayOrderResponse.FromString(raw).pay_order.subject == "咖啡"


async def test_every_method_is_there_and_none_without_credentials(rig: Rig, client: ClientSession) -> None:
    wanted = set()
    for file in PROTOS.glob("paycenter/v1/*_service.proto"):
        (service,) = re.findall(r"^service (\w+)", file.read_text(), re.MULTILINE)
        wanted |= {f"/paycenter.v1.{service}/{name}" for name in re.findall(r"^  rpc (\w+)", file.read_text(), re.MULTILINE)}
    assert set(rig.server.unary.methods) == wanted
    assert len(wanted) > 40
    for path in rig.server.unary.methods:
        status, error = await post(client, path, {})
        assert (status, error["code"]) == (401, "unauthenticated"), path
        # Credentials come first, so that nobody learns the fields of a method by trying.
        assert (await post(client, path, "{"))[0] == 401
    # The app's credentials do not administer.
    status, error = await post(client, "/paycenter.v1.PayAppService/ListPayApps", {}, rig)
    assert (status, error["code"]) == (403, "permission_denied")


async def test_rich_errors(rig: Rig, client: ClientSession) -> None:
    status, error = await post(client, GET, {"merchantOrderId": "nothing"}, rig, X_Request_Id="r-17")
    assert (status, error["code"]) == (404, "not_found")
    assert error["message"]
    (detail,) = error["details"]
    assert detail["type"] == "google.rpc.ErrorInfo"
    info = ErrorInfo.FromString(base64.b64decode(detail["value"] + "=="))
    assert (info.reason, info.domain, info.metadata["request_id"]) == ("ORDER_NOT_FOUND", "paycenter", "r-17")
    assert detail["debug"]["reason"] == "ORDER_NOT_FOUND"
    # Invalid values: each field is named.
    status, error = await post(client, CREATE, order(rig.system, amount="0", userIp="x"), rig)
    assert (status, error["code"]) == (400, "invalid_argument")
    fields = BadRequest.FromString(base64.b64decode(error["details"][1]["value"] + "==")).field_violations
    assert {one.field for one in fields} == {"amount", "user_ip"}


def violations(error: Any) -> set[str]:
    return {one["field"] for one in error["details"][1]["debug"]["fieldViolations"]}


async def test_what_is_not_a_message(rig: Rig, client: ClientSession) -> None:
    status, error = await post(client, CREATE, order(rig.system, amont=1, expire={"x": 1}), rig)
    assert (status, violations(error)) == (400, {"amont", "expire"})
    nested = {"appKey": "a", "code": "mock", "config": {"wechat_pay": {}, "generic": {"felds": {}}}}
    status, error = await post(client, "/paycenter.v1.PayChannelService/CreatePayChannel", nested, rig)
    assert status in (400, 403)
    nul = json.dumps({"merchantOrderId": "a\0b"})
    assert "\\u0000" in nul
    status, error = await post(client, GET, nul, rig)
    assert (status, violations(error)) == (400, {"merchant_order_id"})
    deep, digits = "[" * 5000, '{"amount": ' + "9" * 5000 + "}"
    surrogate = json.dumps(order(rig.system, subject="\ud800"))
    for body in (b"", b"{", b"[]", b"\xff", b'{"amount": {}}', deep, digits, surrogate, '{"subject": "a", "subject": "b"}'):
        status, error = await post(client, CREATE, body, rig)
        assert (status, violations(error)) == (400, {"request"}), body
    status, error = await post(client, CREATE, b"\xff\xff", rig, Content_Type="application/proto")
    assert (status, violations(error)) == (400, {"request"})


async def test_limits_and_headers(rig: Rig, client: ClientSession) -> None:
    status, error = await post(client, CREATE, order(rig.system, body="x" * MAX_BODY), rig)
    assert (status, error["code"]) == (429, "resource_exhausted")
    assert (await post(client, CREATE, {}, rig, Content_Type="text/plain"))[0] == 415
    for name, value, code in (
        ("Connect_Protocol_Version", "2", "invalid_argument"), ("Connect_Timeout_Ms", "12345678901", "invalid_argument"),
        ("Connect_Timeout_Ms", "-1", "invalid_argument"), ("Content_Encoding", "gzip", "unimplemented"),
    ):  # fmt: skip
        status, error = await post(client, CREATE, order(rig.system), rig, **{name: value})
        assert (status, error["code"]) == (dict(CODES.values())[code], code)
    status, error = await post(client, "/paycenter.v1.PayOrderService/Nothing", {}, rig)
    assert (status, error["code"]) == (501, "unimplemented")
    async with client.get(GET) as answer:
        assert answer.status == 405

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with client.post(CREATE, data=slow(), headers={"Content-Type": "application/json"}) as answer:
        assert (answer.status, (await answer.json())["code"]) == (503, "unavailable")


async def test_the_deadline(rig: Rig, client: ClientSession) -> None:
    """A call ends at its deadline, even if what it waits for does not."""
    new = order(rig.system)
    assert (await post(client, CREATE, new, rig, Connect_Timeout_Ms="10000"))[0] == 200
    async with transaction(rig.system) as connection:
        await connection.execute("SELECT 1 FROM pay_order WHERE merchant_order_id = $1 FOR UPDATE", new["merchantOrderId"])
        number = (await rig.shop.get_order(merchant_order_id=new["merchantOrderId"])).id
        path = "/paycenter.v1.PayOrderService/UpdatePayOrderPrice"
        status, error = await post(client, path, {"id": number, "amount": 7}, rig, Connect_Timeout_Ms="200")
        assert (status, error["code"]) == (504, "deadline_exceeded")
        assert error["details"][0]["debug"]["reason"] == "DEADLINE_EXCEEDED"
        assert len(error["details"][0]["debug"]["metadata"]["request_id"]) == 32, "the id of the lines in the log"


async def test_pages_of_other_sites(rig: Rig, client: ClientSession) -> None:
    for origin, allowed in ((ORIGIN, True), ("https://evil.example", False), ("null", False)):
        async with client.options(CREATE, headers={"Origin": origin, "Access-Control-Request-Method": "POST"}) as answer:
            assert (answer.status == 204, answer.headers.get("Access-Control-Allow-Origin")) == (
                allowed,
                origin if allowed else None,
            )
        async with client.post(CREATE, json={}, headers={"Origin": origin}) as answer:
            assert answer.headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)
            assert answer.status == 401
    async with (
        served(rig.server.unary, "127.0.0.1", 0, frozenset(), None, None) as port,
        client.options(f"http://127.0.0.1:{port}{CREATE}", headers={"Origin": ORIGIN}) as answer,
    ):
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_buf_curl(rig: Rig) -> None:
    """A client of the protocol that others have written, with the schema of the tree."""
    key_id, secret = key_of(rig.system)
    async with served(rig.server.unary, "127.0.0.1", 0, frozenset(), None, None) as port:

        async def curl(method: str, data: dict[str, Any]) -> tuple[int, str, str]:
            process = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).with_name("buf")), "curl", "--schema", str(PROTOS), "--user", f"{key_id}:{secret}",
                "--data", json.dumps(data), f"http://127.0.0.1:{port}/paycenter.v1.PayOrderService/{method}",
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, problems = await process.communicate()
            return process.returncode or 0, out.decode(), problems.decode()

        new = order(rig.system)
        code, out, problems = await curl("CreatePayOrder", new)
        assert code == 0, problems
        assert json.loads(out)["payOrder"]["merchantOrderId"] == new["merchantOrderId"]
        code, out, problems = await curl("GetPayOrder", {"merchantOrderId": "nothing"})
        assert code != 0
        assert json.loads(problems)["code"] == "not_found"
        assert re.search(r"ORDER_NOT_FOUND", problems)


async def test_connections_that_send_nothing_make_room_for_others(rig: Rig) -> None:
    """They would use up the file descriptors of the process, which gRPC and the database need too."""
    connections = Connections(3)
    async with served(rig.server.unary, "127.0.0.1", 0, frozenset(), None, None, connections=connections) as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        async with asyncio.timeout(10):
            for reader, _ in idle[:2]:
                assert await reader.read() == b""
        assert len(connections) == 3
        async with ClientSession(f"http://127.0.0.1:{port}") as client:
            assert (await post(client, GET, {}, rig))[0] == 400
        for _, writer in idle:
            writer.close()


async def test_tls(rig: Rig, tmp_path: Path) -> None:
    tls, pem = write_pem(tmp_path)
    trusted = ssl.create_default_context(cadata=pem.decode())
    async with (
        served(rig.server.unary, "localhost", 0, frozenset(), tls.certificate, tls.key) as port,
        aiohttp.ClientSession(f"https://localhost:{port}") as client,
        client.post(GET, json={}, ssl=trusted) as answer,
    ):
        assert answer.status == 401


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        ("connect_origins", "https://desk.example.com, http://127.0.0.1:3000", True), ("connect_origins", "*", False),
        ("connect_origins", "https://desk.example.com/", False), ("connect_origins", "desk.example.com", False),
        ("connect_address", "", True), ("connect_address", "127.0.0.1:8904", True), ("connect_address", "8904", False),
    ],
)  # fmt: skip
def test_settings(name: str, value: str, good: bool) -> None:
    given: dict[str, Any] = {
        "database_url": "postgresql://u@h/d", "master_key_file": "k", "PAYCENTER_ORDER_CALLBACK_URL": "https://pay.test/o",
        "PAYCENTER_REFUND_CALLBACK_URL": "https://pay.test/r", name: value,
    }  # fmt: skip
    if good:
        found = Settings(**given)
        assert "*" not in found.connect_allowed_origins
        assert len(found.connect_allowed_origins) == value.count("://")
    else:
        with pytest.raises(ValueError, match=name):
            Settings(**given)
