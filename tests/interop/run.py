"""Other people's SDKs against our simulator, and against requests that our codecs built: `python tests/interop/run.py`.

Makes two throw-away environments below `.interop/` (once; the stamp names what is in them), starts the simulator as a process with
generated keys and a receiver of notifications, and runs `wechat_client.py` and `alipay_client.py` in their environments. The last
line is `N passed, N failed`; the exit code is 1 if anything failed.

Hook for our codecs: if `build_requests.py` stands beside this file it is run first, in this interpreter, as

    python build_requests.py KEYS_DIR BASE_URL NOTIFY_URL OUTPUT_FILE

and writes OUTPUT_FILE (`requests_our_codecs_built.json`); `--requests FILE` takes a file that exists already (its requests must be
signed with the keys of `.interop/keys`). Its form, one entry for each request as it would go over the wire:

    {"wechatpay": [{"name": "native", "method": "POST", "url": "http://…/v3/…", "headers": {"Authorization": "…"}, "body": "…"}],
     "alipay":    [{"name": "precreate", "method": "POST", "url": "http://…/gateway.do?…", "headers": {}, "body": "biz_content=…"}]}

url is percent-encoded exactly as sent; body is the text of the raw body, "" for none. The SDKs check each signature with the
merchant's certificate or the application's public key.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HOME = HERE.parents[1] / ".interop"
PACKAGES = {
    "wechatpay": "wechatpayv3[async]==2.0.4", "alipay": "python-alipay-sdk==3.4.0", "official": "alipay-sdk-python==3.7.1411",
}  # fmt: skip
CLIENTS = {"wechatpay": "wechat_client.py", "alipay": "alipay_client.py", "official": "alipay_official_client.py"}
CLIENT_SECONDS = 120


def environment(channel: str) -> Path:
    """The interpreter of a channel's environment, made if its stamp does not match."""
    folder = HOME / channel
    stamp, wanted = folder / "stamp", f"{PACKAGES[channel]} {sys.version}"
    python = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", PACKAGES[channel]]
        subprocess.run(pip, check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python


@contextlib.contextmanager
def receiver(inbox: Path) -> Iterator[str]:
    """A merchant's notification address that writes raw headers and body to files, and accepts everything."""
    serial = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            document = {"path": self.path, "headers": dict(self.headers), "body": base64.b64encode(body).decode()}
            name = f"{next(serial):06d}.json"
            (inbox / (name + ".part")).write_text(json.dumps(document), encoding="utf-8")
            (inbox / (name + ".part")).rename(inbox / name)
            self.send_response(200)
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"success")

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/notify"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def simulator(keys: Path) -> Iterator[str]:
    """The simulator as a process of its own; yields its address."""
    command = [sys.executable, "-m", "paycenter_server.simulator", "--port", "0", "--keys", str(keys)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the simulator did not start")
        yield line.split()[-1]
    finally:
        process.terminate()
        process.wait(10)


def our_requests(file: Path | None, keys: Path, base: str, notify_url: str, work: Path) -> dict[str, list[dict[str, Any]]]:
    """HOOK: what our codecs built, from --requests or from build_requests.py; nothing if there is neither."""
    builder = HERE / "build_requests.py"
    if file is None and builder.exists():
        file = work / "requests_our_codecs_built.json"
        subprocess.run([sys.executable, str(builder), str(keys), base, notify_url, str(file)], check=True, timeout=CLIENT_SECONDS)
    if file is None:
        print("note: no build_requests.py, so no requests of our codecs are checked")
        return {}
    document: dict[str, list[dict[str, Any]]] = json.loads(file.read_text(encoding="utf-8"))
    unknown = set(document) - set(CLIENTS)
    if unknown:
        raise ValueError(f"unknown channels in {file}: {', '.join(sorted(unknown))}")
    return document


def run_client(channel: str, python: Path, settings: Path) -> tuple[int, int]:
    """Passed and failed checks of one client program; one that dies counts as a failure."""
    loopback = {**os.environ, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(python), str(HERE / CLIENTS[channel]), str(settings)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=loopback, timeout=CLIENT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        print(f"FAIL {CLIENTS[channel]} took longer than {CLIENT_SECONDS} s")
        return 0, 1
    print(done.stdout, end="")
    lines = done.stdout.splitlines()
    passed, failed = (sum(line.startswith(word) for line in lines) for word in ("PASS ", "FAIL "))
    if not failed and (done.returncode or not passed):
        print(f"FAIL {CLIENTS[channel]} ended with {done.returncode}")
        failed = 1
    return passed, failed


def main() -> int:
    """Everything; the exit code."""
    parser = argparse.ArgumentParser(description="Run other people's SDKs against the simulator.")
    parser.add_argument("--requests", type=Path, help="requests_our_codecs_built.json, instead of running build_requests.py")
    arguments = parser.parse_args()
    HOME.mkdir(exist_ok=True)
    keys = HOME / "keys"
    passed = failed = 0
    pythons = {channel: environment(channel) for channel in CLIENTS}
    with tempfile.TemporaryDirectory() as temporary, simulator(keys) as base:
        work = Path(temporary)
        inbox = work / "inbox"
        inbox.mkdir()
        with receiver(inbox) as notify_url:
            requests = our_requests(arguments.requests, keys, base, notify_url, work)
            for channel, python in pythons.items():
                settings = work / f"{channel}.json"
                values = {"base": base, "keys": str(keys), "notify_url": notify_url, "inbox": str(inbox)}
                settings.write_text(json.dumps(values | {"requests": requests.get(channel, [])}), encoding="utf-8")
                good, bad = run_client(channel, python, settings)
                passed, failed = passed + good, failed + bad
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
