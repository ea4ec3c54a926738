"""Tells the service manager that we are ready, alive or stopping: sd_notify(3), a datagram on a unix socket."""

import asyncio
import os
import socket
from collections.abc import Mapping

__all__ = ["Watchdog"]


class Watchdog:
    """Speaks to the socket that `NOTIFY_SOCKET` names; without one it is silent."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # An abstract address is written with @ in place of its first octet, which is NUL.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = environment.get("WATCHDOG_USEC", "")
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.interval = int(microseconds) / 2e6 if microseconds.isdigit() and is_ours else 0.0
        """Seconds between two signs of life, half of what the service manager allows; 0: it wants none."""

    def tell(self, state: str) -> bool:
        """Send lines such as `READY=1`; answers whether they went out. A full or absent socket is no fault of ours."""
        if not self._address:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto(state.encode(), self._address)
            except OSError:
                return False
        return True

    async def run(self) -> None:
        """Sign of life from the event loop itself: where the loop is held, none goes out and we are restarted."""
        if not self.interval:
            return
        while True:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self.interval)
