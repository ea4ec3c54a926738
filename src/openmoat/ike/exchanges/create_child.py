"""Child SAs as initiator: CREATE_CHILD_SA for new ones and rekeys, and the Child SA of IKE_AUTH (RFC 7296 1.3, 2.8)."""

from openmoat.crypto.kex import seed_size
from openmoat.crypto.numbers import KeMethod
from openmoat.errors import Secret
from openmoat.ike.errors import MalformedMessage, NoCommonGround, PeerMisbehaved
from openmoat.ike.events import (
    Answer,
    AskInstall,
    AskKeyPair,
    AskSharedSecret,
    ChildSa,
    DownReason,
    Installed,
    KeyPair,
    Refused,
    RemoveChildSa,
    SharedSecret,
    WeakPublicValue,
)
from openmoat.ike.exchanges.answers import reason_of_notify, refusal_text
from openmoat.ike.exchanges.collisions import Ours, is_lowest
from openmoat.ike.exchanges.exchange import Again, Ask, Close, Done, Exchange, Failure, Send, Step, Want
from openmoat.ike.exchanges.informational import DeleteChildren, close_replaced, give_up
from openmoat.ike.negotiate.child_sa import ChildTerms, LiveChild, accept_response, offer_payloads
from openmoat.ike.session import Session
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import NotifyType, ProtocolId
from openmoat.ike.wire.payloads import NONCE_SIZE, KeyExchange, Nonce, Notify, Payload
from openmoat.ike.wire.rules import Phase
from openmoat.model.connection import Aggfrag, Child

__all__ = ["MAX_METHOD_CHANGES", "Creation", "FirstChild", "NewChild", "changed_method"]

MAX_METHOD_CHANGES = 2
"""Times one exchange of ours begins again with the method that INVALID_KE_PAYLOAD names; the next such answer fails it."""
MAX_REMEMBERED_DELETES = 64
"""Deletes of unknown Child SAs that one exchange of ours remembers."""
RETRY_REKEY = 20.0
"""Seconds after which a rekey that failed is tried again, while the old SA lives."""


def changed_method(error: Notify, offered: set[KeMethod], now: KeMethod | None, changes: int) -> KeMethod | None:
    """The method that the peer prefers (RFC 7296 1.3); None where we cannot, or will not, try it."""
    wanted = KeMethod(int.from_bytes(error.data, "big"))
    return wanted if wanted in offered and wanted is not now and changes <= MAX_METHOD_CHANGES else None


class Creation(Exchange):
    """What the first Child SA and further ones have in common: terms, keys, installation."""

    __slots__ = ("_deleted", "_installing", "_rival", "_spi", "replaces", "spec")

    def __init__(self, spec: Child, spi: int, replaces: int | None) -> None:
        super().__init__()
        self.spec = spec
        self.replaces = replaces
        self._spi = spi
        """Inbound SPI that was offered; 0 where we hold none."""
        self._installing: ChildSa | None = None
        self._rival: tuple[bytes, bytes] | None = None
        """Nonces of an exchange of the peer with the same purpose, of several those that ours is lower than most easily. They
        decide even when its Child SA is gone again."""
        self._deleted: set[int] = set()
        """SPIs that the peer has deleted before our response came: it may have made and deleted the SA that we await."""

    def ours(self, spi: int | None) -> Ours:
        """See `Exchange.ours`."""
        if spi is not None and spi == self.replaces:
            return Ours.REKEYING_THIS_CHILD
        return Ours.CREATING_CHILD

    def note_deleted(self, remote_spi: int) -> None:
        """See `Exchange.note_deleted`."""
        if len(self._deleted) < MAX_REMEMBERED_DELETES:
            self._deleted.add(remote_spi)

    def meet(self, nonces: tuple[bytes, bytes]) -> None:
        """The peer has made a Child SA for the same purpose, with these nonces."""
        self._rival = nonces if self._rival is None else max(self._rival, nonces, key=min)

    def install(self, session: Session, terms: ChildTerms, nonces: tuple[bytes, bytes], shared: bytes = b"") -> Step:
        """Have both halves installed; sending begins afterwards."""
        try:
            session.check_terms(terms)
        except NoCommonGround as error:
            # A responder may narrow as it likes, also to what is another's. It has the SA, and must learn that we do not.
            return self._give_up(session, terms, str(error))
        keys = session.child_keys(terms, nonces, shared)
        child = session.child_sa(terms)
        self._installing = child
        return Ask(lambda t: AskInstall(t, child, keys), lambda a: self._on_installed(session, child, nonces, a))

    def _give_up(self, session: Session, terms: ChildTerms, text: str) -> Step:
        """The Child SA is made at the peer, and is no good; the same without AGGFRAG may be, where that is only preferred."""
        undo = Want(DeleteChildren((self._spi,)))
        if not (terms.fault and terms.aggfrag and terms.spec.aggfrag is Aggfrag.PREFER):
            return self._fail(session, DownReason.NO_COMMON_GROUND, None, text, undo)
        session.peer.demanding |= {terms.spec.name}
        self._return_spi(session)
        again = Want(NewChild(self.spec, self.replaces), first=False)
        return Done((undo, again), self._failure(DownReason.NO_COMMON_GROUND, None, text))

    def _on_installed(self, session: Session, child: ChildSa, nonces: tuple[bytes, bytes], answer: Answer) -> Step:
        if isinstance(answer, Installed):
            return self._conclude(
                session, LiveChild(sa=session.refreshed(child), spec=self.spec, nonces=nonces, is_ours=True)
            )
        # The peer has it already, and must learn that nobody receives.
        undo = Want(DeleteChildren((self._spi,)))
        if isinstance(answer, Refused):
            self._installing, self._spi = None, 0  # the data plane has let it go with the rest
        return self._fail(session, DownReason.LOCAL, None, refusal_text(answer), undo)

    def _conclude(self, session: Session, child: LiveChild) -> Done:
        """The new SA is installed: send with it, unless the peer's exchange has won (RFC 7296 2.8.1)."""
        peer = session.peer
        old = peer.children.get(self.replaces or 0)
        if old is not None:
            child.origin = old.first
        peer.add(child)
        self._installing, self._spi = None, 0
        if old is not None and old.is_lost:
            return Done(give_up(child))
        if child.sa.remote_spi in self._deleted:
            peer.remove(child.sa.local_spi, DownReason.PEER_DELETED)
            return Done()
        if any(is_lowest(child.nonces, rival) for rival in self._all_rivals()):
            return Done(give_up(child))
        peer.activate(child)
        wants = close_replaced(session, self.replaces)
        if self.theirs is not None:
            self.theirs.lose(self.spec.name, self.replaces)
        return Done(wants)

    def _all_rivals(self) -> list[tuple[bytes, bytes]]:
        """Also the one whose request we are still answering."""
        nonces = self.theirs.rival(self.spec.name, self.replaces) if self.theirs is not None else None
        return [rival for rival in (self._rival, nonces) if rival is not None]

    def _failure(self, reason: DownReason, notify: int | None, text: str) -> Failure:
        return Failure(self.kind, notify, reason, text)

    def _fail(
        self, session: Session, reason: DownReason, notify: int | None, text: str, undo: Want | None = None
    ) -> Done:
        """Tell why there is no such Child SA, and let `Upkeep` try again."""
        self._let_go(session)
        self._lose(session, reason, text)
        return Done((undo,) if undo is not None else (), self._failure(reason, notify, text))

    def _lose(self, session: Session, reason: DownReason, text: str) -> None:
        if self.replaces is not None and self.replaces in session.peer.children:
            session.peer.rekey_later(self.replaces, RETRY_REKEY)
        else:
            session.peer.fail(self.spec.name, reason, text)

    def end(self, session: Session, reason: DownReason) -> Done:
        """See `Exchange.end`."""
        self._let_go(session)
        self._lose(session, reason, "")
        return Done()

    def _let_go(self, session: Session) -> None:
        """Give back what is held: an SPI, or a Child SA that may or may not be in the data plane."""
        if self._installing is not None:
            session.context.emit(RemoveChildSa(self._installing.local_spi))
            self._installing, self._spi = None, 0
        self._return_spi(session)

    def _return_spi(self, session: Session) -> None:
        if self._spi:
            session.context.return_spi(self._spi)
            self._spi = 0


class FirstChild(Creation):
    """The Child SA of IKE_AUTH, from its response on (RFC 7296 1.2)."""

    __slots__ = ("_nonces",)
    phase = Phase.AUTH

    def __init__(self, spec: Child, spi: int, nonces: tuple[bytes, bytes]) -> None:
        super().__init__(spec, spi, None)
        self._nonces = nonces
        self.is_sent = True  # with the IKE_AUTH request

    def start(self, session: Session) -> Step:
        """The request was part of IKE_AUTH."""
        return Done()

    def on_response(self, session: Session, message: Message) -> Step:
        """See `Exchange.on_response`."""
        error = message.error()
        if error is not None:
            text = f"IKE_AUTH: the peer answers {error.type.name}"
            return self._fail(session, reason_of_notify(error.type), int(error.type), text)
        terms = accept_response(message, self.spec, self._spi, with_key_exchange=False)
        return self.install(session, terms, self._nonces)


class NewChild(Creation):
    """A Child SA by CREATE_CHILD_SA; `replaces` names, by our SPI, the one it rekeys."""

    __slots__ = ("_changes", "_method", "_nonce", "_private")
    phase = Phase.CREATE_CHILD

    def __init__(self, spec: Child, replaces: int | None = None) -> None:
        super().__init__(spec, 0, replaces)
        self._method: KeMethod | None = next((m.id for row in spec.proposals for m in row.key_exchanges), None)
        self._nonce = b""
        self._private = Secret()
        self._changes = 0

    def is_same(self, other: Exchange) -> bool:
        """See `Exchange.is_same`."""
        return isinstance(other, NewChild) and (other.spec.name, other.replaces) == (self.spec.name, self.replaces)

    def start(self, session: Session) -> Step:
        """See `Exchange.start`."""
        if not self._is_wanted(session):
            return Done()
        context = session.context
        self._spi = context.take_spi() or 0
        if not self._spi:
            return self._fail(session, DownReason.LOCAL, None, "no SPI is at hand")
        if self._method is None:
            return self._send(session, None)
        method, seed = self._method, Secret(context.random(seed_size(self._method)))
        return Ask(lambda t: AskKeyPair(t, method, seed), lambda a: self._on_key_pair(session, a))

    def _is_wanted(self, session: Session) -> bool:
        """Whether there is still something to do when our turn comes."""
        if self.replaces is None:
            return session.peer.lasting(self.spec.name) is None
        old = session.peer.children.get(self.replaces)
        return old is not None and not old.is_closing and not old.is_replaced

    def _on_key_pair(self, session: Session, answer: Answer) -> Step:
        if not isinstance(answer, KeyPair):
            return self._fail(session, DownReason.LOCAL, None, refusal_text(answer))
        if not self._is_wanted(session):
            self._return_spi(session)
            return Done()
        self._private = answer.private
        return self._send(session, answer.public_value)

    def _send(self, session: Session, public_value: bytes | None) -> Step:
        self._nonce = session.context.random(NONCE_SIZE)
        payloads: list[Payload] = []
        if self.replaces is not None:
            old = self.replaces.to_bytes(4, "big")
            payloads.append(Notify(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=old))
        sa_payload, *selectors = offer_payloads(session.peer.offered(self.spec), self._spi, with_key_exchange=True)
        payloads += [sa_payload, Nonce(self._nonce)]
        if public_value is not None and self._method is not None:
            payloads.append(KeyExchange(self._method, public_value))
        return Send([*payloads, *selectors])

    def on_response(self, session: Session, message: Message) -> Step:
        """See `Exchange.on_response`."""
        error = message.error()
        if error is not None:
            return self._on_error(session, error)
        nonce = message.first(Nonce)
        if nonce is None:
            raise MalformedMessage("CREATE_CHILD_SA response: Nr must be there")
        offered = session.peer.offered(self.spec)
        terms = accept_response(message, offered, self._spi, with_key_exchange=True, replaces=self.replaces)
        nonces = (self._nonce, nonce.octets)
        if terms.method is None:
            return self.install(session, terms, nonces)
        exchange = message.first(KeyExchange)
        if exchange is None or exchange.method is not terms.method or terms.method is not self._method:
            raise PeerMisbehaved(f"KE response: a value of {terms.method.name} must be there")
        method, private = terms.method, self._private
        return Ask(
            lambda t: AskSharedSecret(t, method, private, exchange.public_value),
            lambda a: self._on_secret(session, terms, nonces, a),
        )

    def _on_secret(self, session: Session, terms: ChildTerms, nonces: tuple[bytes, bytes], answer: Answer) -> Step:
        if isinstance(answer, SharedSecret):
            return self.install(session, terms, nonces, answer.secret)
        if isinstance(answer, WeakPublicValue):
            raise PeerMisbehaved(f"KE response: {answer.text}")
        # The peer has the Child SA, and must learn that we do not.
        undo = Want(DeleteChildren((self._spi,)))
        return self._fail(session, DownReason.LOCAL, None, refusal_text(answer), undo)

    def _on_error(self, session: Session, error: Notify) -> Step:
        if self._all_rivals() or (self.replaces is not None and not self._is_wanted(session)):
            # RFC 7296 2.8.1: the peer has done it before us, or what we wanted to rekey is gone.
            self._return_spi(session)
            return Done()
        text = f"CREATE_CHILD_SA: the peer answers {error.type.name}"
        match error.type:
            case NotifyType.INVALID_KE_PAYLOAD if self._change_method(error):
                self._return_spi(session)
                return Again(is_busy=False)
            case NotifyType.TEMPORARY_FAILURE:
                self._return_spi(session)
                return Again(is_busy=True)
            case NotifyType.CHILD_SA_NOT_FOUND if self.replaces is not None:
                # RFC 7296 2.25: the peer has lost it, so it is no use to us; begin from scratch.
                self._return_spi(session)
                session.peer.remove(self.replaces, DownReason.PEER_DELETED, "the peer does not know it")
                return Done()
            case NotifyType.INVALID_SYNTAX:
                # RFC 7296 2.21.3: the IKE SA is gone at the peer, without a Delete.
                done = self._fail(session, DownReason.REFUSED, int(error.type), text)
                return Done(failure=done.failure, outcome=Close(DownReason.REFUSED, text))
            case _:
                return self._fail(session, reason_of_notify(error.type), int(error.type), text)

    def _change_method(self, error: Notify) -> bool:
        """Whether to try again with the method the peer prefers."""
        offered = {row.id for proposal in self.spec.proposals for row in proposal.key_exchanges}
        self._changes += 1
        wanted = changed_method(error, offered, self._method, self._changes)
        self._method = wanted or self._method
        return wanted is not None
