"""One engine with fixed, public keys, run on a host of the lab: a tunnel without IKE, to measure what IKE would hide.

    python -m openmoat_lab.bench.fixed_keys NUMBER COUNT sealed|unsealed plain|virtual|virtual-64k OWN_FILE PEER_FILE

Gateway NUMBER (1 or 2) of `two_gateways` installs COUNT pairs of SAs, each with a policy of its own. The last pair
carries the networks behind both gateways, so that a lookup that walks all policies would be visible; the others carry
addresses of 100.64.0.0/10. `virtual` is AGGFRAG; with `virtual-64k`, TCP of the gateways themselves may send packets larger
than the path. The program writes the SPIs it reserved to OWN_FILE, reads the peer's from PEER_FILE, prints `up`, and runs
until SIGTERM. The keys are no secret: no real traffic may ever use this.
"""

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

from openmoat.crypto.suites import AES_128_GCM_16, EspSuite
from openmoat.dataplane.backend import Activate, AddInbound, AddOutbound, Command, Encapsulation, SetPolicies, Spi
from openmoat.dataplane.userspace import UserspaceBackend, open_engine
from openmoat.errors import Secret
from openmoat.mtu.overhead import Overhead
from openmoat.mtu.plan import MAX_PACKET, Framing, MtuPlan, PathMtu, PeerFraming, compile_plan, route_sizes
from openmoat.net import NATT_PORT, HostPort
from openmoat.net import Path as NetPath
from openmoat.policy.selectors import Selectors, parse_selectors
from openmoat.policy.spd import Action, Policy
from openmoat.system.sockets import open_all
from openmoat.system.steering import suitable_workers
from openmoat_lab.bench.unsealed import open_unsealed_engine
from openmoat_lab.processes import run, wait_until

__all__ = ["DEVICE", "OTHERS", "OTHERS_STEP", "PLAIN", "VIRTUAL", "VIRTUAL_64K", "main"]

DEVICE = "moat0"
OUTSIDE = {1: "192.0.2.2", 2: "198.51.100.2"}
INSIDE = {1: "10.1.0.0/24", 2: "10.2.0.0/24"}
GATEWAY = {1: "10.1.0.1", 2: "10.2.0.1"}
OTHERS = "100.64.0.0/10"
OTHERS_STEP = 16
"""The remote networks of all pairs but the last lie here, with this many addresses each."""
PLAIN = "plain"
VIRTUAL = "virtual"
VIRTUAL_64K = "virtual-64k"
PATH_MTU = 1500
SUITE = EspSuite(AES_128_GCM_16, None)
PEER_SECONDS = 60.0


def main(words: Sequence[str]) -> None:
    """Install the pairs, print `up`, and wait for SIGTERM."""
    number, count, sealing, sizes, own_file, peer_file = words
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    backend = _open(is_sealed=sealing == "sealed")
    inbound = backend.reserve_spis(int(count))
    _leave(Path(own_file), inbound)
    wait_until("the other gateway has reserved its SPIs", Path(peer_file).exists, PEER_SECONDS)
    outbound = json.loads(Path(peer_file).read_text())
    plan = _plan(backend, Framing.WHOLE if sizes == PLAIN else Framing.AGGFRAG)
    pairs = list(_pairs(int(number), inbound, outbound, plan))
    # All at once, as the daemon does when it loads: the SPD is built once.
    backend.apply([SetPolicies(put=tuple(policy for policy, _commands in pairs))])
    backend.apply([command for _policy, commands in pairs for command in commands])
    _route(int(number), plan, bounds_tcp=sizes != VIRTUAL_64K)
    sys.stdout.write("up\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM})
    backend.close()


def _open(*, is_sealed: bool) -> UserspaceBackend:
    descriptors = open_all(DEVICE, queues=suitable_workers())
    opener = open_engine if is_sealed else open_unsealed_engine
    backend = UserspaceBackend(opener(tun=descriptors.tun, udp=descriptors.udp, raw=descriptors.raw))
    descriptors.close()
    return backend


def _leave(file: Path, spis: Sequence[Spi]) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(spis))
    new.rename(file)


def _plan(backend: UserspaceBackend, framing: Framing) -> MtuPlan:
    return compile_plan(
        peer=PeerFraming(framing),
        overhead=Overhead(SUITE, 4, udp=True),
        path=PathMtu(PATH_MTU),
        rungs=backend.capabilities().rungs,
    )


def _pairs(
    number: int, inbound: Sequence[Spi], outbound: Sequence[Spi], plan: MtuPlan
) -> Iterator[tuple[Policy, Sequence[Command]]]:
    path = NetPath(*(HostPort(ip_address(OUTSIDE[end]), NATT_PORT) for end in (number, 3 - number)))
    for place, (own, peer) in enumerate(zip(inbound, outbound, strict=True)):
        local, remote = _selectors(number, place, len(inbound))
        policy = Policy(
            id=place + 1, name=f"pair-{place}", rank=place + 1, action=Action.PROTECT, local=local, remote=remote
        )
        commands = (
            AddInbound(
                spi=own, suite=SUITE, key=_key(own), integrity_key=Secret(), encapsulation=Encapsulation.UDP, path=path,
                local=local, remote=remote, framing=plan.framing,
            ),
            AddOutbound(
                handle=own, spi=peer, suite=SUITE, key=_key(peer), integrity_key=Secret(),
                encapsulation=Encapsulation.UDP, path=path, local=local, remote=remote, policy=policy.id, plan=plan,
            ),
            Activate(own),
        )  # fmt: skip
        yield policy, commands


def _selectors(number: int, place: int, count: int) -> tuple[Selectors, Selectors]:
    """Local and remote of a pair, as gateway `number` sees them."""
    if place == count - 1:
        return parse_selectors([INSIDE[number]]), parse_selectors([INSIDE[3 - number]])
    first = int(ip_address(OTHERS.partition("/")[0])) + OTHERS_STEP * place
    away = parse_selectors([f"{ip_address(first)}/28"])
    # They are behind the second gateway; the other end is the first gateway's network.
    near = parse_selectors([INSIDE[1]])
    return (near, away) if number == 1 else (away, near)


def _key(spi: Spi) -> Secret:
    return Secret(bytes((n ^ spi) & 0xFF for n in range(SUITE.encryption.key_material)))


def _route(number: int, plan: MtuPlan, *, bounds_tcp: bool) -> None:
    sizes = route_sizes(plan, 4)
    words = ["dev", DEVICE, "src", GATEWAY[number]]
    if bounds_tcp:
        words += ["advmss", str(sizes.advmss)]
    if sizes.mtu < MAX_PACKET:
        words += ["mtu", str(sizes.mtu)]
    run(["ip", "route", "add", INSIDE[3 - number], *words])
    # The second gateway itself answers for all addresses of these networks.
    run(["ip", "route", "add", *((OTHERS, *words) if number == 1 else ("local", OTHERS, "dev", "lo"))])


if __name__ == "__main__":
    main(sys.argv[1:])
