"""Chooses the scenes for a selection of paths, policies and servers, and runs them, a few at a time."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from openmoat_lab.processes import LabError
from openmoat_lab.zoo.catalog import (
    INNERS,
    OUTERS,
    PATHS,
    PEER_OURS,
    PEERS,
    POLICIES,
    SERVERS,
    Row,
    is_kept,
    is_promised,
)
from openmoat_lab.zoo.scene import Scene, Transfer

__all__ = ["Options", "run", "scenes"]

SCENES_AT_ONCE = 8
"""Most of the time they wait for packets that never arrive."""
BUSY_AT_ONCE = 2
"""Of these, how many may be busy: more would measure one another."""
QUICK_PATHS, QUICK_POLICIES, QUICK_OUTERS = ("clean1500", "blackhole1400"), ("virtual",), ("IPv4",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The selection; an empty one means everything. Raises `ValueError` for an unknown name."""

    paths: Sequence[str] = ()
    policies: Sequence[str] = ()
    servers: Sequence[str] = ()
    inners: Sequence[str] = ()
    outers: Sequence[str] = ()
    peers: Sequence[str] = ()
    is_quick: bool = False
    """Without a selection, the least that shows whether the promise is kept."""

    def __post_init__(self) -> None:
        for what, names, known in (
            ("path", self.paths, PATHS),
            ("policy", self.policies, POLICIES),
            ("class", self.servers, SERVERS),
            ("inner", self.inners, INNERS),
            ("outer", self.outers, OUTERS),
            ("peer", self.peers, PEERS),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(f"{what}: {', '.join(known)}; {name!r} came")


def scenes(options: Options) -> tuple[Scene, ...]:
    """The scenes to raise, in the order of the paths, with ours as peer before strongSwan."""
    paths = options.paths or (QUICK_PATHS if options.is_quick else tuple(PATHS))
    outers = options.outers or (QUICK_OUTERS if options.is_quick else tuple(OUTERS))
    peers = options.peers or ((PEER_OURS,) if options.is_quick else PEERS)
    found = [
        Scene(path=PATHS[path], outer=OUTERS[outer], peer=peer, transfers=_transfers(options, peer))
        for peer in peers
        for path in paths
        for outer in outers
        if _exists(path, outer, peer)
    ]
    return tuple(scene for scene in found if scene.transfers)


def _outsides(path: str) -> Iterable[str]:
    """The combinations of outer protocol and peer over a path, for people."""
    return (f"{outer} {peer}" for peer in PEERS for outer in OUTERS if _exists(path, outer, peer))


def _exists(path: str, outer: str, peer: str) -> bool:
    if peer == PEER_OURS:
        return outer in PATHS[path].outers
    # Its userspace ESP is always in UDP, with or without NAT.
    return PATHS[path].is_for_swan and outer == "IPv4"


def _transfers(options: Options, peer: str) -> tuple[Transfer, ...]:
    policies = options.policies or (QUICK_POLICIES if options.is_quick else tuple(POLICIES))
    inners = options.inners or tuple(INNERS)
    return tuple(
        Transfer(policy=policy, server=server, inner=inner)
        for policy in policies
        for server in options.servers or SERVERS
        for inner in inners
        if inner in SERVERS[server].inners and (peer == PEER_OURS or POLICIES[policy].is_for_swan)
    )


def run(options: Options, say: Callable[[str], None]) -> list[Row]:
    """Run all scenes; returns the rows in their order. Raises `ValueError` if there is none, `LabError` without root."""
    chosen = scenes(options)
    if not chosen:
        known = "; ".join(f"{name}: {', '.join(_outsides(name))}" for name in options.paths or PATHS)
        raise ValueError(f"no such server, policy and outside together; outer and peer are of {known}")
    if os.geteuid() != 0:
        raise LabError("the zoo makes network namespaces and needs root: run it with sudo")
    turn, stopped = threading.Semaphore(BUSY_AT_ONCE), threading.Event()
    workers = ThreadPoolExecutor(max_workers=SCENES_AT_ONCE)
    try:
        futures = [workers.submit(_play, scene, turn, stopped, say) for scene in chosen]
        return [row for future in futures for row in future.result()]
    finally:
        # Where this is ended early, all that is left is to take down what is up.
        stopped.set()
        workers.shutdown(cancel_futures=True)


def _play(scene: Scene, turn: threading.Semaphore, stopped: threading.Event, say: Callable[[str], None]) -> list[Row]:
    began, done = time.monotonic(), 0

    def report(row: Row) -> None:
        nonlocal done
        done += 1
        if is_promised(row) and not is_kept(row):
            say(f"{scene.name}: {row.policy}, {row.server}, {row.inner}: promised, but did not arrive")
        elif done == len(scene.transfers) // 2:
            say(f"{scene.name}: {done} of {len(scene.transfers)} transfers have ended")

    say(f"{scene.name}: {len(scene.transfers)} transfers")
    try:
        rows = scene.run(report, turn, stopped)
    except LabError as error:
        if stopped.is_set():
            raise
        say(f"{scene.name}: {error}\n{chr(10).join(error.__notes__ if hasattr(error, '__notes__') else ())}")
        rows = [scene.row(transfer) for transfer in scene.transfers]  # the tunnel never came up, so nothing arrived
    whole = sum(row.complete for row in rows)
    say(f"{scene.name}: {whole} of {len(rows)} arrived whole, {time.monotonic() - began:.0f} s")
    return sorted(
        rows, key=lambda row: scene.transfers.index(Transfer(policy=row.policy, server=row.server, inner=row.inner))
    )
