"""Ports that are free."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress

_dice = random.SystemRandom()


def free_ports(count: int) -> list[int]:
    """Of those that no system gives out by itself: whoever asks for any port, as servers and clients beside
    these do, is not given one of them until it is used. Only where a server must know its port before it
    starts."""
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            port = _dice.randrange(10_000, 30_000)
            with suppress(OSError):  # it is taken
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
    return ports
