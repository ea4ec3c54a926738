"""A directory with a pre-shared key, in which configurations are tried."""

from pathlib import Path

import pytest

from openmoat.config.toml import Configuration, load
from openmoat.errors import ConfigError

SECRET = "correct horse battery staple"
RECORD = """
[connections.home]
psk = "home.psk"
local.identity = "home.example"
peer.identity = "portal.example"
peer.addresses = ["192.0.2.1", "portal.example"]

[connections.home.children.office]
local = "10.1.0.0/24"
remote = ["10.2.0.0/16", "10.3.0.0/16[tcp/443]"]
"""


class Folder:
    """A directory with a secret, in which configurations are tried."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secret("home.psk", SECRET + "\n")

    def secret(self, name: str, text: str | bytes, mode: int = 0o600) -> Path:
        file = self.write(name, text)
        file.chmod(mode)
        return file

    def write(self, name: str, text: str | bytes) -> Path:
        file = self.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    def load(self, text: str) -> Configuration:
        return load(self.write("moat.toml", text))

    def faults(self, text: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.load(text)
        return [str(fault).removeprefix(f"{self.path}/").replace(f"{self.path}/", "") for fault in caught.value.faults]
