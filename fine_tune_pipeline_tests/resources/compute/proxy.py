"""A way to a server that can break: passes bytes on until it is cut, and takes nobody in while it is closed."""

import socket
import threading
from contextlib import suppress
from types import TracebackType


class Proxy:
    """Listens on a port of this machine for a server of this machine, at a port or a socket file."""

    def __init__(self, server: int | str) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._taking = True
        self.taken = 0

    @property
    def port(self) -> int:
        return self._listener.getsockname()[1]

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
        self._listener.close()

    def close(self) -> None:
        """Cut all connections, and every new one."""
        self._taking = False
        for end in self._open:
            _shut(end)

    def reopen(self) -> None:
        self._taking = True

    def _listen(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            self.taken += 1
            if not self._taking:
                ours.close()
                continue
            theirs = self._connected()
            self._open += [ours, theirs]
            for source, sink in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=_pass, args=(source, sink), daemon=True).start()

    def _connected(self) -> socket.socket:
        if isinstance(self._server, int):
            return socket.create_connection(("127.0.0.1", self._server))
        theirs = socket.socket(socket.AF_UNIX)
        theirs.connect(self._server)
        return theirs


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(65536):
            sink.sendall(chunk)
    _shut(source)
    _shut(sink)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
