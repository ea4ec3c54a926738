"""Replies to the core's questions: at once where that is cheap, in a thread where it is not.

Nothing a peer sends can make an answer hold the loop: costly key exchanges, signatures and look-ups run in `WorkerThreads`.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from openmoat.crypto.kex import make_key_pair, shared_secret
from openmoat.crypto.numbers import AuthMethod, KeMethod
from openmoat.crypto.suites import KE_METHODS
from openmoat.daemon.core.installer import Installer
from openmoat.daemon.core.keylog import KeySink
from openmoat.daemon.names.paths import PathFinder
from openmoat.daemon.worker_threads import WorkerThreads
from openmoat.errors import BadPublicValue, MoatError
from openmoat.ike.events import (
    Answer,
    AskActivity,
    AskInstall,
    AskKeyPair,
    AskOwnAuth,
    AskPath,
    AskPeerAuth,
    AskSharedSecret,
    AskSpis,
    KeyPair,
    Question,
    SharedSecret,
    Unanswerable,
    WeakPublicValue,
)
from openmoat.model.connection import Connection

__all__ = ["CHEAP", "Answers", "Prover"]

CHEAP = 4
"""Key exchanges up to this cost (`suites.KeyExchange.cost`) are made in the loop: a thread would cost more."""

NO_ANSWER = "no answer to %s"
OWN_ERROR = "an error in moatd; its log has the traceback"

Asked = TypeVar("Asked", bound=Question)
Reply = Callable[[Answer], None]
COSTS = {row.id: row.cost for row in KE_METHODS}
log = logging.getLogger("openmoat.daemon.core.answers")


class Prover(Protocol):
    """Holds keys and secrets: `keyholder.Keyholder`. Its calls may take milliseconds, and are safe in threads."""

    def prove(self, question: AskOwnAuth) -> Answer:
        """`OwnAuth`, or `Unanswerable` where no key is at hand."""
        ...

    def proves_quickly(self, question: AskOwnAuth) -> bool:
        """Whether `prove` takes less time than a thread would need to be asked."""
        ...

    def check_peer(self, question: AskPeerAuth) -> Answer:
        """`PeerAccepted` or `PeerRefused`."""
        ...


class Answers:
    """Lives in the daemon's event loop, and calls back there."""

    def __init__(
        self,
        installer: Installer,
        finder: PathFinder,
        prover: Prover,
        find_connection: Callable[[str], Connection | None],
        threads: WorkerThreads,
        keys: KeySink,
    ) -> None:
        self._installer = installer
        self._keys = keys
        self._finder = finder
        self._prover = prover
        self._find_connection = find_connection
        self._threads = threads
        self._tasks: set[asyncio.Task[None]] = set()
        self._ways: Mapping[type, Callable[[Any, Reply], None]] = {
            AskSpis: partial(self._do, True, installer.reserve),
            AskInstall: self._ask_install,
            AskActivity: partial(self._do, True, installer.activity),
            AskPath: lambda question, reply: self._later(self._find_path(question), question, reply),
            AskKeyPair: self._ask_key_pair,
            AskSharedSecret: self._ask_shared_secret,
            AskOwnAuth: self._ask_own_auth,
            AskPeerAuth: self._ask_peer_auth,
        }

    def ask(self, question: Question, reply: Reply) -> None:
        """Answer through `reply`, before this returns or later."""
        self._ways[type(question)](question, reply)

    def _ask_key_pair(self, question: AskKeyPair, reply: Reply) -> None:
        self._do(COSTS.get(question.method, 0) <= CHEAP, key_pair, question, reply)

    def _ask_shared_secret(self, question: AskSharedSecret, reply: Reply) -> None:
        self._do(COSTS.get(question.method, 0) <= CHEAP, complete, question, reply)

    def _ask_install(self, question: AskInstall, reply: Reply) -> None:
        self._keys.write_child(question.child, question.keys)
        self._do(True, self._installer.install, question, reply)

    def _ask_own_auth(self, question: AskOwnAuth, reply: Reply) -> None:
        self._do(self._prover.proves_quickly(question), self._prover.prove, question, reply)

    def _ask_peer_auth(self, question: AskPeerAuth, reply: Reply) -> None:
        self._do(question.method is AuthMethod.PSK, self._prover.check_peer, question, reply)

    def close(self) -> None:
        """Nothing is answered any more."""
        for task in self._tasks:
            task.cancel()

    async def _find_path(self, question: AskPath) -> Answer:
        connection = self._find_connection(question.connection)
        if connection is None:
            return Unanswerable(question.ticket, f'connection "{question.connection}" is not loaded any more')
        return await self._finder.find(question, connection)

    def _do(self, is_cheap: bool, call: Callable[[Asked], Answer], question: Asked, reply: Reply) -> None:
        if not is_cheap:
            self._later(self._threads.run(call, question), question, reply)
            return
        try:
            answer = call(question)
        except MoatError as error:
            answer = Unanswerable(question.ticket, str(error))
        except Exception:
            log.exception(NO_ANSWER, type(question).__name__)
            answer = Unanswerable(question.ticket, OWN_ERROR)
        reply(answer)

    def _later(self, work: Coroutine[None, None, Answer], question: Question, reply: Reply) -> None:
        async def run() -> None:
            try:
                answer = await work
            except MoatError as error:
                answer = Unanswerable(question.ticket, str(error))
            except Exception:
                # One question that cannot be answered must not end the daemon, nor wait for ever.
                log.exception(NO_ANSWER, type(question).__name__)
                answer = Unanswerable(question.ticket, OWN_ERROR)
            reply(answer)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def key_pair(question: AskKeyPair) -> Answer:
    """A fresh key pair."""
    public_value, private = make_key_pair(question.method, question.seed)
    return KeyPair(question.ticket, public_value, private)


def complete(question: AskSharedSecret) -> Answer:
    """The shared secret, or what is wrong with the peer's value."""
    if KeMethod(question.method) not in COSTS:
        return Unanswerable(question.ticket, f"key exchange {question.method} is not one of ours")
    try:
        return SharedSecret(question.ticket, shared_secret(question.method, question.private, question.peer_value))
    except BadPublicValue as error:
        return WeakPublicValue(question.ticket, str(error))
