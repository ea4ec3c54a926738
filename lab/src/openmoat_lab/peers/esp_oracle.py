"""scapy as a second opinion on ESP: a process of its own, in a virtual environment of its own, asked in JSON lines."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from openmoat_lab.processes import LabError, run

__all__ = ["ScapyEsp", "prepare"]

REQUIREMENTS = ("scapy==2.8.0", "cryptography>=48,<53")
PROGRAM = Path(__file__).with_name("scapy_esp.py")
INSTALL_SECONDS = 300.0
END_SECONDS = 5.0


def prepare(environment: Path) -> Path:
    """The interpreter of a virtual environment with scapy in it; makes it if it is missing (needs the package index)."""
    ready, interpreter = environment / ".ready", environment / "bin" / "python"
    if not ready.exists() or ready.read_text() != str(REQUIREMENTS):
        run([sys.executable, "-m", "venv", "--clear", str(environment)], seconds=INSTALL_SECONDS)
        run([str(interpreter), "-m", "pip", "install", "--quiet", *REQUIREMENTS], seconds=INSTALL_SECONDS)
        ready.write_text(str(REQUIREMENTS))
    return interpreter


class ScapyEsp:
    """The running process; a context manager."""

    def __init__(self, environment: Path) -> None:
        self._interpreter = prepare(environment)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [str(self._interpreter), "-I", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=END_SECONDS)

    def seal(self, packet: bytes, **association: Any) -> bytes:
        """The outer packet around `packet`; keywords as `scapy_esp.py` describes them, keys as octets."""
        return self._ask("seal", packet, association)

    def open(self, packet: bytes, **association: Any) -> bytes:
        """The inner packet of `packet`. Raises `LabError` with scapy's text if its ICV is wrong."""
        return self._ask("open", packet, association)

    def _ask(self, op: str, packet: bytes, association: dict[str, Any]) -> bytes:
        request = {word: value.hex() if isinstance(value, bytes) else value for word, value in association.items()}
        if self._process.stdin is None or self._process.stdout is None:
            raise LabError("scapy does not run")
        self._process.stdin.write(json.dumps({"op": op, "packet": packet.hex(), **request}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": "it has ended"}')
        if "error" in answer:
            raise LabError(f"scapy: {op}: {answer['error']}")
        return bytes.fromhex(answer["packet"])
