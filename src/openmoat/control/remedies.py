"""Every command that `moat` and `moatd` print as a remedy, in one place so that a test can carry them out.

`{name}` is a connection, `{group}` a group of this host, `{python}` the interpreter that runs `moat`; a word in capitals is filled in by the reader.
"""

from enum import StrEnum

__all__ = ["NOTHING", "Remedy"]

NOTHING = "nothing to do"


class Remedy(StrEnum):
    """Commands that work as they stand."""

    START_DAEMON = "systemctl start moatd"
    STOP_DAEMON = "systemctl stop moatd"
    ENABLE_DAEMON = "systemctl enable --now moatd"
    DAEMON_STATUS = "systemctl status moatd"
    JOURNAL = "journalctl --unit moatd"
    RUN_DAEMON = "moatd --config FILE"
    INIT = "moat init"
    VERSIONS = "moat version"
    LIST = "moat connections"
    STATUS_OF_ALL = "moat status"
    STATUS = "moat status {name}"
    UP = "moat up {name}"
    MTU = "moat mtu {name}"
    RELOAD = "moat reload"
    LOG = "moat log"
    SHOW_KEY = "moat keys show FILE"
    ROUTE = "ip route get ADDRESS"
    PING = "ping ADDRESS"
    JOIN_GROUP = "usermod --append --groups {group} USER"
    INSTALL_LAB = "{python} -m pip install ./lab"
    BECOME_ROOT = "become root"
