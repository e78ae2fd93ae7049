"""Does anything leave this machine? Two witnesses: a proxy that nobody should ask, and the sockets of the processes."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable

import psutil


class OutboundWatch:
    """Watches a family of processes until it is closed.

    Attributes:
        proxy: a proxy's URL for their environment; who uses it is noted and cut off.
        seen: what was noted: the first lines that the proxy got, and remote addresses beyond loopback.
        looks: how often the sockets were looked at.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.looks = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.proxy = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def watch(self, family: Callable[[], list[psutil.Process]]) -> None:
        """Begin to look at the sockets of these processes."""
        self._threads.append(threading.Thread(target=self._look, args=(family,), daemon=True))
        self._threads[-1].start()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                try:
                    self.seen.append(connection.recv(500).split(b"\r\n")[0].decode("latin-1"))
                except OSError:
                    self.seen.append("a connection that said nothing")

    def _look(self, family: Callable[[], list[psutil.Process]]) -> None:
        processes: list[psutil.Process] = []
        listed = 0.0
        while not self._ended.wait(0.05):
            if time.monotonic() - listed > 2:
                listed, processes = time.monotonic(), family()
            for process in processes:
                try:
                    connections = process.net_connections("inet")
                except psutil.Error:
                    continue
                self.looks += 1
                for one in connections:
                    if one.raddr and not ipaddress.ip_address(one.raddr.ip.partition("%")[0]).is_loopback:
                        self.seen.append(f"{process.name()} → {one.raddr.ip}:{one.raddr.port}")

    def close(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._listener.close()
        for thread in self._threads:
            thread.join(5)
