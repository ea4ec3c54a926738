"""The control plane measured: handshakes as responder, memory per SA, a storm of initiators; ours beside charon.

Each subject is started anew for each of its turns, pinned to the first core, and meets the same initiators on the last
one; turns alternate (ABAB). CPU is that of all threads of the responder. The initiators' own CPU is part of the result:
where they had some left, the responder set the pace.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from openmoat import __version__
from openmoat_lab.bench.initiators import Account, Plan
from openmoat_lab.bench.results import Missing, Ratio, Result, Row
from openmoat_lab.namespaces import Lab
from openmoat_lab.peers.moatd import Moatd
from openmoat_lab.peers.strongswan import StrongSwan, SwanChild, SwanConnection, SwanEnd, SwanKeys
from openmoat_lab.pki import Authority, Holder
from openmoat_lab.processes import LabError, run
from openmoat_lab.topology import DEFAULT_MTU, End, Host, Link, Topology
from openmoat_lab.usage import TICK, cpu_seconds, pin, proportional_octets

__all__ = [
    "AUTHENTICATIONS",
    "OURS",
    "RESPONDERS",
    "Options",
    "Site",
    "Turn",
    "control_rows",
    "meet",
    "plan_of",
    "raised",
    "storm_rows",
]

RESPONDER, INITIATORS = "192.0.2.1", "192.0.2.2"
SOURCES = "100.64.0.0"
"""Source address of initiator 0: each has its own, as moats have."""
SOURCE_NET = "100.64.0.0/12"
IDENTITY, EVERYBODY = "portal.example", "*.homes.example"
LOCAL, REMOTE, INSIDE = "10.200.0.0/16", "10.0.0.0/9", "10.200.0.1/16"
SUITE, IKE_SUITE = "aes128gcm16", "aes128gcm16-prfsha256-x25519"
PSK = "a secret between many initiators and one responder"
OURS = "openmoat"
THEIRS = "strongswan"
AUTHENTICATIONS: Mapping[str, str] = {"psk": "PSK", "ecdsa": "ECDSA P-256 certificates"}
STORM = 1_000
STORM_SECONDS = 10.0
TURN_SECONDS = 0.020
"""CPU time that one turn of the event loop may take (as in `daemon.turns`)."""
CPU_LEFT = 0.95
"""Share of a core from which on the initiators, not the responder, are assumed to have set the pace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much is measured."""

    rounds: int = 3
    handshakes: tuple[int, ...] = (500, 2_000)
    """Of one turn, for each number of SAs that is compared."""
    window: int = 48
    """Handshakes in progress at a time."""
    authentications: tuple[str, ...] = tuple(AUTHENTICATIONS)
    patience: float = 120.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One responder and its initiators, once."""

    account: Account
    cpu_seconds: float
    """Of all threads of the responder, while it was asked."""
    octets: int
    """Growth of its memory (PSS) meanwhile."""

    @property
    def per_cpu_second(self) -> float:
        """Handshakes per second of the responder's CPU time."""
        return self.account.established / max(self.cpu_seconds, TICK)

    @property
    def per_second(self) -> float:
        """Handshakes per second of wall-clock time."""
        return self.account.established / self.account.seconds

    @property
    def octets_per_sa(self) -> float:
        """Of one IKE SA with its Child SA."""
        return self.octets / self.account.established


class Responder(Protocol):
    """A daemon of the lab."""

    def start(self) -> None:
        """Start it and wait until it listens."""
        ...

    @property
    def pid(self) -> int:
        """Of its process."""
        ...

    def kill(self) -> None:
        """End it at once, without Deletes."""
        ...


def initiators_and_responder() -> Topology:
    """Two hosts and a cable; the initiators' addresses are added by `meet`."""
    return Topology(
        name="initiators-and-responder",
        hosts=(Host(name="initiators"), Host(name="responder")),
        links=(
            Link(
                a=End.of("initiators", "wan", f"{INITIATORS}/24"),
                b=End.of("responder", "wan", f"{RESPONDER}/24"),
            ),
        ),
    )


@dataclass(frozen=True, slots=True)
class Site:
    """What both subjects are configured with."""

    authentication: str
    root: Authority
    holder: Holder

    @classmethod
    def of(cls, authentication: str) -> "Site":
        """With fresh keys, all of them ECDSA P-256."""
        root = Authority.root("Lab authority")
        return cls(authentication, root, root.certify(IDENTITY))

    def proof(self) -> tuple[str, str]:
        """How an initiator authenticates itself: `Plan.psk` and `Plan.authority`."""
        if self.authentication == "psk":
            return PSK, ""
        return "", (self.root.key.private_pem + self.root.certificate_pem).decode()


def moatd(lab: Lab, site: Site, settings: Mapping[str, Any]) -> Responder:
    """Our daemon with one template. Limits on unknown peers are as they are by default, unless `settings` change them."""
    # Initiators of a benchmark fall silent after the handshake, so no probe of the path MTU would be answered.
    child = {"local": [LOCAL], "remote": [REMOTE], "proposals": [SUITE], "path-mtu": DEFAULT_MTU}
    own: dict[str, Any] = {"identity": IDENTITY}
    peer: dict[str, Any] = {"identity": EVERYBODY}
    table: dict[str, Any] = {"local": own, "peer": peer, "children": {"net": child}}
    if site.authentication == "psk":
        table["psk"] = "psk"
    else:
        own.update({"key": "own.key", "certificates": ["own.pem"]})
        peer["ca-certificates"] = ["root.pem"]
    table = {"proposals": [IKE_SUITE], "lifetimes": {"liveness-after": "0s"}, **table}
    files = {
        "psk": PSK.encode(),
        "own.key": site.holder.key.private_pem,
        "own.pem": site.holder.certificate_pem,
        "root.pem": site.root.certificate_pem,
    }
    wanted = {"log-level": "warning", "key-log": "", **settings}
    return Moatd(lab, "responder", {"homes": table}, files, wanted)


def charon(lab: Lab, site: Site, settings: Mapping[str, Any]) -> Responder:
    """The peer as its documentation tunes it for many initiators: big hash tables, no DoS limits, nothing logged."""
    is_psk = site.authentication == "psk"
    auth = "psk" if is_psk else "ecdsa-sha256"
    record = SwanConnection(
        local=SwanEnd(identity=IDENTITY, auth=auth, certificates=() if is_psk else ("own.pem",)),
        remote=SwanEnd(
            identity=EVERYBODY, auth="psk" if is_psk else "pubkey", authorities=() if is_psk else ("root.pem",)
        ),
        proposals=IKE_SUITE,
        children=(SwanChild(local=LOCAL, remote=REMOTE, proposals=SUITE),),
        extra={"unique": "never"},
    )
    keys = SwanKeys(shared=((PSK, ()),)) if is_psk else SwanKeys(
        private={"own.key": site.holder.key.private_pem},
        certificates={"own.pem": site.holder.certificate_pem},
        authorities={"root.pem": site.root.certificate_pem},
    )  # fmt: skip
    tuned = {
        "ikesa_table_size": "4096",
        "ikesa_table_segments": "16",
        "dos_protection": "no",
        "cookie_threshold": "0",
        "block_threshold": "0",
        "init_limit_half_open": "0",
        "filelog": {"all": {"path": str(lab.directory / "charon.log"), "default": "-1"}},
        **settings,
    }
    return StrongSwan(lab, "responder", [record], keys, tuned)


RESPONDERS: Mapping[str, Callable[[Lab, Site, Mapping[str, Any]], Responder]] = {OURS: moatd, THEIRS: charon}


@contextmanager
def raised(name: str, site: Site, settings: Mapping[str, Any] | None = None) -> Iterator[tuple[Lab, Responder]]:
    """A lab with a responder that runs on the first core."""
    with Lab(initiators_and_responder()) as lab:
        lab.run("initiators", "ip", "route", "add", "local", SOURCE_NET, "dev", "lo")
        lab.run("responder", "ip", "route", "add", SOURCE_NET, "via", INITIATORS)
        # kernel-libipsec wants an address of its own inside for the route that it makes for each peer.
        lab.run("responder", "ip", "address", "add", INSIDE, "dev", "lo")
        responder = RESPONDERS[name](lab, site, settings or {})
        responder.start()
        pin(responder.pid, min(os.sched_getaffinity(0)))
        yield lab, responder


def meet(lab: Lab, responder: Responder, plan: Plan) -> Turn:
    """Run the initiators on the last core, and measure what they cost the responder."""
    core = max(os.sched_getaffinity(0))
    before, octets = cpu_seconds(responder.pid), proportional_octets(responder.pid)
    done = lab.run(
        "initiators", "taskset", "-c", str(core), sys.executable, "-m", "openmoat_lab.bench.initiators",
        text=json.dumps(asdict(plan)), seconds=plan.patience + 60,
    )  # fmt: skip
    account = Account(**json.loads(done.stdout))
    spent = cpu_seconds(responder.pid) - before
    return Turn(account, spent, proportional_octets(responder.pid) - octets)


def control_rows(options: Options, say: Callable[[str], None] = lambda text: None) -> Iterator[Row]:
    """Measure, and give results, ratios and what is missing."""
    subjects = {OURS: __version__}
    if shutil.which("charon-systemd") is None:
        yield Missing(
            THEIRS, "charon-systemd is not installed; on Debian: apt-get install charon-systemd strongswan-swanctl"
        )
    else:
        subjects[THEIRS] = run(["dpkg-query", "-W", "-f=${Version}", "charon-systemd"], check=False).stdout or "?"
    for authentication in options.authentications:
        site = Site.of(authentication)
        for count in options.handshakes:
            words = f"{AUTHENTICATIONS[authentication]}, {count} IKE SAs"
            turns: dict[str, list[Turn]] = {name: [] for name in subjects}
            for number in range(options.rounds):
                for name in subjects:
                    say(f"handshakes, {words}: round {number + 1} of {options.rounds}, {name}")
                    turns[name].append(_turn(name, site, count, options))
            yield from _handshake_rows(words, subjects, turns)
    say(f"storm of {STORM} initiators")
    yield from storm_rows(Site.of("psk"))


def storm_rows(site: Site, count: int = STORM) -> Iterator[Row]:
    """All initiators at once, against our daemon with the default limits on unknown peers."""
    work = f"storm of {count} initiators, PSK"
    with raised(OURS, site) as (lab, responder):
        turn = meet(lab, responder, plan_of(site, count, count, 60.0))
        loop = responder.ask("status")["loop"] if isinstance(responder, Moatd) else {"longest": 0.0}
    if turn.account.established < count:
        yield Missing(work, f"{turn.account.established} of {count} were up; {'; '.join(turn.account.faults)}")
        return
    yield Result.of(work, OURS, __version__, "s", [turn.account.seconds])
    yield Ratio(work, "all up", turn.account.seconds, STORM_SECONDS, at_least=False, unit="s")
    longest = f"CPU time of one turn of the event loop, {work}"
    yield Ratio(longest, "the longest", 1000 * loop["longest"], 1000 * TURN_SECONDS, at_least=False, unit="ms")


def plan_of(site: Site, count: int, window: int, patience: float) -> Plan:
    """A plan against the responder of the lab."""
    psk, authority = site.proof()
    return Plan(
        responder=RESPONDER,
        count=count,
        window=window,
        first=256,
        sources=SOURCES,
        psk=psk,
        authority=authority,
        patience=patience,
    )


def _turn(name: str, site: Site, count: int, options: Options) -> Turn:
    # Both sides have no limits on unknown peers here: only handshakes are measured.
    settings = {"cookie-threshold": 1 << 20, "max-half-open": 1 << 20} if name == OURS else {}
    with raised(name, site, settings) as (lab, responder):
        turn = meet(lab, responder, plan_of(site, count, options.window, options.patience))
    if turn.account.established < count:
        raise LabError(f"{name}: {turn.account}")
    return turn


def _handshake_rows(words: str, subjects: Mapping[str, str], turns: Mapping[str, Sequence[Turn]]) -> Iterator[Row]:
    work, memory = f"handshakes as responder, X25519, {words}", f"memory per IKE and Child SA, {words}"
    pace = f"{work}, by the wall clock"
    results: dict[tuple[str, str], Result] = {}
    for name, version in subjects.items():
        rows = turns[name]
        for title, unit, samples in (
            (work, "/CPU s", [turn.per_cpu_second for turn in rows]),
            (pace, "/s", [turn.per_second for turn in rows]),
            (memory, "octets", [turn.octets_per_sa for turn in rows]),
        ):
            results[title, name] = Result.of(title, name, version, unit, samples)
        load = [turn.account.cpu_seconds / turn.account.seconds for turn in rows]
        yield Result.of(pace, f"initiators of {name}", "", "CPU", load)
        if min(load) > CPU_LEFT:
            yield Missing(f"{pace}: {name}", "the initiators had no CPU to spare, so the responder may be faster")
    yield from results.values()
    ceiling = [turn.account.established / turn.account.cpu_seconds for rows in turns.values() for turn in rows]
    yield Result.of(work, "initiators", __version__, "/CPU s", ceiling)
    if THEIRS in subjects:
        for title, at_least in ((work, True), (memory, False)):
            value = results[title, OURS].median / results[title, THEIRS].median
            yield Ratio(title, THEIRS, value, 1.0, at_least=at_least)
