"""A server on a unix socket that answers every request with the same octets."""

import socket
import threading
from pathlib import Path

import pytest


def set_up(folder: Path, monkeypatch: pytest.MonkeyPatch, *, has_unit: bool = True) -> Path:
    """Let systemd's units be in a folder of the test, with one for moatd or without."""
    units = folder / "units"
    units.mkdir(exist_ok=True)
    unit = units / "moatd.service"
    if has_unit:
        unit.touch()
    else:
        unit.unlink(missing_ok=True)
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", str(units))
    return unit


class Server:
    """Answers every request with the same octets."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.answer = b""
        self.requests: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def says(self, status: int, body: str | bytes) -> None:
        octets = body.encode() if isinstance(body, str) else body
        self.answer = (
            b"HTTP/1.1 %d x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (status, len(octets)) + octets
        )

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.requests.append(connection.recv(65536).split(b"\r\n")[0].decode())
                connection.sendall(self.answer)
