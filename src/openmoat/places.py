"""Where OpenMoat has its files on a host, unless it is told otherwise."""

__all__ = ["CONFIGURATION", "CONFIGURATION_DIRECTORY", "CONTROL_SOCKET", "UNIT", "UNIT_FILE"]

CONFIGURATION_DIRECTORY = "/etc/openmoat"
CONFIGURATION = f"{CONFIGURATION_DIRECTORY}/moat.toml"
CONTROL_SOCKET = "/run/openmoat/control.sock"
UNIT = "moatd.service"
"""Name of the unit of systemd."""
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
"""Where `moat init` makes it."""
