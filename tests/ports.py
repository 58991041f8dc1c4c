"""Ports that are free."""

from __future__ import annotations

import socket


def free_ports(count: int) -> list[int]:
    """They may be taken until they are used: only where a server must know them before it starts."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
