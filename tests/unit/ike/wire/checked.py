"""A message checked by the rules of the first phase of its exchange, for tests that work on no IKE SA whose state says which."""

from openmoat.ike.wire.message import Message
from openmoat.ike.wire.rules import EXCHANGES, Phase, check

__all__ = ["check_first_phase"]


def check_first_phase(message: Message) -> Message:
    phases = (phase for phase in Phase if EXCHANGES[phase] is message.header.exchange)
    return check(message, next(phases, Phase.INFORMATIONAL))
