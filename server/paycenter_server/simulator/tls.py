"""The TLS listener, on which every client must show the merchant's certificate, as `/secapi` of WeChat Pay v2 asks for.

Clients trust `wechatpay/tls_cert.pem` (for 127.0.0.1 and localhost) and show `apiclient_cert.pem` with `apiclient_key.pem`.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from paycenter_server.simulator.certificates import private_pem
from paycenter_server.simulator.keys import SimulatorKeys

__all__ = ["server_context"]

_VALID_DAYS = 3650


def server_context(keys: SimulatorKeys) -> ssl.SSLContext:
    """The server's side; its own certificate is made when the folder has none."""
    certificate, key = keys.file("wechatpay", "tls_cert.pem"), keys.file("wechatpay", "tls_key.pem")
    if not (certificate.exists() and key.exists()):
        made, pem = _self_signed()
        with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(pem)
        certificate.write_bytes(made)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    # The root that issued the merchant's certificate is not kept, so the certificate itself is what is trusted.
    context.load_verify_locations(keys.file("wechatpay", "apiclient_cert.pem"))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _self_signed() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Channel simulator")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM), private_pem(key)
