"""An authenticated IKE SA as its exchanges see it. It exists from authentication on, and nothing in it is optional."""

from dataclasses import dataclass, replace

from openmoat.crypto.suites import IkeSuite
from openmoat.errors import Secret
from openmoat.ike.channel import Channel
from openmoat.ike.context import Context
from openmoat.ike.errors import NoCommonProposal, NoCommonSelectors
from openmoat.ike.events import ChildKeys, ChildSa
from openmoat.ike.host import Host
from openmoat.ike.negotiate.child_sa import ChildTerms, child_keys
from openmoat.ike.peer import AuthenticatedPeer
from openmoat.policy.selectors import TrafficSelector, covers, format_selectors, intersect

__all__ = ["Session"]


@dataclass(frozen=True, slots=True)
class Session:
    """What CREATE_CHILD_SA and INFORMATIONAL exchanges work with."""

    context: Context
    host: Host
    channel: Channel
    peer: AuthenticatedPeer
    suite: IkeSuite
    sk_d: Secret
    """From which the keys of Child SAs and of a successor are derived (RFC 7296 2.17, 2.18)."""
    nonces: tuple[bytes, bytes]
    """Of the exchange that made this IKE SA."""
    has_our_vendor_id: bool
    """The peer announced the vendor ID that we announce."""

    @property
    def is_carrier(self) -> bool:
        """Whether the Child SAs of the peer hang on this IKE SA."""
        return self.peer.carrier == self.channel.own_spi

    def child_sa(self, terms: ChildTerms) -> ChildSa:
        """The Child SA as events tell it."""
        peer, channel, hard = self.peer, self.channel, terms.spec.lifetimes.hard
        old = peer.children.get(terms.replaces or 0)
        return ChildSa(
            connection=peer.connection.name,
            child=terms.spec.name,
            peer=peer.identity,
            ike=channel.own_spi,
            local_spi=terms.local_spi,
            remote_spi=terms.remote_spi,
            suite=terms.suite,
            local=terms.local,
            remote=terms.remote,
            path=channel.esp_path,
            udp=channel.uses_udp,
            keepalive=channel.nat.own,
            replaces=terms.replaces,
            aggfrag=terms.aggfrag,
            takes_slices=terms.takes_slices,
            remarks=terms.remarks,
            has_our_vendor_id=self.has_our_vendor_id,
            has_changed_mode=old is not None and old.sa.aggfrag is not terms.aggfrag,
            hard_at=self.context.now + hard if hard else None,
        )

    def refreshed(self, child: ChildSa) -> ChildSa:
        """The same after the installation: the peer may have moved meanwhile."""
        path = self.channel.esp_path
        return child if path == child.path else replace(child, path=path)

    def child_keys(self, terms: ChildTerms, nonces: tuple[bytes, bytes], shared: bytes) -> ChildKeys:
        """Keys of a new Child SA."""
        return child_keys(terms, self.suite.prf, self.sk_d, nonces, shared)

    def check_owner(self, terms: ChildTerms) -> None:
        """`NoCommonSelectors` where the packets are another peer's, or our own."""
        if self.peer.connection.is_template and self._is_our_side(terms):
            raise NoCommonSelectors(f"TS: {format_selectors(terms.remote)} holds addresses of our own side")
        owner = self.host.other_owner(self.peer, terms.local, terms.remote)
        if owner is not None:
            raise NoCommonSelectors(f"TS: {owner} holds a Child SA with these selectors, or some of their addresses")

    def check_terms(self, terms: ChildTerms) -> None:
        """The same for what a responder has made, which may also be another Child SA than we can have."""
        self.check_owner(terms)
        if terms.fault:
            raise NoCommonProposal(terms.fault)

    def _is_our_side(self, terms: ChildTerms) -> bool:
        """Whether a peer that chose its addresses itself wants the packets to our outer address, or to our networks.

        Where our side of the child holds all that its peers may have (they speak with each other through us), nobody can
        tell.
        """
        spec = terms.spec
        outside = TrafficSelector.of_address(self.channel.path.local.address)
        if intersect(terms.remote, (outside,)):
            return True
        return bool(intersect(terms.remote, spec.local)) and not covers(spec.local, spec.remote)
