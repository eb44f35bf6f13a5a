"""Just enough of PostgreSQL's protocol to ask a starting server something.

The drivers cost more time to import than the server needs to start, so the supervisor speaks the few messages itself: start-up,
SCRAM-SHA-256 (which also proves that the server knows our password's verifier: it is ours) and the simple query.
"""

import base64
import hashlib
import hmac
import secrets
import socket
import struct
from collections.abc import Callable

from paycenter_server.local.ports import HOST

Row = tuple[str | None, ...]


class WireError(Exception):
    """The server's error answer; `code` is its SQLSTATE, empty if it broke the protocol."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def query(port: int, user: str, password: str, database: str, statement: str, *, timeout: float = 5.0) -> list[Row]:
    """Run one statement on a connection of its own; rows as text. `timeout` in seconds for each step. Raises WireError, OSError."""
    with socket.create_connection((HOST, port), timeout) as connection, connection.makefile("rb") as stream:
        wire = _Wire(connection, stream.read)
        options = {"user": user, "database": database, "client_encoding": "UTF8"}
        body = b"".join(f"{key}\0{value}\0".encode() for key, value in options.items()) + b"\0"
        connection.sendall(struct.pack("!ii", len(body) + 8, 196608) + body)
        _authenticate(wire, password)
        while wire.receive()[0] != b"Z":
            pass
        wire.send(b"Q", statement.encode() + b"\0")
        rows: list[Row] = []
        while True:
            kind, body = wire.receive()
            if kind == b"D":
                rows.append(_row(body))
            elif kind == b"Z":
                wire.send(b"X", b"")
                return rows


class _Wire:
    def __init__(self, connection: socket.socket, read: Callable[[int], bytes]) -> None:
        self._connection, self._read = connection, read

    def send(self, kind: bytes, body: bytes) -> None:
        self._connection.sendall(kind + struct.pack("!i", len(body) + 4) + body)

    def receive(self) -> tuple[bytes, bytes]:
        """The next message; an error answer is raised."""
        head = self._read(5)
        if len(head) < 5:
            raise WireError("", "the server closed the connection")
        kind, body = head[:1], self._read(struct.unpack("!i", head[1:])[0] - 4)
        if kind == b"E":
            fields = {field[:1]: field[1:].decode(errors="replace") for field in body.split(b"\0") if field}
            raise WireError(fields.get(b"C", ""), fields.get(b"M", "unknown error"))
        return kind, body


def _authenticate(wire: _Wire, password: str) -> None:
    """SCRAM-SHA-256 without channel binding (RFC 7677). Anything weaker that the server might ask for is refused."""
    nonce = base64.b64encode(secrets.token_bytes(18)).decode()
    first = f"n=,r={nonce}"
    _expect(wire, 10)
    initial = f"n,,{first}".encode()
    wire.send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(initial)) + initial)
    challenge = _expect(wire, 11).decode()
    given = dict(item.split("=", 1) for item in challenge.split(","))
    if not given["r"].startswith(nonce):
        raise WireError("", "the server answered with another nonce")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(given["s"]), int(given["i"]))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    final = f"c=biws,r={given['r']}"
    message = f"{first},{challenge},{final}".encode()
    signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    wire.send(b"p", f"{final},p={base64.b64encode(proof).decode()}".encode())
    expected = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
    if not hmac.compare_digest(_expect(wire, 12), b"v=" + base64.b64encode(expected)):
        raise WireError("", "the server does not know our password: it is not ours")
    _expect(wire, 0)


def _expect(wire: _Wire, step: int) -> bytes:
    kind, body = wire.receive()
    if kind != b"R" or struct.unpack("!i", body[:4])[0] != step:
        raise WireError("", "the server asks for another kind of authentication")
    return body[4:]


def _row(body: bytes) -> Row:
    (count,), at = struct.unpack("!h", body[:2]), 2
    values: list[str | None] = []
    for _ in range(count):
        (size,) = struct.unpack("!i", body[at : at + 4])
        at += 4
        values.append(None if size < 0 else body[at : at + size].decode())
        at += max(size, 0)
    return tuple(values)
