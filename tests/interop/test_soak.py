"""The soak, bounded: `make soak` runs the same for ten minutes."""

import pytest

from openmoat_lab.soak import soak

pytestmark = pytest.mark.namespaces
SECONDS = {True: 20.0, False: 8.0}


@pytest.mark.parametrize("encapsulates", [True, False])
def test_every_packet_of_a_flood_with_rekeys_arrives_or_is_counted_by_name(encapsulates: bool) -> None:
    account = soak(SECONDS[encapsulates], encapsulates=encapsulates)
    assert account.faults() == [], account.drops
    assert account.sent > account.received > 0, "a flood overflows something"
