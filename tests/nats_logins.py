"""Certificates, nkeys and JWTs as an operator of NATS makes them, for tests."""

from __future__ import annotations

import base64
import json
import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import nkeys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Authority:
    """A private CA. ``file``: its certificate."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder, self._name = folder, _named(f"{name} of a test")
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._public = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        use = x509.KeyUsage(*[False] * 5, key_cert_sign=True, crl_sign=True, encipher_only=False,
                            decipher_only=False)  # fmt: skip
        certificate = (
            self._certificate(self._name, self._key, datetime.now(UTC) + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(use, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _certificate(self, subject: x509.Name, key: Any, until: datetime) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(until - timedelta(days=2))
            .not_valid_after(until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._public), critical=False
            )
        )

    def issue(
        self, name: str, host: str = "127.0.0.1", *, days: float = 1, password: bytes | None = None
    ) -> tuple[Path, Path]:
        """Certificate and key for a host or a client: two PEM files."""
        try:
            where: x509.GeneralName = x509.IPAddress(ip_address(host))
        except ValueError:
            where = x509.DNSName(host)
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._certificate(_named(name), key, datetime.now(UTC) + timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([where]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        cert_file, key_file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        key_file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
        )
        return cert_file, key_file


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Nkey:
    """A new key of a user, an account or an operator. ``seed`` is secret."""

    def __init__(self, prefix: int = nkeys.PREFIX_BYTE_USER) -> None:
        self.seed: bytes = nkeys.encode_seed(secrets.token_bytes(32), prefix)
        self.public = str(nkeys.from_seed(bytearray(self.seed)).public_key.decode())

    def sign(self, data: bytes) -> bytes:
        signature: bytes = nkeys.from_seed(bytearray(self.seed)).sign(data)
        return signature

    def written(self, file: Path) -> Nkey:
        """Its seed, in a file."""
        file.write_bytes(self.seed + b"\n")
        return self

    def token(self, subject: Nkey, name: str, claims: dict[str, Any], **more: Any) -> str:
        """A JWT by which this key says something of another (NATS JWT, version 2)."""
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        body = {
            "jti": secrets.token_hex(16), "iat": int(datetime.now(UTC).timestamp()), "iss": self.public,
            "sub": subject.public, "name": name, "nats": claims | {"version": 2}, **more,
        }  # fmt: skip
        said = ".".join(_base64(json.dumps(part).encode()) for part in (header, body))
        return f"{said}.{_base64(self.sign(said.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


ALL = {"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1,
       "wildcards": True, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}  # fmt: skip


class Operator:
    """An operator with one account for the fleet. ``configuration``: of a server that trusts him."""

    def __init__(self) -> None:
        operator, system = Nkey(nkeys.PREFIX_BYTE_OPERATOR), Nkey(nkeys.PREFIX_BYTE_ACCOUNT)
        self._account = Nkey(nkeys.PREFIX_BYTE_ACCOUNT)
        limits = {"type": "account", "limits": ALL}
        known = {
            self._account.public: operator.token(self._account, "fleet", limits),
            system.public: operator.token(system, "system", {"type": "account", "limits": ALL | {
                "mem_storage": 0, "disk_storage": 0, "streams": 0, "consumer": 0}}),
        }  # fmt: skip
        preload = "\n".join(f"  {key}: {token}" for key, token in known.items())
        self.configuration = (
            f"operator: {operator.token(operator, 'operator', {'type': 'operator'})}\n"
            f"system_account: {system.public}\nresolver: MEMORY\nresolver_preload: {{\n{preload}\n}}\n"
        )

    def credentials(self, file: Path, permissions: dict[str, Any] | None = None, **more: Any) -> Nkey:
        """Write a credentials file of a new user."""
        user = Nkey()
        claims = {"type": "user", "subs": -1, "data": -1, "payload": -1, **(permissions or {})}
        token = self._account.token(user, file.stem, claims, **more)
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return user
