"""Many WebSocket clients in one process, as cheap as they can be: plain sockets, one selector.

What is measured is the server, so its clients must not be what it waits for: each message costs
them a `recv`, a look at the clock and a search. No compression is offered.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys
from contextlib import ExitStack, suppress
from time import monotonic, monotonic_ns
from typing import NamedTuple

import orjson

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PUBLISHED = b'"reason":"'  # in the JSON of an event, before the moment of its publication
JOINED = b'"Joined"'
TEXT, CLOSE = 1, 8
WINDOW = 2048  # bytes that the kernel keeps for a client who stalls; it makes them some more
SECONDS = 30


class Heard(NamedTuple):
    """What the clients of one process have heard.

    Attributes:
        events: By the moment of publication, the nanoseconds after which each client had it.
        size: Bytes of the last message.
        dropped: Code and reason with which the client that stalled was closed; None: it was not.
    """

    events: dict[int, list[int]]
    size: int
    dropped: tuple[int, str] | None


class Client:
    """One connection; its frames are not masked, nor in fragments."""

    def __init__(self, address: str, path: str, window: int | None = None) -> None:
        host, _, port = address.partition(":")
        self.socket = socket.socket()
        if window is not None:  # before the handshake tells of it
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self.socket.settimeout(SECONDS)
        self.socket.connect((host, int(port)))
        self.socket.sendall(HANDSHAKE.format(path=path, address=address).encode())
        self._rest = b""
        while b"\r\n\r\n" not in self._rest:
            self._rest += self._read(1000)
        answer, _, self._rest = self._rest.partition(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(answer.decode())

    def _read(self, most: int) -> bytes:
        part = self.socket.recv(most)
        if not part:
            raise ConnectionError("the server has closed")
        return part

    def joined(self) -> None:
        """Wait until the server says so; it may have come along with the handshake."""
        while JOINED not in self._rest:
            self._rest += self._read(1000)
        self.frames(b"")

    def frames(self, more: bytes | None = None) -> list[tuple[int, bytes]]:
        """Opcode and content of the frames that one read completes."""
        data = self._rest + (self._read(1 << 20) if more is None else more)
        found, at = list[tuple[int, bytes]](), 0
        while len(data) >= at + 2:
            opcode, length, begin = data[at] & 15, data[at + 1], at + 2
            if length == 126:  # noqa: PLR2004 - RFC 6455
                length, begin = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif length == 127:  # noqa: PLR2004 - RFC 6455
                length, begin = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if len(data) < begin + length:
                break
            at = begin + length
            found.append((opcode, data[begin:at]))
        self._rest = data[at:]
        return found

    def until_closed(self) -> tuple[int, str]:
        """Read all there is; code and reason of the end."""
        while True:
            for opcode, content in self.frames():
                if opcode == CLOSE:
                    (code,) = struct.unpack("!H", content[:2])
                    return code, content[2:].decode()


def published(content: bytes) -> int:
    """When a message was published; 0: it does not count."""
    number, _, _ = content.partition(PUBLISHED)[2].partition(b" ")
    return int(number or 0)


def listen(
    address: str, path: str, clients: int, events: int, patience: float, *, stalled: bool
) -> Heard:
    """Hear so many events, or what comes until `patience` seconds are silent.

    Says on stdout when all have joined. `stalled`: there is one more, who does not read.
    """
    heard: dict[int, list[int]] = {}
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        deaf = Client(address, path, WINDOW) if stalled else None
        if deaf is not None:
            stack.enter_context(deaf.socket)
        size = 0
        for client in [Client(address, path) for _ in range(clients)]:
            stack.enter_context(client.socket)
            client.joined()
            selector.register(client.socket, selectors.EVENT_READ, client)
        print("ready", flush=True)
        until = monotonic() + SECONDS  # for the first
        missing = clients * events
        while missing and (ready := selector.select(until - monotonic())):
            for key, _ in ready:
                frames = key.data.frames()
                at = monotonic_ns()
                for _, content in frames:
                    if moment := published(content):
                        heard.setdefault(moment, []).append(at - moment)
                        size, missing = len(content), missing - 1
            until = monotonic() + patience
        dropped = None
        if deaf is not None and not missing:
            deaf.socket.settimeout(patience)
            with suppress(TimeoutError):
                dropped = deaf.until_closed()
    return Heard(heard, size, dropped)


def main() -> None:
    """In a process of its own: the arguments are those of `listen`, as JSON."""
    heard = listen(**orjson.loads(sys.argv[1]))
    print(orjson.dumps(tuple(heard), option=orjson.OPT_NON_STR_KEYS).decode(), flush=True)


if __name__ == "__main__":
    main()
