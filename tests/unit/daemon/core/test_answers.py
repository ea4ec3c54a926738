import asyncio
import ipaddress
from pathlib import Path as FilePath

import pytest

from openmoat.crypto.identities import Identity
from openmoat.crypto.kex import seed_size
from openmoat.crypto.numbers import AuthMethod, KeMethod
from openmoat.crypto.suites import PRF_HMAC_SHA2_256
from openmoat.daemon.core.answers import Answers
from openmoat.daemon.core.installer import Installer
from openmoat.daemon.core.keylog import KeySink
from openmoat.daemon.host.policies import Policies
from openmoat.daemon.host.switches import Switches
from openmoat.daemon.names.paths import Names, PathFinder
from openmoat.daemon.peers import Peers
from openmoat.daemon.status.journal import Journal
from openmoat.daemon.worker_threads import MAX_WAITING, Overloaded, WorkerThreads
from openmoat.dataplane.memory import MemoryBackend
from openmoat.errors import Secret
from openmoat.ike.events import (
    Answer,
    AskKeyPair,
    AskOwnAuth,
    AskPath,
    AskPeerAuth,
    AskSharedSecret,
    AskSpis,
    KeyPair,
    OwnAuth,
    PeerAccepted,
    Question,
    SharedSecret,
    Spis,
    Unanswerable,
    WeakPublicValue,
)


class Everybody:
    """Proves itself with nothing, and takes everybody; a secret named `broken` is a fault of ours."""

    def prove(self, question: AskOwnAuth) -> Answer:
        return OwnAuth(question.ticket, AuthMethod.PSK, b"proof")

    def proves_quickly(self, question: AskOwnAuth) -> bool:
        return question.connection != "slow"

    def check_peer(self, question: AskPeerAuth) -> Answer:
        if question.connection == "broken":
            raise ZeroDivisionError
        return PeerAccepted(question.ticket)


def answer(question: Question) -> tuple[Answer, bool]:
    """The answer, and whether it came before `ask` returned."""

    async def run() -> tuple[Answer, bool]:
        backend = MemoryBackend()
        peers = Peers(lambda: 0.0)
        policies = Policies(backend.capabilities().rungs, peers.path_mtu)
        switches = Switches(policies.spd, Journal(lambda: 0.0), lambda: 0.0)
        installer = Installer(backend, policies, switches, peers, asyncio.get_running_loop().call_later)
        finder = PathFinder(Names(lambda: 0.0, FilePath("/dev/null")), lambda _: ipaddress.ip_address("192.0.2.1"))
        threads = WorkerThreads()
        answers = Answers(installer, finder, Everybody(), lambda _: None, threads, KeySink(""))
        heard: asyncio.Queue[Answer] = asyncio.Queue()
        answers.ask(question, heard.put_nowait)
        is_at_once = not heard.empty()
        result = await asyncio.wait_for(heard.get(), 10)
        answers.close()
        threads.close()
        return result, is_at_once

    return asyncio.run(run())


def key_pair(method: KeMethod) -> tuple[KeyPair, bool]:
    result, is_at_once = answer(AskKeyPair(1, method, Secret(bytes(range(1, seed_size(method) + 1)))))
    assert isinstance(result, KeyPair)
    return result, is_at_once


def test_a_cheap_key_exchange_is_answered_at_once() -> None:
    pair, is_at_once = key_pair(KeMethod.X25519)
    assert is_at_once
    shared, is_at_once = answer(AskSharedSecret(2, KeMethod.X25519, pair.private, pair.public_value))
    assert is_at_once
    assert isinstance(shared, SharedSecret)


def test_a_costly_key_exchange_is_answered_later() -> None:
    pair, is_at_once = key_pair(KeMethod.MODP_2048)
    assert not is_at_once
    shared, is_at_once = answer(AskSharedSecret(2, KeMethod.MODP_2048, pair.private, pair.public_value))
    assert not is_at_once
    assert isinstance(shared, SharedSecret)


@pytest.mark.parametrize("value", [bytes(256), bytes(255) + b"\1", b"", bytes(255), b"\xff" * 256])
def test_a_weak_value_of_the_peer_is_told_and_breaks_nothing(value: bytes) -> None:
    pair, _ = key_pair(KeMethod.MODP_2048)
    assert isinstance(answer(AskSharedSecret(2, KeMethod.MODP_2048, pair.private, value))[0], WeakPublicValue)


def test_spis_come_from_the_backend() -> None:
    result, _ = answer(AskSpis(3, 4))
    assert isinstance(result, Spis)
    assert len(set(result.spis)) == 4


def test_a_connection_that_is_gone_has_no_path() -> None:
    result, _ = answer(AskPath(4, "gone", 0))
    assert isinstance(result, Unanswerable)
    assert "not loaded" in result.text


def ask_peer(connection: str, method: AuthMethod) -> AskPeerAuth:
    return AskPeerAuth(
        ticket=5,
        connection=connection,
        identity=Identity.parse("a.example"),
        prf=PRF_HMAC_SHA2_256,
        signed_octets=Secret(b"signed"),
        method=method,
        octets=b"",
        certificates=(),
    )


@pytest.mark.parametrize(("connection", "is_quick"), [("office", True), ("slow", False)])
def test_our_own_proof_is_made_in_the_loop_only_where_a_thread_would_take_longer(
    connection: str, is_quick: bool
) -> None:
    question = AskOwnAuth(
        ticket=5,
        connection=connection,
        identity=Identity.parse("portal.example"),
        prf=PRF_HMAC_SHA2_256,
        signed_octets=Secret(b"signed"),
        peer_hashes=frozenset(),
    )
    assert answer(question) == (OwnAuth(5, AuthMethod.PSK, b"proof"), is_quick)


def test_a_signature_is_checked_in_a_thread() -> None:
    assert answer(ask_peer("cabin", AuthMethod.SIGNATURE)) == (PeerAccepted(5), False)
    assert answer(ask_peer("cabin", AuthMethod.PSK)) == (PeerAccepted(5), True)


def test_a_fault_of_ours_beside_the_loop_leaves_no_question_open() -> None:
    result, _ = answer(ask_peer("broken", AuthMethod.SIGNATURE))
    assert isinstance(result, Unanswerable)
    assert "error in moatd" in result.text


def test_an_error_of_the_data_plane_leaves_no_question_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(backend: MemoryBackend, count: int) -> list[int]:
        raise ZeroDivisionError

    monkeypatch.setattr(MemoryBackend, "reserve_spis", fail)
    result, is_at_once = answer(AskSpis(1, 4))
    assert is_at_once
    assert isinstance(result, Unanswerable)


def test_more_work_than_the_bound_is_refused() -> None:
    async def run() -> None:
        beside = WorkerThreads()
        beside.waiting = MAX_WAITING
        with pytest.raises(Overloaded):
            await beside.run(int)
        beside.close()

    asyncio.run(run())
