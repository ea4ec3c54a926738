"""The security policy database: one total order of policies (RFC 4301 4.4.1). Pure data and a linear truth."""

from dataclasses import dataclass
from enum import Enum

from openmoat.policy.selectors import Selectors

__all__ = ["Action", "Missing", "Policy", "PolicyId"]

PolicyId = int
"""Number the daemon gives a policy for as long as it exists; 1 to 2**32 - 1."""


class Action(Enum):
    """What happens to outbound packets a policy selects."""

    PROTECT = "protect"
    PASS = "pass"
    DROP = "drop"
    REJECT = "reject"


class Missing(Enum):
    """What happens to a packet of a PROTECT policy while no SA serves it."""

    DROP = "drop"
    TRAP = "trap"
    """Tell the daemon (`Acquire`), hold the first packets for a short time, then reject with ICMP."""
    REJECT = "reject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One entry of the SPD, in both directions: `local` is the source of outbound and the destination of inbound packets."""

    id: PolicyId
    name: str
    rank: int
    """Place in the total order, unique, 1 to 2**31 - 1, lowest wins. Gaps are left so that an insertion moves nobody."""
    action: Action
    local: Selectors
    remote: Selectors
    missing: Missing = Missing.DROP
