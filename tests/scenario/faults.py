"""Every question of the core, in every state of both roles, and what can go wrong with its answer.

`python -m scenario.faults` (in `tests/`) prints the table: faults against questions, and how long it took until both hosts
were established again with nothing left over.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum

from openmoat.crypto.suites import X25519
from openmoat.ike.events import (
    Activity,
    Answer,
    AskActivity,
    AskInstall,
    AskKeyPair,
    AskOwnAuth,
    AskPath,
    AskPeerAuth,
    AskSharedSecret,
    AskSpis,
    Installed,
    KeyPair,
    OwnAuth,
    Paths,
    PeerAccepted,
    Question,
    Refused,
    SharedSecret,
    Spis,
    Unanswerable,
)
from openmoat.model.connection import IkeLifetimes, Start
from scenario.chaos import faults as leftovers
from scenario.link import Host, Link, child, connection

PATIENCE = 60.0
"""Seconds within which both hosts must be established again."""
LATE = 30.0
LIVENESS = 10.0


class Fault(Enum):
    """What becomes of one answer."""

    LOST = "lost"
    """It never comes."""
    RAISES = "raises"
    """Its maker fails: the daemon says that there is no answer."""
    BREAKS = "breaks"
    """The handler that gets it raises an exception."""
    LATE = "30 s late"
    REFUSED = "refused"
    """The data plane does not take the Child SA."""


@dataclass(frozen=True)
class Place:
    """Where a question is asked: what goes on, by the role of the host in it."""

    phase: str
    is_initiator: bool
    question: type

    def __str__(self) -> str:
        return f"{self.phase}, {'initiator' if self.is_initiator else 'responder'}: {self.question.__name__}"


@dataclass
class Outcome:
    """What came of one fault in one place."""

    state: str = "not asked"
    """Of the newest IKE SA of the host when the question was asked."""
    seconds: float | None = None
    """From the fault until both were established."""
    leftovers: list[str] = field(default_factory=list)
    raised: int = 0


HANDSHAKE: tuple[type, ...] = (AskSpis, AskKeyPair, AskSharedSecret, AskOwnAuth, AskPeerAuth, AskInstall)
CHILD: tuple[type, ...] = (AskKeyPair, AskSharedSecret, AskInstall)
IKE: tuple[type, ...] = (AskKeyPair, AskSharedSecret)


def places() -> Iterator[Place]:
    """Every question, by what goes on and the role of who asks it."""
    yield Place("handshake", True, AskPath)
    for is_initiator in (True, False):
        for phase, questions in (("handshake", HANDSHAKE), ("child rekey", CHILD), ("IKE rekey", IKE)):
            for question in questions:
                yield Place(phase, is_initiator, question)
        yield Place("new child", is_initiator, AskInstall)
        yield Place("liveness", is_initiator, AskActivity)


def cases() -> Iterator[tuple[Place, Fault]]:
    """Every place with every fault that can be there."""
    for place in places():
        for fault in Fault:
            if fault is not Fault.REFUSED or place.question is AskInstall:
                yield place, fault


def broken(question: Question, host: Host) -> Answer:
    """An answer that its handler cannot work with."""
    ticket, nothing = question.ticket, None
    match question:
        case AskSpis():
            return Spis(ticket, nothing)  # type: ignore[arg-type]
        case AskPath():
            return Paths(ticket, (nothing,))  # type: ignore[arg-type]
        case AskKeyPair():
            reply = host.reply(question)
            assert isinstance(reply, KeyPair)
            return replace(reply, public_value=nothing)  # type: ignore[arg-type]
        case AskSharedSecret():
            return SharedSecret(ticket, nothing)  # type: ignore[arg-type]
        case AskOwnAuth():
            return OwnAuth(ticket, nothing, nothing)  # type: ignore[arg-type]
        case AskActivity():
            return Activity(ticket, nothing, nothing)  # type: ignore[arg-type]
    # These say nothing that could be wrong: the source of random numbers fails where it is used next.
    host.fails_randomness = True
    reply = host.reply(question)
    assert isinstance(reply, (PeerAccepted, Installed))
    return reply


class Injector:
    """Spoils the answer to one question of a kind, and notes when."""

    def __init__(self, host: Host, place: Place, fault: Fault) -> None:
        self.host = host
        self.place = place
        self.fault = fault
        self.at: float | None = None
        self.outcome = Outcome()
        host.spoils = self.spoil

    def spoil(self, question: Question) -> bool:
        if self.at is not None or type(question) is not self.place.question:
            return False
        self.at = self.host.link.now
        states = [sa.state for sa in self.host.endpoint.ike_sas()]
        self.outcome.state = states[-1] if states else "-"
        match self.fault:
            case Fault.LOST:
                pass
            case Fault.RAISES:
                self.host.give(Unanswerable(question.ticket, "the part that answers has failed"))
            case Fault.BREAKS:
                self.host.give(broken(question, self.host))
            case Fault.LATE:
                self.host.link.think(self.host, question, LATE)
            case Fault.REFUSED:
                self.host.give(Refused(question.ticket, "there is no room"))
        return True


def hosts(link: Link) -> tuple[Host, Host]:
    """A home that begins, and a portal; both make new keys for each Child SA, and look for signs of life."""
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    lifetimes = IkeLifetimes(liveness_after=LIVENESS)
    here = child(methods=(X25519,))
    there = child(local="10.2.0.0/16", remote="10.1.0.0/16", start=Start.NONE, methods=(X25519,))
    portal.load(connection("portal.example", "home.example", None, there, lifetimes=lifetimes))
    home.connections["portal"] = connection("home.example", "portal.example", "198.51.100.1", here, lifetimes=lifetimes)
    return home, portal


def run_case(place: Place, fault: Fault) -> Outcome:
    """One fault in one place, and `PATIENCE` seconds after it."""
    link = Link(7)
    home, portal = hosts(link)
    actor = home if place.is_initiator else portal
    for host in (home, portal):
        host.raised = []
    if place.question is AskSpis:
        # Asked before anything else: by an endpoint that has just been made.
        injector = Injector(actor, place, fault)
        actor.restart()
    elif place.phase != "handshake":
        home.load(home.connections["portal"])
        link.run(3)
        injector = Injector(actor, place, fault)
    else:
        injector = Injector(actor, place, fault)
    begin(place.phase, home)
    return follow(link, home, portal, injector)


def begin(phase: str, home: Host) -> None:
    """Let the host that begins do what leads to the question."""
    match phase:
        case "handshake":
            home.load(home.connections["portal"])
        case "child rekey":
            home.do("rekey_child", next(iter(home.sas)))
        case "IKE rekey":
            home.do("rekey_ike", home.ike().ike)
        case "new child":
            home.do("delete_child", next(iter(home.sas)))


def follow(link: Link, home: Host, portal: Host, injector: Injector) -> Outcome:
    """Let time pass, and note from when on everything is in order, and stays so."""
    outcome, began = injector.outcome, link.now
    while link.now < (injector.at if injector.at is not None else began + LATE) + PATIENCE:
        link.run(0.5)
        if injector.at is not None and link.now > injector.at:
            if leftovers(home, portal):
                outcome.seconds = None
            elif outcome.seconds is None:
                outcome.seconds = link.now - injector.at
    outcome.leftovers = leftovers(home, portal)
    outcome.leftovers += [
        f"{host.name}: {host.endpoint.open_questions} questions wait"
        for host in (home, portal)
        if host.endpoint.open_questions
    ]
    outcome.leftovers += [
        f"{host.name}: an IKE SA without a lifetime"
        for host in (home, portal)
        for sa in host.ike_sas()
        if sa.rekey_at is None or sa.expires_at is None
    ]
    outcome.raised = sum(len(host.raised or ()) for host in (home, portal))
    return outcome


def table() -> Iterator[str]:
    """The outcome of every case, a line for each place."""
    width = max(len(str(place)) for place in places())
    yield f"{'question':{width}}  {'state':18}" + "".join(f"{fault.value:>11}" for fault in Fault)
    for place in places():
        cells, state = [], "-"
        for fault in Fault:
            if (place, fault) not in CASES:
                cells.append("")
                continue
            outcome = run_case(place, fault)
            state = outcome.state
            good = outcome.seconds is not None and not outcome.leftovers
            cells.append(f"{outcome.seconds:.1f} s" if good else "FAILS")
        yield f"{place!s:{width}}  {state:18}" + "".join(f"{cell:>11}" for cell in cells)


CASES = tuple(cases())

if __name__ == "__main__":
    for line in table():
        sys.stdout.write(f"{line}\n")
