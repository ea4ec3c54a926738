"""IKE_SA_INIT and IKE_AUTH between two endpoints, message by message."""

from openmoat.ike.events import ChildSaUp, IkeSaUp
from openmoat.ike.numbers import ExchangeType
from scenario.link import Host, Link, two_hosts


def assert_they_fit(home: Host, portal: Host) -> None:
    ours, theirs = next(iter(home.sas.values())), next(iter(portal.sas.values()))
    assert len(home.sas) == len(portal.sas) == 1
    assert (ours.child.local_spi, ours.child.remote_spi) == (theirs.child.remote_spi, theirs.child.local_spi)
    assert (ours.keys.inbound, ours.keys.outbound) == (theirs.keys.outbound, theirs.keys.inbound)
    assert (ours.child.local, ours.child.remote) == (theirs.child.remote, theirs.child.local)


def test_two_endpoints_with_a_shared_secret_come_up_with_one_child_in_four_messages() -> None:
    link = Link()
    home, portal = two_hosts(link)
    # IKE_SA_INIT request -->, <-- IKE_SA_INIT response, IKE_AUTH request -->, <-- IKE_AUTH response
    kinds = [link.deliver().exchange for _ in range(4)]
    assert kinds == [ExchangeType.IKE_SA_INIT] * 2 + [ExchangeType.IKE_AUTH] * 2
    assert not link.flights
    assert_they_fit(home, portal)
    assert home.sending() is not None
    assert portal.sending() is not None
    assert len(home.told(IkeSaUp)) == len(portal.told(IkeSaUp)) == 1
    assert len(home.told(ChildSaUp)) == len(portal.told(ChildSaUp)) == 1
