"""SIGTERM and Ctrl-C: the service stops, within two seconds whatever it is waiting for.

Python runs a signal's handler in the main thread, once that comes back from wherever it is: a database that
holds it up would hold up the handler. So a thread is told by the interpreter itself, through a socket.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

from eventchain.service.log import say

STOP_SECONDS = 2.0
"""How long the service may take to stop. Then the process ends as if it were killed, with exit code 0: what
matters is durable, what is lost are the searches in flight."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def stop_on_signals(stop: threading.Event) -> None:
    """Set ``stop`` at SIGINT or SIGTERM. Call it in the main thread, once in a process."""
    ears, mouth = socket.socketpair()
    mouth.setblocking(False)
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: None)
    signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(ears, mouth, stop), name="stopping", daemon=True)
    thread.start()


def ignore_signals() -> None:
    """From now on: the service has stopped. Python would let them kill the process while it is ending."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _watch(ears: socket.socket, mouth: socket.socket, stop: threading.Event) -> None:
    """Holds both ends open. Each signal comes as a byte, its number."""
    while ears.recv(1)[0] not in SIGNALS:
        pass
    stop.set()
    time.sleep(STOP_SECONDS)
    say("stopped without waiting for what does not answer")
    os._exit(0)
