"""The only outbound channel I/O.

`Transport` is a port: tests may replace it with a channel that answers wrongly or not at all. A failure after bytes may have been
sent is a TransportUnclearError; the caller stores UNKNOWN, never a failure (rule 2). A failure before that is a NotSentError: the
channel has not received the request.
"""

from __future__ import annotations

import os
import ssl
from typing import Protocol
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import aiohttp
import yarl

from paycenter_server.channels.protocol import ClientCertificate, HttpRequest, HttpResponse
from paycenter_server.domain.guard import refuse_in_transaction

MAX_ANSWER = 4 * 1024 * 1024
MOST_CONNECTIONS = 512
"""More than both jobs use with all their places (128 each), so that calls for callers find some too."""


class TransportUnclearError(Exception):
    """There is no usable answer: time-out, reset, or an answer that is too large. The text states which."""


class NotSentError(TransportUnclearError):
    """The request was not sent: no such host, connection refused, failed TLS handshake, or an invalid address."""


class Transport(Protocol):
    """Sends one request to a channel."""

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        """The answer within these seconds, with any status; TransportUnclearError or NotSentError otherwise."""
        ...


def client_context(certificate: ClientCertificate) -> ssl.SSLContext:
    """A TLS context with a client certificate. OpenSSL needs a file, which is in memory, so that no key is on disk."""
    context = ssl.create_default_context()
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, certificate.certificate.rstrip() + b"\n" + certificate.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context


def _failure(error: Exception, url: str, seconds: float) -> TransportUnclearError:
    """The error for a failure, which depends on whether the request may have been sent."""
    host = urlsplit(url).hostname if "://" in url else None
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return NotSentError(f"no such host: {host}")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return NotSentError(f"the certificate of {host} is not trusted: {error.certificate_error}"[:300])
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return NotSentError(f"the TLS handshake with {host} failed: {error.os_error}"[:300])
    if isinstance(error, aiohttp.ClientConnectorError):
        refused = isinstance(error.os_error, ConnectionRefusedError)
        return NotSentError(f"connection refused by {host}" if refused else f"no connection to {host}: {error.os_error}"[:300])
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return NotSentError(f"no connection to {host} in time")
    if isinstance(error, TimeoutError):
        return TransportUnclearError(f"no answer within {seconds:g} s")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return TransportUnclearError("the connection was closed before an answer came")
    if isinstance(error, ConnectionResetError):
        return TransportUnclearError("the connection was reset before the whole answer came")
    if isinstance(error, aiohttp.ClientPayloadError):
        return TransportUnclearError("the connection was closed before the whole answer came, or the answer cannot be decoded")
    if isinstance(error, aiohttp.ClientResponseError):
        return TransportUnclearError(f"the answer is not HTTP: {error.message}"[:300])
    if isinstance(error, ValueError | aiohttp.NonHttpUrlClientError):  # headers and address are checked before anything is sent
        return NotSentError(f"the request cannot be sent: {error or type(error).__name__}"[:300])
    return TransportUnclearError(f"{type(error).__name__}: {error}".removesuffix(": ")[:300])


class AiohttpTransport:
    """One keep-alive session for all channels. Redirects are not followed, because the channels' APIs have none."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._contexts: WeakKeyDictionary[ClientCertificate, ssl.SSLContext] = WeakKeyDictionary()

    def _tls(self, certificate: ClientCertificate | None) -> ssl.SSLContext | bool:
        if certificate is None:
            return True
        context = self._contexts.get(certificate)
        if context is None:
            context = self._contexts[certificate] = client_context(certificate)
        return context

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            # No limit by host: all accounts of a family have the same one, and one that hangs must not delay the others. The
            # places of the accounts limit the jobs (`services/accounts_places.py`).
            connector = aiohttp.TCPConnector(limit=MOST_CONNECTIONS, limit_per_host=0, keepalive_timeout=30)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=True, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        """See Transport. URL and body are sent byte for byte as given, because they were signed."""
        refuse_in_transaction()
        try:
            async with self._open().request(
                request.method,
                yarl.URL(request.url, encoded=True),
                headers=list(request.headers),
                data=request.body or None,
                allow_redirects=False,
                ssl=self._tls(request.client_certificate),
                timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, 5)),
            ) as response:
                body = await response.content.read(MAX_ANSWER + 1)
                while len(body) <= MAX_ANSWER and not response.content.at_eof():
                    body += await response.content.read(MAX_ANSWER + 1 - len(body))
                if len(body) > MAX_ANSWER:
                    raise TransportUnclearError(f"the answer is larger than {MAX_ANSWER} bytes")
                headers = {name.lower(): value for name, value in response.headers.items()}
                return HttpResponse(response.status, headers, body)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise _failure(error, request.url, seconds) from error

    async def aclose(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()
