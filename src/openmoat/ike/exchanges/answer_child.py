"""Child SAs as responder: new ones, rekeys, and the Child SA of an IKE_AUTH request (RFC 7296 1.3, 2.8)."""

from typing import assert_never

from openmoat.crypto.kex import seed_size
from openmoat.crypto.numbers import KeMethod
from openmoat.errors import Secret
from openmoat.ike.config import Count
from openmoat.ike.errors import (
    Busy,
    MalformedMessage,
    NoAdditionalSas,
    PeerMisbehaved,
    ProtocolError,
    WrongKeyExchange,
)
from openmoat.ike.events import (
    Answer,
    AskInstall,
    AskKeyPair,
    AskSharedSecret,
    ChildSa,
    Installed,
    KeyPair,
    Refused,
    RemoveChildSa,
    SharedSecret,
)
from openmoat.ike.exchanges.answers import refusal_text, secret_error
from openmoat.ike.exchanges.collisions import Ours, Theirs, Verdict, answer, is_lowest
from openmoat.ike.exchanges.create_child import Creation
from openmoat.ike.exchanges.exchange import Ask, Doing, Done, Failure, PeerExchange, Reply, Step
from openmoat.ike.exchanges.informational import give_up
from openmoat.ike.negotiate.child_sa import ChildTerms, LiveChild, answer_payloads, choose_child
from openmoat.ike.negotiate.choice import EspChoice
from openmoat.ike.scopes import reason_of
from openmoat.ike.session import Session
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.wire.payloads import NONCE_SIZE, KeyExchange, Nonce, Notify, Payload, SecurityAssociation
from openmoat.model.connection import Child

__all__ = ["AnswerChild", "AnswerFirst", "AnswerNew"]


class AnswerChild(PeerExchange):
    """A request for a Child SA, on its way through key exchange and installation to the response."""

    __slots__ = ("_choice", "_installing", "_is_lost", "_message", "_nonces", "_spi", "_terms")

    def __init__(self, message: Message) -> None:
        super().__init__()
        self._message = message
        self._terms: ChildTerms | None = None
        self._choice: EspChoice | None = None
        self._nonces = (b"", b"")
        self._spi = 0
        self._installing: ChildSa | None = None
        self._is_lost = False
        """An exchange of ours with the same purpose was through first, and has won."""

    def rival(self, name: str, replaces: int | None) -> tuple[bytes, bytes] | None:
        """See `PeerExchange.rival`."""
        return self._nonces if self._is_for(name, replaces) else None

    def lose(self, name: str, replaces: int | None) -> None:
        """See `PeerExchange.lose`."""
        self._is_lost |= self._is_for(name, replaces)

    def _is_for(self, name: str, replaces: int | None) -> bool:
        terms = self._terms
        if terms is None:
            return False
        if terms.replaces is not None or replaces is not None:
            return terms.replaces == replaces
        return terms.spec.name == name

    def choose(
        self, session: Session, specs: tuple[Child, ...], replaces: int | None, *, with_key_exchange: bool
    ) -> ChildTerms:
        """Agree on one of these children, or raise why not."""
        spi = session.context.take_spi()
        if spi is None:
            raise Busy("CREATE_CHILD_SA: no SPI is at hand")
        self._spi = spi
        terms, self._choice = choose_child(
            self._message, specs, spi, with_key_exchange=with_key_exchange, replaces=replaces
        )
        session.check_owner(terms)
        self._terms = terms
        return terms

    def install(self, session: Session, terms: ChildTerms, own: KeyExchange | None, shared: bytes = b"") -> Step:
        """Have it installed before the response lets the peer send."""
        session.check_owner(terms)  # another peer may have come while the keys were computed
        keys = session.child_keys(terms, self._nonces, shared)
        child = session.child_sa(terms)
        self._installing = child
        return Ask(lambda t: AskInstall(t, child, keys), lambda a: self._on_installed(session, terms, child, own, a))

    def _on_installed(
        self, session: Session, terms: ChildTerms, child: ChildSa, own: KeyExchange | None, answer: Answer
    ) -> Step:
        if isinstance(answer, Installed):
            live = LiveChild(sa=session.refreshed(child), spec=terms.spec, nonces=self._nonces, is_ours=False)
            return Reply(self.payloads(terms, own), lambda: self.conclude(session, live))
        if isinstance(answer, Refused):
            self._installing, self._spi = None, 0  # the data plane has let it go with the rest
        is_temporary = not isinstance(answer, Refused) or answer.is_temporary
        return self.refuse(session, (Busy if is_temporary else NoAdditionalSas)(f"data plane: {refusal_text(answer)}"))

    def payloads(self, terms: ChildTerms, own: KeyExchange | None) -> list[Payload]:
        """What the response says."""
        if self._choice is None:
            raise ValueError("CREATE_CHILD_SA: answered before a proposal was chosen")
        sa_payload, *selectors = answer_payloads(terms, self._choice)
        payloads: list[Payload] = [sa_payload, Nonce(self._nonces[1])]
        if own is not None:
            payloads.append(own)
        return [*payloads, *selectors]

    def refuse(self, session: Session, error: ProtocolError) -> Step:
        """There will be no Child SA."""
        raise error

    def conclude(self, session: Session, child: LiveChild) -> Done:
        """The response is out. A new SA is used at once, a rekeyed one when the peer does (RFC 7296 2.8)."""
        peer = session.peer
        old = peer.children.get(child.sa.replaces or 0)
        twin = peer.lasting(child.spec.name) if child.sa.replaces is None else None
        if old is not None:
            child.origin = old.first
        peer.add(child)
        self._installing, self._spi = None, 0
        self._meet(child)
        if self._is_lost:
            return Done()  # the peer will close it
        if child.sa.replaces is not None:
            if old is None:
                peer.activate(child)
            return Done()
        rival, is_rival_ours = twin.first if twin is not None else (child.nonces, False)
        if is_rival_ours and is_lowest(child.nonces, rival):
            return Done()  # the peer has begun the same as we had, and will close its own
        peer.activate(child)
        return Done(give_up(twin) if twin is not None and is_rival_ours else ())

    def _meet(self, child: LiveChild) -> None:
        """Let an exchange of ours with the same purpose know."""
        ours, replaces = self.ours, child.sa.replaces
        if not isinstance(ours, Creation) or not ours.is_sent:
            return
        doing = ours.ours(replaces)
        if doing is Ours.CREATING_CHILD and ours.replaces is None and ours.spec.name == child.spec.name:
            doing = Ours.CREATING_THIS_CHILD
        theirs = Theirs.REKEY_CHILD if replaces is not None else Theirs.CREATE_CHILD
        match answer(theirs, doing):
            case Verdict.ANSWER_AND_COMPARE:
                ours.meet(child.nonces)
            case (
                Verdict.ANSWER
                | Verdict.ANSWER_WITHOUT_DELETE
                | Verdict.ANSWER_AND_REMEMBER
                | Verdict.TEMPORARY_FAILURE
                | Verdict.CHILD_SA_NOT_FOUND
            ):
                pass  # the two do not touch each other, and it has been carried out already
            case never:
                assert_never(never)

    def end(self, session: Session) -> None:
        """See `PeerExchange.end`."""
        if self._installing is not None:
            session.context.emit(RemoveChildSa(self._installing.local_spi))
            self._installing = None
        elif self._spi:
            session.context.return_spi(self._spi)
        self._spi = 0


class AnswerNew(AnswerChild):
    """CREATE_CHILD_SA: the peer wants a Child SA, or to rekey one."""

    __slots__ = ()
    kind = ExchangeType.CREATE_CHILD_SA

    def start(self, session: Session, doing: Doing) -> Step:
        """See `PeerExchange.start`."""
        rekey = self._message.notify(NotifyType.REKEY_SA)
        old = _rekeyed(session, rekey) if rekey is not None else None
        theirs = Theirs.CREATE_CHILD
        if rekey is not None:
            theirs = Theirs.REKEY_CHILD if old is not None else Theirs.REKEY_MISSING_CHILD
        ours = doing(old.sa.local_spi if old is not None else None)
        match answer(theirs, ours):
            case Verdict.TEMPORARY_FAILURE:
                raise Busy(f"CREATE_CHILD_SA: {theirs.name} while {ours.name}")
            case Verdict.CHILD_SA_NOT_FOUND:
                return Reply([_not_found(rekey)] if rekey is not None else [], Done)
            case (
                Verdict.ANSWER
                | Verdict.ANSWER_AND_COMPARE
                | Verdict.ANSWER_WITHOUT_DELETE
                | Verdict.ANSWER_AND_REMEMBER
            ):
                return self._begin(session, old)
            case never:
                assert_never(never)

    def _begin(self, session: Session, old: LiveChild | None) -> Step:
        message, context, peer = self._message, session.context, session.peer
        if len(peer.children) >= context.config.max_children:
            context.counts[Count.CHILDREN_LIMIT] += 1
            raise NoAdditionalSas(
                f"CREATE_CHILD_SA: at most {context.config.max_children} Child SAs, one more asked for"
            )
        nonce = message.first(Nonce)
        if nonce is None:
            raise MalformedMessage("CREATE_CHILD_SA request: Ni must be there")
        specs = (old.spec,) if old is not None else session.host.connections.children(peer.connection.name)
        replaces = old.sa.local_spi if old is not None else None
        terms = self.choose(session, specs, replaces, with_key_exchange=True)
        self._nonces = (nonce.octets, context.random(NONCE_SIZE))
        if terms.method is None:
            return self.install(session, terms, None)
        exchange = message.first(KeyExchange)
        if exchange is None or exchange.method is not terms.method:
            raise WrongKeyExchange(f"KE: {terms.method.name} is wanted", int(terms.method).to_bytes(2, "big"))
        method, seed = terms.method, Secret(context.random(seed_size(terms.method)))
        return Ask(
            lambda t: AskKeyPair(t, method, seed),
            lambda a: self._on_key_pair(session, terms, method, exchange.public_value, a),
        )

    def _on_key_pair(
        self, session: Session, terms: ChildTerms, method: KeMethod, peer_value: bytes, answer: Answer
    ) -> Step:
        if not isinstance(answer, KeyPair):
            raise Busy(f"key pair: {refusal_text(answer)}")
        own = KeyExchange(method, answer.public_value)
        return Ask(
            lambda t: AskSharedSecret(t, method, answer.private, peer_value),
            lambda a: self._on_secret(session, terms, own, a),
        )

    def _on_secret(self, session: Session, terms: ChildTerms, own: KeyExchange, answer: Answer) -> Step:
        if not isinstance(answer, SharedSecret):
            raise secret_error(answer)
        return self.install(session, terms, own, answer.secret)


class AnswerFirst(AnswerChild):
    """The Child SA that an IKE_AUTH request asks for; an error becomes a notify beside our AUTH (RFC 7296 2.21.2)."""

    __slots__ = ("_proof",)
    kind = ExchangeType.IKE_AUTH

    def __init__(self, message: Message, nonces: tuple[bytes, bytes], proof: list[Payload]) -> None:
        super().__init__(message)
        self._nonces = nonces
        self._proof = proof
        """What the response says of ourselves."""

    def start(self, session: Session, doing: Doing) -> Step:
        """See `PeerExchange.start`."""
        if self._message.first(SecurityAssociation) is None:
            return Reply(self._proof, Done)
        specs = session.host.connections.children(session.peer.connection.name)
        try:
            terms = self.choose(session, specs, None, with_key_exchange=False)
            return self.install(session, terms, None)
        except (MalformedMessage, PeerMisbehaved):
            raise
        except ProtocolError as error:
            return self.refuse(session, error)

    def payloads(self, terms: ChildTerms, own: KeyExchange | None) -> list[Payload]:
        """See `AnswerChild.payloads`."""
        if self._choice is None:
            raise ValueError("IKE_AUTH: answered before a proposal was chosen")
        return [*self._proof, *answer_payloads(terms, self._choice)]

    def refuse(self, session: Session, error: ProtocolError) -> Step:
        """See `AnswerChild.refuse`. The IKE SA does not fail with it."""
        self.end(session)
        notify = [Notify(error.notify, error.data)] if error.notify is not None else []
        failure = Failure(self.kind, error.notify, reason_of(error), str(error), notify_sent=True)
        return Reply([*self._proof, *notify], lambda: Done(failure=failure))


def _not_found(rekey: Notify) -> Notify:
    """RFC 7296 2.25: the SPI is copied from the request."""
    return Notify(NotifyType.CHILD_SA_NOT_FOUND, protocol=rekey.protocol, spi=rekey.spi)


def _rekeyed(session: Session, rekey: Notify) -> LiveChild | None:
    """The Child SA a REKEY_SA names by the peer's inbound SPI."""
    if rekey.protocol is not ProtocolId.ESP or len(rekey.spi) != 4:
        return None
    peer = session.peer
    return peer.children.get(peer.by_remote.get(int.from_bytes(rekey.spi, "big"), 0))
