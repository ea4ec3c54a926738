"""What tests of the daemon build their worlds of: events, connections, and a loop whose time a test moves."""

import heapq
import ipaddress
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from openmoat.crypto.identities import Identity, IdentityPattern, PatternKind
from openmoat.crypto.numbers import AuthMethod, IdType
from openmoat.crypto.suites import AES_128_GCM_16, PRF_HMAC_SHA2_256, X25519, EspSuite, IkeSuite
from openmoat.errors import Secret
from openmoat.ike.events import ChildKeys, ChildSa, IkeSaUp
from openmoat.model.connection import Child, Connection, EspProposal, IkeProposal, Peer, Psk, Start
from openmoat.net import HostPort, Path
from openmoat.policy.selectors import Selectors, parse_selectors

ESP_SUITE = EspSuite(AES_128_GCM_16, None)
IKE_SUITE = IkeSuite(AES_128_GCM_16, None, PRF_HMAC_SHA2_256, X25519)
KEYS = ChildKeys(Secret(bytes(20)), Secret(), Secret(bytes(20)), Secret())
GATE = Identity(IdType.FQDN, b"gate.example")
HOME_A = Identity(IdType.FQDN, b"a.homes.example")
HOME_B = Identity(IdType.FQDN, b"b.homes.example")


@dataclass
class Deadline:
    """One call of the loop."""

    at: float
    act: Callable[[], None]
    is_wanted: bool = True

    def cancel(self) -> None:
        self.is_wanted = False


@dataclass
class Deadlines:
    """A loop's `call_later`, whose time passes when a test lets it."""

    now: float = 0.0
    made: list[Deadline] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._heap: list[tuple[float, int, Deadline]] = []
        self._order = itertools.count()

    def clock(self) -> float:
        return self.now

    def later(self, seconds: float, act: Callable[[], None]) -> Deadline:
        deadline = Deadline(self.now + seconds, act)
        self.made.append(deadline)
        heapq.heappush(self._heap, (deadline.at, next(self._order), deadline))
        return deadline

    def pass_time(self, seconds: float, then: Callable[[], None] = lambda: None) -> None:
        """What is due is done, each time followed by `then`."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            at, _, deadline = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            if deadline.is_wanted:
                deadline.act()
                then()
        self.now = end

    @property
    def pending(self) -> int:
        return sum(deadline.is_wanted for _, _, deadline in self._heap)


def path(remote: str = "198.51.100.7", port: int = 4500) -> Path:
    return Path(HostPort(ipaddress.ip_address("192.0.2.1"), 4500), HostPort(ipaddress.ip_address(remote), port))


def exactly(identity: Identity) -> IdentityPattern:
    return IdentityPattern(PatternKind.EXACT, identity)


def connection(
    name: str,
    pattern: IdentityPattern,
    local: str = "10.2.0.0/16",
    remote: str = "10.1.0.0/16",
    *,
    child: str = "",
    group: str | None = None,
    order: int = 0,
    start: Start = Start.NONE,
    priority: int = 0,
) -> Connection:
    """A connection with one child, which has its name unless `child` gives another."""
    one = Child(
        name=child or name,
        local=parse_selectors([local]),
        remote=parse_selectors([remote]),
        proposals=(EspProposal(encryptions=(AES_128_GCM_16,)),),
        start=start,
        priority=priority,
    )
    return Connection(
        name=name,
        local_identity=GATE,
        own=Psk(name),
        peer=Peer(
            identity=pattern,
            credential=Psk(name),
            addresses=() if start is Start.NONE else (ipaddress.ip_address("198.51.100.7"),),
        ),
        children=(one,),
        proposals=(IkeProposal(encryptions=(AES_128_GCM_16,), prfs=(PRF_HMAC_SHA2_256,), key_exchanges=(X25519,)),),
        group=group,
        order=order,
    )


def child_sa(
    spi: int, name: str, peer: Identity, local: Selectors, remote: Selectors, *, child: str = "", ike: int = 1
) -> ChildSa:
    return ChildSa(
        connection=name,
        child=child or name,
        peer=peer,
        ike=ike,
        local_spi=spi,
        remote_spi=0x1111,
        suite=ESP_SUITE,
        local=local,
        remote=remote,
        path=path(),
        udp=True,
        keepalive=True,
    )


def ike_up(
    ike: int,
    connection: str = "home",
    peer: Identity = HOME_A,
    *,
    replaces: int | None = None,
    is_initiator: bool = True,
    way: Path | None = None,
) -> IkeSaUp:
    return IkeSaUp(
        ike=ike,
        peer_spi=9,
        connection=connection,
        peer=peer,
        is_initiator=is_initiator,
        path=way or path(),
        suite=IKE_SUITE,
        own_method=AuthMethod.PSK,
        peer_method=AuthMethod.PSK,
        behind_nat=False,
        peer_behind_nat=False,
        replaces=replaces,
    )
