"""Child SAs: what is offered, how a responder chooses, and the SAs of one IKE SA that live (RFC 7296 1.2, 1.3, 2.9, 2.17)."""

from dataclasses import dataclass, replace
from functools import lru_cache

import msgspec

from openmoat.crypto.keymat import ChildKeymat
from openmoat.crypto.numbers import KeMethod
from openmoat.crypto.suites import EspSuite, PrfRow
from openmoat.errors import Secret
from openmoat.ike.errors import MalformedMessage, NoCommonProposal, NoCommonSelectors, PeerMisbehaved
from openmoat.ike.events import ChildKeys, ChildSa
from openmoat.ike.negotiate.aggfrag import agree, fault_of_answer, peer_aggfrag, use_aggfrag
from openmoat.ike.negotiate.choice import EspChoice, accept_esp, choose_esp, offer_esp
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.payloads import (
    KeyExchange,
    Payload,
    SecurityAssociation,
    TsInitiator,
    TsResponder,
)
from openmoat.model.connection import Aggfrag, Child, EspProposal
from openmoat.policy.selectors import MAX_SELECTORS, Selectors, covers, format_selectors, narrow

__all__ = [
    "ChildTerms",
    "LiveChild",
    "accept_response",
    "answer_payloads",
    "child_keys",
    "choose_child",
    "keepable",
    "offer_payloads",
]


# Many attributes: a record of what was agreed on.
class ChildTerms(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What both sides have agreed on, before anything is installed."""

    spec: Child
    suite: EspSuite
    method: KeMethod | None
    """Key exchange of its own (perfect forward secrecy); None: keys come from SK_d and the nonces alone."""
    local_spi: int
    remote_spi: int
    local: Selectors
    remote: Selectors
    is_ours: bool
    """We began the exchange."""
    replaces: int | None = None
    aggfrag: bool = False
    """Inner packets are sliced and packed (RFC 9347)."""
    takes_slices: bool = True
    """The peer puts slices together."""
    fault: str = ""
    """Why what the peer has made must be deleted again; empty: it is good."""
    remarks: tuple[str, ...] = ()
    """What was put up with in what the peer said, for people."""


@dataclass(slots=True, kw_only=True)
class LiveChild:
    """One Child SA that is installed."""

    sa: ChildSa
    spec: Child
    nonces: tuple[bytes, bytes]
    """Of the exchange that made it; they decide collisions (RFC 7296 2.8.1)."""
    is_ours: bool
    origin: "tuple[tuple[bytes, bytes], bool] | None" = None
    """Nonces of the exchange that made the first of its line of rekeys, and whether we began that. Where both sides make
    the same Child SA at once, these decide, for the one that came first may have been rekeyed before the other comes."""
    is_active: bool = False
    """We send with it."""
    is_closing: bool = False
    """We have replaced it, or are about to delete it: nobody may rekey it any more."""
    is_replaced: bool = False
    """A successor exists, made by us or by the peer."""
    is_lost: bool = False
    """It lost against another of the same purpose; what replaces it has lost too."""

    @property
    def first(self) -> tuple[tuple[bytes, bytes], bool]:
        """Its `origin`, or itself where it is the first."""
        return self.origin or (self.nonces, self.is_ours)


def keepable(spec: Child, suites: frozenset[EspSuite] | None, aggfrag: bool = True) -> Child | None:
    """The child with only what the data plane can keep; None where nothing is left."""
    if not aggfrag and spec.aggfrag is Aggfrag.REQUIRE:
        return None
    if not aggfrag:
        spec = replace(spec, aggfrag=Aggfrag.NEVER)
    if suites is None:
        return spec
    kept = _keepable_proposals(spec.proposals, suites)
    if kept == spec.proposals:
        return spec
    return replace(spec, proposals=kept) if kept else None


@lru_cache(maxsize=64)
def _keepable_proposals(rows: tuple[EspProposal, ...], suites: frozenset[EspSuite]) -> tuple[EspProposal, ...]:
    """What of a list can be kept; most connections have the same list."""
    kept: list[EspProposal] = []
    for row in rows:
        # A proposal's algorithms combine freely, so each must be kept with all the others that stay.
        integrities = row.integrities or (None,)
        esn = tuple(flag for flag in row.esn if any(s.esn is flag for s in suites))
        fits = {
            (encryption, flag): all(EspSuite(encryption, integrity, flag) in suites for integrity in integrities)
            for encryption in row.encryptions
            for flag in esn
        }
        encryptions = tuple(e for e in row.encryptions if any(fits[e, flag] for flag in esn))
        esn = tuple(flag for flag in esn if encryptions and all(fits[e, flag] for e in encryptions))
        if encryptions and esn:
            kept.append(
                EspProposal(
                    encryptions=encryptions,
                    integrities=row.integrities,
                    key_exchanges=row.key_exchanges,
                    esn=esn,
                )
            )
    return tuple(kept)


def offer_payloads(spec: Child, spi: int, *, with_key_exchange: bool) -> tuple[Payload, ...]:
    """SA, TSi, TSr and the notifies that go with them, of a request of ours."""
    proposals = offer_esp(spec.proposals, spi.to_bytes(4, "big"), with_key_exchange)
    notifies = () if spec.aggfrag is Aggfrag.NEVER else (use_aggfrag(),)
    return SecurityAssociation(proposals), TsInitiator(spec.local), TsResponder(spec.remote), *notifies


def accept_response(
    message: Message, spec: Child, spi: int, *, with_key_exchange: bool, replaces: int | None = None
) -> ChildTerms:
    """What the response to our request agreed on; `PeerMisbehaved` where it is no subset of what we offered."""
    sa, tsi, tsr = _child_payloads(message)
    offered = offer_esp(spec.proposals, spi.to_bytes(4, "big"), with_key_exchange)
    choice = accept_esp(sa.proposals, offered)
    if not tsi.selectors or not tsr.selectors:
        raise PeerMisbehaved("TS response: no selector of a kind we know")
    # RFC 7296 2.9: the responder may narrow, never widen.
    for ours, theirs, name in ((spec.local, tsi.selectors, "TSi"), (spec.remote, tsr.selectors, "TSr")):
        if not covers(ours, theirs):
            raise PeerMisbehaved(f"{name}: within {format_selectors(ours)}, not {format_selectors(theirs)}")
    peer = peer_aggfrag(message)
    return ChildTerms(
        spec=spec,
        suite=choice.suite,
        method=choice.key_exchange.id if choice.key_exchange else None,
        local_spi=spi,
        remote_spi=_spi(choice),
        local=tsi.selectors,
        remote=tsr.selectors,
        is_ours=True,
        replaces=replaces,
        aggfrag=peer.is_there,
        takes_slices=peer.takes_slices,
        fault=fault_of_answer(spec, peer),
        remarks=peer.remarks,
    )


def choose_child(
    message: Message, specs: tuple[Child, ...], spi: int, *, with_key_exchange: bool, replaces: int | None = None
) -> tuple[ChildTerms, EspChoice]:
    """As responder: the child of ours that serves the request, narrowed, and the proposal to answer with.

    Raises `NoCommonSelectors`, or `NoCommonProposal` where selectors would do.
    """
    sa, tsi, tsr = _child_payloads(message)
    key_exchange = message.first(KeyExchange)
    method = key_exchange.method if key_exchange and with_key_exchange else None
    failure: NoCommonProposal | None = None
    peer = peer_aggfrag(message)
    for spec, local, remote in _fitting(specs, tsi, tsr):
        try:
            aggfrag = agree(spec, peer)
            choice = choose_esp(sa.proposals, spec.proposals, spi.to_bytes(4, "big"), with_key_exchange, method)
        except NoCommonProposal as error:
            failure = failure or error
            continue
        terms = ChildTerms(
            spec=spec,
            suite=choice.suite,
            method=choice.key_exchange.id if choice.key_exchange else None,
            local_spi=spi,
            remote_spi=_received_spi(sa, choice),
            local=local,
            remote=remote,
            is_ours=False,
            replaces=replaces,
            aggfrag=aggfrag,
            takes_slices=peer.takes_slices,
            remarks=(*peer.remarks, *_cut("TSi", tsi.selectors, remote), *_cut("TSr", tsr.selectors, local)),
        )
        return terms, choice
    raise failure or NoCommonProposal("SA: no common proposal")


def _fitting(specs: tuple[Child, ...], tsi: TsInitiator, tsr: TsResponder) -> list[tuple[Child, Selectors, Selectors]]:
    """Children with selectors in common with a request, narrowed to ours and the peer's; the best first."""
    fitting: list[tuple[bool, Child, Selectors, Selectors]] = []
    for spec in specs:
        remote, local = narrow(tsi.selectors, spec.remote), narrow(tsr.selectors, spec.local)
        if remote and local:
            # RFC 7296 2.9: where the first choice of the initiator is acceptable, the answer MUST include it.
            has_first = covers(spec.remote, tsi.selectors[:1]) and covers(spec.local, tsr.selectors[:1])
            fitting.append((has_first, spec, local, remote))
    if not fitting:
        came = f"{format_selectors(tsi.selectors)} to {format_selectors(tsr.selectors)}"
        raise NoCommonSelectors(f"TS: no child serves {came}")
    fitting.sort(key=lambda row: not row[0])
    return [row[1:] for row in fitting]


def _cut(name: str, proposed: Selectors, narrowed: Selectors) -> tuple[str, ...]:
    """A remark where `narrow` has not looked at all selectors, or not answered with all."""
    if len(proposed) > MAX_SELECTORS:
        return (f"{name}: {len(proposed)} selectors came, those after the first {MAX_SELECTORS} are left out",)
    if len(narrowed) == MAX_SELECTORS > len(proposed):
        return (f"{name}: in common are {MAX_SELECTORS} selectors or more, those after that are left out",)
    return ()


def answer_payloads(terms: ChildTerms, choice: EspChoice) -> tuple[Payload, ...]:
    """SA, TSi, TSr and the notifies that go with them, of our response."""
    notifies = (use_aggfrag(),) if terms.aggfrag else ()
    return SecurityAssociation((choice.answer,)), TsInitiator(terms.remote), TsResponder(terms.local), *notifies


def child_keys(
    terms: ChildTerms, prf_row: PrfRow, sk_d: Secret, nonces: tuple[bytes, bytes], shared: bytes = b""
) -> ChildKeys:
    """Keying material assigned to our directions (RFC 7296 2.17)."""
    keymat = ChildKeymat.derive(prf_row, terms.suite, sk_d, nonces[0], nonces[1], shared)
    to_responder = (keymat.initiator_to_responder, keymat.initiator_to_responder_integrity)
    to_initiator = (keymat.responder_to_initiator, keymat.responder_to_initiator_integrity)
    inbound, outbound = (to_initiator, to_responder) if terms.is_ours else (to_responder, to_initiator)
    return ChildKeys(inbound[0], inbound[1], outbound[0], outbound[1])


def _child_payloads(message: Message) -> tuple[SecurityAssociation, TsInitiator, TsResponder]:
    sa, tsi, tsr = message.first(SecurityAssociation), message.first(TsInitiator), message.first(TsResponder)
    if sa is None or tsi is None or tsr is None:
        raise MalformedMessage(f"{message.header.exchange.name}: a Child SA needs SA, TSi and TSr")
    return sa, tsi, tsr


def _spi(choice: EspChoice) -> int:
    spi = int.from_bytes(choice.answer.spi, "big")
    if spi < 256:
        raise PeerMisbehaved(f"SA: an ESP SPI is 256 or more (RFC 4303 2.1), not {spi}")
    return spi


def _received_spi(sa: SecurityAssociation, choice: EspChoice) -> int:
    """SPI of the proposal that was chosen."""
    for proposal in sa.proposals:
        if proposal.number == choice.answer.number:
            spi = int.from_bytes(proposal.spi, "big")
            if len(proposal.spi) == 4 and spi >= 256:
                return spi
    raise PeerMisbehaved("SA: an ESP proposal carries an SPI of 256 or more (RFC 4303 2.1)")
