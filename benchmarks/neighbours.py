"""Subjects in which the server shares its time: with a channel that it calls, with another app that lists, with too many calls."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
import threading
import time

from callbacks import CallbackSubjects
from fixtures import look_no_more, make_neighbour, make_orders
from paid_orders import WechatChannel
from paycenter.v1 import pay_order_service_pb2 as orders
from paycenter_server.channels.crypto import rsa_sign, rsa_verify
from paycenter_server.local.ports import free_port
from processes import HERE, Processes, generate, listening
from subjects import MARKER, SERVICE, Benchmark, Measured

SUBMITS = 600
CONNECTION_CALLS = 16


class Neighbours:
    """The subjects beside those of the benchmark."""

    def __init__(self, made: Processes, benchmark: Benchmark, callbacks: CallbackSubjects) -> None:
        self._made = made
        self._benchmark = benchmark
        self._callbacks = callbacks
        self._neighbour = ""

    def submit_wechat(self) -> None:
        """SubmitPayOrder of orders that were not submitted, by WeChat Pay Native at the simulator, and what each needs in any case:
        a create, an RSA signature, an RSA verification and a call of a bare aiohttp client, each at its highest rate."""
        benchmark, channel = self._benchmark, self._callbacks.prepared()
        made = asyncio.run(make_orders(self._made, benchmark.app, SUBMITS))
        submits = [orders.SubmitPayOrderRequest(id=number, channel_code="wx_native") for number, _ in made]
        benchmark.listed("submit WeChat", SERVICE + "SubmitPayOrder", submits)
        asyncio.run(look_no_more(self._made))
        if "create" not in benchmark.found:
            return
        create = benchmark.found["create"].cpu["server"][-1]
        needed = create + signature_microseconds(channel) + self._client_microseconds()
        measured = benchmark.found.setdefault("what it needs", Measured())
        measured.rates.append(1e6 / needed)
        measured.cpu.setdefault("server", []).append(needed)

    def _client_microseconds(self) -> float:
        command = [sys.executable, str(HERE / "bare_client.py"), f"{self._benchmark.receiver_url}/notify", "2000"]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return float(printed.split()[1])

    def beside_lists(self) -> None:
        """One create at a time of an app, while another app has 400 calls of ListPayOrders in progress."""
        benchmark = self._benchmark
        if not self._neighbour:
            pair = asyncio.run(make_neighbour(self._made))
            self._neighbour = "Basic " + base64.b64encode(pair.encode()).decode()
        message = orders.ListPayOrdersRequest(page_size=50).SerializeToString()
        lists = threading.Thread(
            target=generate, args=(benchmark.target, SERVICE + "ListPayOrders", message),
            kwargs={"authorization": benchmark.authorization, "seconds": 3.0, "parallel": 400},
        )  # fmt: skip
        lists.start()
        time.sleep(1.0)
        found = generate(
            benchmark.target, SERVICE + "CreatePayOrder", benchmark.create_message(), authorization=self._neighbour, marker=MARKER,
            first=benchmark.numbers(10_000), seconds=1.5, parallel=1, connections=1,
        )  # fmt: skip
        lists.join()
        self._benchmark.found.setdefault("create beside 400 lists", Measured()).add(found)

    def twice_the_load_held_back(self) -> None:
        """CreatePayOrder begun at twice the highest rate by 16 connections, of which each may have 16 calls at the same time."""
        port = free_port()
        settings = {"GRPC_ADDRESS": f"127.0.0.1:{port}", "CONNECTION_CALLS": str(CONNECTION_CALLS)}
        server = self._made.paycenter("serve", **settings)
        listening(port)
        target = f"127.0.0.1:{port}"
        self._benchmark.begin_at_rate(0.3, target)  # its statements are prepared
        self._benchmark.at_rate("create, twice the load, held back", 2.0, target, times=4.0)
        server.terminate()
        server.wait(20)


def signature_microseconds(channel: WechatChannel) -> float:
    """The processor time of one RSA-2048 signature and one verification."""
    key = channel.keys.alipay_key
    message, count, started = b"POST\n/v3/pay/transactions/native\n" + b"x" * 400, 500, time.process_time()
    for _ in range(count):
        assert rsa_verify(key.public_key(), message, rsa_sign(key, message))
    return (time.process_time() - started) / count * 1e6
