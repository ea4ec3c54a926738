"""strongSwan of a newer Debian in a guest, over the ESP and the IP-TFS of the guest's kernel."""

from collections.abc import Iterable
from pathlib import Path

from openmoat_lab.guest.build import strongswan
from openmoat_lab.guest.machine import Guest, GuestProcess
from openmoat_lab.peers.strongswan import SOCKET, Section, SwanConnection, SwanKeys, daemon_settings, write_files
from openmoat_lab.processes import LabError, wait_until

__all__ = ["GuestStrongSwan"]

PLUGINS = "random nonce openssl gcm pubkey pem pkcs1 pkcs8 x509 constraints kernel-netlink socket-default vici updown"
FOLDER = "strongswan"
INSIDE = f"/tmp/{FOLDER}"
START_SECONDS = 15.0


class GuestStrongSwan:
    """One charon in a guest. Its files lie in `Guest.directory`."""

    def __init__(
        self, guest: Guest, connections: Iterable[SwanConnection], keys: SwanKeys, settings: Section | None = None
    ) -> None:
        self._guest = guest
        self._process: GuestProcess | None = None
        directory = guest.directory / FOLDER
        self._log = directory / "charon.log"
        # Its own routes know nothing of an MTU that is not that of the outside.
        words: Section = {"load": PLUGINS, "install_routes": "no", **(settings or {})}
        write_files(directory, connections, keys, daemon_settings(Path(INSIDE) / "charon.log", words))

    def start(self) -> None:
        """Start it and load connections and keys."""
        root = strongswan()
        self._guest.script(
            f"mount -t tmpfs run {root}/run; mount -t hostfs -o {self._guest.directory} share {root}/tmp\n"
            f"for one in proc sys dev; do mount --bind /$one {root}/$one; done"
        )
        self._process = self._guest.spawn(*self._command("charon-systemd"), name="charon")
        wait_until("charon in the guest listens", self._listens, START_SECONDS)
        self.control("--load-all", "--noprompt")

    def control(self, *words: str, check: bool = True, seconds: float = 30.0) -> str:
        """Run `swanctl` and give what it says."""
        done = self._guest.run(
            *self._command("swanctl", *words, "--uri", f"unix:///{SOCKET}"), check=check, seconds=seconds
        )
        return done.stdout + done.stderr

    def initiate(self, child: str = "net", seconds: float = 15.0) -> str:
        """Bring a child up; gives the log of the negotiation."""
        words = ("--initiate", "--child", child, "--timeout", str(int(seconds)))
        return self.control(*words, seconds=seconds + 5)

    def rekey(self, child: str = "net") -> str:
        """Start a rekey of a child."""
        return self.control("--rekey", "--child", child)

    def sas(self) -> str:
        """What `swanctl --list-sas` says."""
        return self.control("--list-sas")

    def log(self) -> str:
        """The log of the daemon."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _command(self, program: str, *words: str) -> list[str]:
        files = (f"STRONGSWAN_CONF={INSIDE}/strongswan.conf", f"SWANCTL_DIR={INSIDE}/swanctl")
        return ["env", *files, "chroot", str(strongswan()), f"/usr/sbin/{program}", *words]

    def _listens(self) -> bool:
        if self._process is None:
            raise LabError("strongSwan in the guest does not run")
        return self._guest.run("test", "-S", f"{strongswan()}/{SOCKET}", check=False).returncode == 0
