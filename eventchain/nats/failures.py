"""What went wrong with a server, for people."""

from __future__ import annotations

import ssl

from nats import errors

from eventchain.nats.urls import ServerURL

WANTED = "it may want a certificate of its own CA: --tls-cert and --tls-key; its log says why"


class NoTLSError(errors.Error):  # type: ignore[misc]  # nats-py has no types
    def __str__(self) -> str:
        return "the server offers no TLS"


def explained(error: BaseException, *urls: ServerURL) -> tuple[str, str]:
    """What a client's error says, for people, and a hint, empty where there is nothing to say."""
    said, hint = _explained(error)
    for secret in filter(None, (secret for url in urls for secret in url.secrets)):
        said = said.replace(secret, "***")
    return f"{', '.join(url.shown for url in urls)}: {said}", hint


def forbids(said: object) -> bool:
    """Whether this says that a login may not publish or subscribe to something."""
    return "permissions violation" in str(said).lower()


def _explained(error: BaseException) -> tuple[str, str]:
    if isinstance(error, ssl.SSLCertVerificationError):
        said = f"the server's certificate is not accepted: {error.verify_message.rstrip('.')}"
        if "mismatch" in said:
            return said, "connect by a name that stands in the certificate"
        if "expired" in said or "not yet valid" in said:
            return said, "renew it, or set the clock of this host"
        return said, "trust its CA: --tls-ca, or tls_ca in [fleet], or the variable SSL_CERT_FILE"
    if isinstance(error, ssl.SSLError):
        said = (error.reason or str(error)).replace("_", " ").lower()
        if "alert" in said:  # what the other side says
            return f"the server refuses TLS with us: {said}", WANTED
        return f"TLS fails: {said}", "does the server speak TLS there?"
    if isinstance(error, ConnectionResetError | BrokenPipeError):  # its alert may be lost on the way
        return "the server ends the connection", WANTED
    if isinstance(error, NoTLSError):
        return str(error), "write nats:// and no TLS files, if it may be in the clear"
    said = str(error).removeprefix("nats: ").strip("'") or "it does not answer"
    if forbids(error):
        return (
            f"not allowed: {said}",
            "the user's permissions name subjects, and in them this host: docs/fleet.md",
        )
    if "authorization violation" in said.lower() or "authentication" in said.lower():
        return (
            f"it does not let us in: {said}",
            "does it know this user, nkey or JWT, and does that still hold?",
        )
    return said, ""
