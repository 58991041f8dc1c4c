"""A webhook: the watermark as a CloudEvent 1.0 in structured JSON, signed with HMAC-SHA-256.

The signature is over the body's bytes, in hex in the header ``X-EventChain-Signature: sha256=…``. A receiver
that remembers the greatest ``size`` it has seen is safe from repetitions and from replayed requests.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import urllib.request
from datetime import UTC, datetime
from urllib.parse import urlsplit

from eventchain.errors import ConfigError
from eventchain.service.watermark import Watermark

SECRET = "EVENTCHAIN_WEBHOOK_SECRET"
"""The environment variable with the key, which belongs into no configuration file."""
TYPE = "eventchain.sealed"
TIMEOUT = 10.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, whose success tells nobody anything."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


class Webhook:
    name = "webhook"

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            sound = parts.scheme in ("https", "http") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            sound = False
        if not sound or "@" in parts.netloc or not (url.isascii() and url.isprintable() and " " not in url):
            raise ConfigError(
                "the webhook is no http or https URL", hint="no user and password either: it would be logged"
            )
        secret = os.environ.get(SECRET, "")
        if not secret:
            raise ConfigError("the webhook has no key to sign with", hint=f"set {SECRET}")
        self._url, self._secret = url, secret.encode()

    def announce(self, mark: Watermark) -> None:
        body = json.dumps(cloud_event(mark), separators=(",", ":")).encode()
        request = urllib.request.Request(self._url, body, method="POST")
        request.add_header("Content-Type", "application/cloudevents+json")
        request.add_header("X-EventChain-Signature", f"sha256={signature(self._secret, body)}")
        with _OPENER.open(request, timeout=TIMEOUT) as answer:
            answer.read(1024)

    def close(self) -> None:
        pass


def cloud_event(mark: Watermark) -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": f"{mark.origin}/{mark.height}",
        "source": mark.origin,
        "type": TYPE,
        "time": datetime.fromtimestamp(mark.time, UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": mark.as_dict(),
    }


def signature(secret: bytes, body: bytes) -> str:
    return hmac.new(secret, body, hashlib.sha256).hexdigest()
