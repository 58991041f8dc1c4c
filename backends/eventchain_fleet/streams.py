"""JetStream for a coordinator: the work-queue streams of its groups and the consumers that workers use.

Streams live in the servers' memory and may be gone at any moment: nothing in them is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from eventchain_fleet.connection import TIMEOUT, consumer_of, stream_of, work_subject
from eventchain_fleet.roster import Queue

ACK_SECONDS = 5.0
"""After so long without a word from who holds a piece, JetStream gives it to another."""
MAX_DELIVERIES = 3
"""A piece that nobody could finish is not given a fourth time: perhaps it is what kills them."""
MAX_AGE_SECONDS, MAX_BYTES = 60.0, 256 * 2**20
"""Limits of a stream: no message of a coordinator that died stays, and no flood fills a server."""
MAX_PULLS, MAX_HELD = 16_384, 65_536
"""Of a consumer: pulls that wait, and pieces that are not acknowledged."""


class Streams:
    """``ready``: the queues that have a consumer, as far as is known."""

    def __init__(self, connection: Any, groups: Sequence[str]) -> None:
        self.ready: set[Queue] = set()
        self._jetstream = connection.jetstream(timeout=TIMEOUT)
        self._groups = groups

    async def prepare(self) -> bool:
        """Make the streams that are missing; each queue's consumer is looked for when it is prepared next.
        Returns whether a stream was missing: then all that was in it is lost. Raises nats-py's errors."""
        from nats.js.errors import NotFoundError

        lost = False
        for group in self._groups:
            try:
                await self._jetstream.stream_info(stream_of(group))
            except NotFoundError:
                await self._make(group)
                lost = True
        self.ready.clear()
        return lost

    async def _make(self, group: str) -> None:
        from nats.js.api import RetentionPolicy, StorageType
        from nats.js.errors import APIError

        for replicas in (3, 1):  # one where there is no cluster of three
            try:
                await self._jetstream.add_stream(
                    name=stream_of(group), subjects=[work_subject(group, "*")], num_replicas=replicas,
                    retention=RetentionPolicy.WORK_QUEUE, storage=StorageType.MEMORY,
                    max_age=MAX_AGE_SECONDS, max_bytes=MAX_BYTES,
                )  # fmt: skip
                return
            except APIError:
                if replicas == 1:
                    raise

    async def prepare_queue(self, queue: Queue) -> bool:
        """Make its consumer where it is missing. Returns whether it was; nothing while JetStream is not well:
        then the next call tries again."""
        from nats.js.errors import NotFoundError

        if queue in self.ready:
            return False
        missing = False
        with suppress(Exception):
            try:
                await self._jetstream.consumer_info(stream_of(queue.group), consumer_of(queue.size_class))
            except NotFoundError:
                missing = True
                await self._jetstream.add_consumer(stream_of(queue.group), _consumer(queue))
            self.ready.add(queue)
        return missing

    async def publish(self, queue: Queue, message: bytes) -> None:
        """Returns when JetStream has it. Raises nats-py's errors."""
        subject = work_subject(queue.group, queue.size_class)
        await self._jetstream.publish(subject, message, timeout=TIMEOUT, stream=stream_of(queue.group))


def _consumer(queue: Queue) -> Any:
    from nats.js.api import AckPolicy, ConsumerConfig

    return ConsumerConfig(
        durable_name=consumer_of(queue.size_class),
        filter_subject=work_subject(queue.group, queue.size_class),
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_SECONDS,
        max_deliver=MAX_DELIVERIES,
        max_ack_pending=MAX_HELD,
        max_waiting=MAX_PULLS,
        mem_storage=True,
    )
