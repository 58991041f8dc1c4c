"""Hosts with a network of their own, and links between them that delay and lose packets or fall silent.

A host is a network namespace, a link a pair of TUN devices with a thread between them that hands IP packets
over. The kernel's TCP runs over it as over any bad line, also where there is no netem. For root on Linux.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CLONE_NEWNET = 0x40000000  # linux/sched.h
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
LARGEST = 2**16
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def allowed() -> bool:
    """Whether this machine lets us make hosts and links."""
    try:
        Link(Host(), Host()).close()
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


class Host:
    """Threads, processes and connections that are made ``with host.inside():`` are on it."""

    def __init__(self) -> None:
        with _back_afterwards():
            _call("unshare", CLONE_NEWNET)
            self._namespace = _namespace()
            weakref.finalize(self, os.close, self._namespace)
            _ip("link", "set", "lo", "up")

    @contextmanager
    def inside(self) -> Iterator[None]:
        with _back_afterwards():
            _call("setns", self._namespace, CLONE_NEWNET)
            yield


class Link:
    """Between two hosts, whose addresses are ``near`` and ``far``, of the network for benchmarks (RFC 2544).

    delay: seconds that a packet takes, in each direction
    loss: the share of packets that do not arrive
    silent: while it is set, none does, and nobody is told
    """

    def __init__(self, near: Host, far: Host, *, delay: float = 0.0, loss: float = 0.0) -> None:
        number = next(_numbers)
        network = f"198.18.{number >> 6}"
        self.near, self.far = (f"{network}.{(number & 63) * 4 + end}" for end in (1, 2))
        self.near_host = near
        self.delay, self.loss, self.silent = delay, loss, False
        self.lost = 0
        self._ends = (
            _tun(near, f"link{number}", self.near, self.far),
            _tun(far, f"link{number}", self.far, self.near),
        )
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def _carry(self) -> None:
        chance = random.Random(self.near)
        under_way: deque[tuple[float, int, bytes]] = deque()  # when due, to which end
        one, other = self._ends
        while not self._closed.is_set():
            wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else 0.1
            for end in select.select(self._ends, (), (), wait)[0]:
                packet = os.read(end, LARGEST)
                if self.silent or chance.random() < self.loss:
                    self.lost += 1
                else:
                    under_way.append((time.monotonic() + self.delay, other if end == one else one, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, end, packet = under_way.popleft()
                with suppress(OSError):  # its queue is full: a packet may be lost
                    os.write(end, packet)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        for end in self._ends:
            os.close(end)


def _tun(host: Host, name: str, address: str, peer: str) -> int:
    """A TUN device on the host (Documentation/networking/tuntap.rst of Linux)."""
    with host.inside():
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
        _ip("address", "add", address, "peer", peer, "dev", name)
        _ip("link", "set", name, "up")
    return device


@contextmanager
def _back_afterwards() -> Iterator[None]:
    """A thread changes its namespace for itself, and those that it starts inherit it."""
    before = _namespace()
    try:
        yield
    finally:
        _call("setns", before, CLONE_NEWNET)
        os.close(before)


def _namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
