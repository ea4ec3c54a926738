"""What an exchange of ours on an established IKE SA is: an object that asks, sends, hears, and then is over."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from openmoat.ike.events import DownReason
from openmoat.ike.exchanges.collisions import Ours
from openmoat.ike.wire.message import Message

if TYPE_CHECKING:
    from openmoat.ike.ike_sa import IkeSa

__all__ = ["Exchange", "PeerExchange"]


class Exchange(ABC):
    """At most one of ours is open on an IKE SA; others wait their turn."""

    __slots__ = ("is_sent",)

    delays_delete: ClassVar[bool] = False
    """An IKE SA is not deleted while it is open: what would be deleted is not known before it is over."""
    is_bounded: ClassVar[bool] = True
    """Counts against `MAX_QUEUED_EXCHANGES`. Deletes do not: there are no more of them than Child SAs."""

    def __init__(self) -> None:
        self.is_sent = False
        """Whether the request has gone out. Until then the exchange may be given up without a trace."""

    @abstractmethod
    def start(self, sa: "IkeSa") -> None:
        """Send the request with `sa.request`, now or when what it needs has been answered; or `sa.finish`."""

    @abstractmethod
    def on_response(self, sa: "IkeSa", message: Message) -> None:
        """The response came, checked by the rules; `sa.finish`, now or after some more questions."""

    def wait(self, times: int) -> float | None:
        """Seconds to wait for the response after the request went out for the `times`-th time; None: as usual."""
        return None

    def on_again(self, sa: "IkeSa", times: int) -> None:  # noqa: B027  most requests stay as they are
        """The request is about to be sent for the `times`-th time, the same octets unless they are exchanged now."""

    def on_end(self, sa: "IkeSa", reason: DownReason) -> None:  # noqa: B027  most exchanges hold nothing
        """The exchange will not be finished: give back what it holds."""

    def ours(self, spi: int | None) -> Ours:
        """What this exchange is in the table of collisions, seen from the Child SA with this SPI of ours."""
        return Ours.NOTHING

    def is_same(self, other: "Exchange") -> bool:
        """Whether queueing `other` too would be pointless."""
        return False


class PeerExchange(ABC):
    """A request of the peer that we work on, waiting for answers to our questions."""

    __slots__ = ()
    delays_ours: ClassVar[bool] = False
    """Exchanges of ours wait until it is answered: it decides which IKE SA they belong on."""

    @abstractmethod
    def on_end(self, sa: "IkeSa") -> None:
        """There will be no response: give back what it holds."""
