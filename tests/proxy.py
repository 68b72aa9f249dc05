"""TCP proxies that do what a network may: lose an answer, go silent."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class _Proxy:
    """Listens before a server, on threads of its own."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []

    @property
    def dsn(self) -> str:
        """The way through the proxy."""
        port = self._listener.getsockname()[1]
        return make_conninfo(self._dsn, host="127.0.0.1", port=port)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._hang_up()
        for thread in self._threads:
            thread.join()

    def _hang_up(self) -> None:
        """End what the threads wait for."""

    def _accept(self) -> None:
        raise NotImplementedError

    def _start(self, work, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()


class LosesTheAnswer(_Proxy):
    """Forwards everything; once `after` went to the server, its answers are lost and both hung up.

    Args:
        dsn: A server reachable by TCP.
        after: Bytes of the client whose answer is to be lost.
        times: How many connections are treated so; later ones pass.
    """

    def __init__(self, dsn: str, after: bytes, *, times: int = 1) -> None:
        super().__init__(dsn)
        self._after = after
        self._times = times

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._forward, client)

    def _forward(self, client: socket.socket) -> None:
        target = conninfo_to_dict(self._dsn)
        server = socket.create_connection((target["host"], int(target["port"])))
        losing = False
        with client, server:
            while True:
                # Quiet after the message: the server has done it, and nobody will know.
                ready = select.select([client, server], [], [], 0.3 if losing else None)[0]
                if not ready:
                    return
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is client:
                        server.sendall(data)
                        if self._after in data and self._times:
                            self._times -= 1
                            losing = True
                    elif not losing:
                        client.sendall(data)


class GoesSilent(_Proxy):
    """Forwards everything, until it is told to hold still: connections stay, and nothing moves.

    As a network that drops packets does, or a server that is suspended: no end of a stream is
    seen, on either side. What was sent meanwhile arrives when it speaks again.

    It can lead to another server from now on (`move_to`), and be shut for a while: then it hangs up
    whoever comes.

    Args:
        dsn: A server reachable by TCP.
    """

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self._speaking = threading.Event()
        self._speaking.set()
        self._over = False
        self._is_shut = False
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()

    def go_silent(self) -> None:
        self._speaking.clear()

    def speak(self) -> None:
        self._speaking.set()

    def move_to(self, dsn: str) -> None:
        """Lead to another server; whoever is connected to this one is hung up."""
        with self._lock:
            self._dsn = dsn
        self._hang_up()

    def shut(self) -> None:
        """Hang up everybody, and whoever comes until `open`."""
        with self._lock:
            self._is_shut = True
        self._hang_up()

    def open(self) -> None:
        with self._lock:
            self._is_shut = False

    def __exit__(self, *reason: object) -> None:
        self._over = True
        self._speaking.set()
        super().__exit__(*reason)

    def _hang_up(self) -> None:
        with self._lock:
            for end in self._sockets:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._speaking.wait()
            server = self._connected(client)
            if server is None:
                client.close()
                continue
            self._start(self._forward, client, server)
            self._start(self._forward, server, client)

    def _connected(self, client: socket.socket) -> socket.socket | None:
        """The way to the server; None where there is none now."""
        with self._lock:  # who moves it hangs up those who were led to the server of before, too
            if self._is_shut:
                return None
            target = conninfo_to_dict(self._dsn)
            try:
                server = socket.create_connection((target["host"], int(target["port"])))
            except OSError:
                return None
            self._sockets |= {client, server}
            return server

    def _forward(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._speaking.wait()
                if self._over:
                    break
                to.sendall(data)
        with self._lock:
            self._sockets -= {source, to}
        for end in (source, to):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
