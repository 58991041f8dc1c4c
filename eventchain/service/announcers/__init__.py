"""Ways to announce the watermark, one file each; imported when configured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventchain.config import Announce
    from eventchain.service.announce import Announcer


def configured(announce: Announce) -> Iterator[Announcer]:
    """An announcer for each receiver that the configuration names. Raises ConfigError where one cannot be
    used; nothing is connected yet."""
    if announce.webhook is not None:
        from eventchain.service.announcers.webhook import Webhook

        yield Webhook(announce.webhook)
    if announce.nats is not None:
        from eventchain.service.announcers.nats import NatsSubject

        yield NatsSubject(announce.nats, announce.nats_subject)
    if announce.postgresql is not None:
        from eventchain.service.announcers.postgresql import PostgresqlNotify

        yield PostgresqlNotify(announce.postgresql)
