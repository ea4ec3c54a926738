"""Path MTU of the outside, found by authenticated probes (RFC 8899). Pure: it says which size to try, others carry it.

ICMP is at most a hint about what to try next, as anybody can forge it. All sizes are octets of outer IP packets.
"""

from dataclasses import dataclass, replace
from enum import Enum

from openmoat.mtu.plan import BASE, MAX_PACKET, MIN_PATH_MTU

__all__ = [
    "CONFIRM_SECONDS",
    "RAISE_SECONDS",
    "STEPS",
    "BlackHole",
    "Bounds",
    "Discovery",
    "Learned",
    "Phase",
]

# fmt: off
STEPS = (
    9000, 8996, 4352,
    1500, 1492, 1480, 1476, 1472, 1460, 1454, 1452, 1450, 1436, 1428, 1420, 1400, 1380, 1360, 1340, 1300,
    1280, 1124, 1006, 576,
)
# fmt: on
"""Sizes that paths are known to have, largest first: Ethernet, PPPoE, tunnels in it, clouds, mobile networks. A path of
another size is used at the step below it."""
RAISE_SECONDS = 600.0
"""PMTU_RAISE_TIMER (RFC 8899 5.1.1): time after which a larger size is tried again."""
CONFIRM_SECONDS = 30.0
"""CONFIRMATION_TIMER: time after which a size in use is confirmed, while packets flow."""


class Phase(Enum):
    """RFC 8899 5.2."""

    BASE = "base"
    """Nothing has been heard of this path yet."""
    SEARCH = "search"
    COMPLETE = "complete"
    ERROR = "error"
    """Not even the smallest size gets through: `size` is only assumed."""


class Learned(Enum):
    """Where the size in use is known from."""

    BASE = "base"
    """It is assumed of every path."""
    PROBE = "probe"
    HINT = "hint"
    """ICMP named it, and a probe proved it."""
    ICMP = "icmp"
    """ICMP named it, and is trusted."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between what sizes to look."""

    version: int
    """Of IP outside: 4 or 6."""
    maximum: int = 1500
    """What the link to the outside carries, or what is configured, whichever is less."""

    def __post_init__(self) -> None:
        if not MIN_PATH_MTU[self.version] <= self.maximum <= MAX_PACKET:
            raise ValueError(f"path MTU: {MIN_PATH_MTU[self.version]} to {MAX_PACKET}, not {self.maximum}")

    @property
    def base(self) -> int:
        """Where to begin."""
        return min(BASE, self.maximum)

    @property
    def candidates(self) -> tuple[int, ...]:
        """Sizes to try, largest first."""
        least = MIN_PATH_MTU[self.version]
        return (self.maximum, *(step for step in STEPS if least <= step < self.maximum))


@dataclass(frozen=True, slots=True)
class BlackHole:
    """A size that had been proved did not get through any more."""

    at: float
    """When that was found out."""
    before: int
    after: int
    """What was found to get through instead; BASE before anything has been."""


class Discovery:
    """Search of one path, begun anew for each path. At most one probe is under way.

    Call `handle_*`, then look at `size`, `probe`, `probes_fragments` and `poll_timeout`. That a probe was lost means that it
    was sent often enough (MAX_PROBES, RFC 8899 5.1.2): that is up to who carries it.
    """

    __slots__ = (
        "_bounds",
        "_deadline",
        "_hole",
        "_is_passage_due",
        "_is_recovering",
        "_lost",
        "_named",
        "_probe",
        "_proved",
        "_raise_at",
        "_spare",
        "_told",
        "_told_shrinks",
        "_unfounded_at",
        "black_hole",
        "fragments_pass",
        "hints",
        "learned_at",
        "phase",
        "size",
    )

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.size = bounds.base
        """What may be sent in one piece."""
        self.phase = Phase.BASE
        self.learned_at: float | None = None
        """When `size` was last proved; None while it is only assumed."""
        self.black_hole: BlackHole | None = None
        """The last one."""
        self.fragments_pass: bool | None = None
        """Whether IP fragments get through; None: nobody has found out."""
        self.hints = 0
        """Times that something was done because ICMP named a size."""
        self._told: int | None = None
        """A size that ICMP named, until it is known what to think of it."""
        self._told_shrinks = False
        self._spare = 0
        """It, once it was proved, while it is asked whether what is in use still gets through."""
        self._named = 0
        """It, once it is in use."""
        self._proved = 0
        self._lost = bounds.maximum + 1
        self._deadline: float | None = None
        self._raise_at = 0.0
        self._probe: int | None = bounds.maximum
        self._is_passage_due = True
        self._is_recovering = False
        self._hole: BlackHole | None = None
        """The one before, while it is being found out whether there is another."""
        self._unfounded_at = -CONFIRM_SECONDS
        """When what was given up on suspicion was last found to get through after all."""

    @property
    def probe(self) -> int | None:
        """The size to probe now; None: there is nothing to do before `poll_timeout`."""
        return self._probe

    @property
    def probes_fragments(self) -> bool:
        """Whether to find out now if IP fragments get through; sizes go first."""
        return self._probe is None and self._is_passage_due

    @property
    def learned(self) -> Learned:
        """Where `size` is known from."""
        if self.size == self._named:
            return Learned.HINT if self.learned_at is not None else Learned.ICMP
        return Learned.PROBE if self.learned_at is not None else Learned.BASE

    def poll_timeout(self) -> float | None:
        """When to call `handle_timeout`; None: not before the probe under way has come to an end."""
        return self._deadline

    def handle_arrived(self, size: int, now: float, proved: int | None = None) -> None:
        """A probe of this size was answered: the path carries it, or `proved` octets where that is what was sent."""
        if size != self._probe:
            return
        if size == self._told and size < self.size:
            self._weigh(min(size, proved or size), now)
            return
        self._proved = self.size = min(size, proved or size)
        if self._spare:
            self._spare, self._unfounded_at = 0, now
        if self.size != self._named:
            self._named = self.size if size == self._told else 0
        if self.size < size:
            self._lost = min(self._lost, size)  # it cannot be told, which comes to the same
        self.learned_at = now
        if self._is_recovering and self.black_hole is not None:
            self.black_hole = replace(self.black_hole, after=self.size)
        self._search(now)

    def handle_lost(self, size: int, now: float) -> None:
        """Probes of this size were not answered, although smaller messages were."""
        if size != self._probe:
            return
        self._lost = size
        if size <= self.size:
            spare = self._spare
            self._shrink(size, now)
            if spare:
                self._settle(spare, now)
        if self.size == self._named and size > self.size:
            # Larger ones are lost indeed, and the router has told where that begins.
            self._lost = self._named + 1
            if self._is_recovering:
                self.fragments_pass, self._is_passage_due = None, True
        self._search(now)

    def handle_fragments(self, *, passed: bool) -> None:
        """What became of a datagram that IP had to fragment."""
        self.fragments_pass = passed
        self._is_passage_due = False

    def handle_suspicion(self, now: float, *, shrinks: bool) -> None:
        """Packets as large as may be seem to be lost. `shrinks`: sending less costs little, so it is asked later."""
        if self._probe is not None or self._proved <= self._bounds.base:
            return
        # Flows that nobody ever answers are always suspicious: they must not have the size go up and down for ever.
        if shrinks and now - self._unfounded_at >= CONFIRM_SECONDS:
            self._lost = self._bounds.maximum + 1
            self._shrink(self.size, now)
            self._search(now)
        else:
            self._deadline, self._probe = None, self.size

    def handle_hint(self, told: int, now: float, *, shrinks: bool) -> bool:
        """ICMP quotes a packet of ours and names a size that would fit; 0: none. Only probes decide what is done about it.

        `shrinks`: once that size is proved it is used, and then it is asked whether the larger one is lost; otherwise that
        is asked first. False: it tells nothing new, or something else is being asked.
        """
        told = max(told, self._bounds.base)
        is_asking = self._probe is not None and self._probe != self.size
        if is_asking or told >= self.size or self._spare or self._told is not None:
            return False
        self.hints += 1
        self._told = told
        self._told_shrinks = shrinks and now - self._unfounded_at >= CONFIRM_SECONDS
        if self._probe is None:
            self._deadline, self._probe = None, told
        return True

    def handle_trusted(self, told: int, now: float) -> bool:
        """The same where ICMP is trusted: at once and unasked, but for the least size of all. It ages as others do."""
        told = max(told or self._bounds.base, MIN_PATH_MTU[self._bounds.version])
        if told >= self.size:
            return False
        self.hints += 1
        self._shrink(self.size, now)
        self._settle(told, None)
        self._lost = told + 1
        self.phase = Phase.SEARCH
        self._search(now)
        return True

    def handle_black_hole(self, now: float) -> None:
        """The peer has said that packets as large as may be are lost, and others are not."""
        if self._proved <= self._bounds.base:
            return
        # Where a probe had contradicted it before, the peer is right: the probe does not go the way of ESP.
        is_sure = now - self._unfounded_at < CONFIRM_SECONDS
        self._lost = self.size if is_sure else self._bounds.maximum + 1
        self._shrink(self.size, now)
        self._search(now)

    def handle_wish(self, now: float) -> None:
        """Somebody wants to know it now: larger sizes, else the one in use, and the passage of fragments."""
        if self._probe is not None:
            return
        self._lost = self._bounds.maximum + 1
        self._is_passage_due = True
        self._search(now)
        if self._probe is None:
            self._deadline, self._probe = None, self.size

    def handle_timeout(self, now: float, *, is_used: bool, is_proved: bool = False) -> None:
        """The deadline has passed. `is_used`: packets have gone out since the one before (RFC 8899 5.1.1); `is_proved`: the
        peer has said of some as large as may be that they came.
        """
        if self._deadline is None or now < self._deadline:
            return
        if now >= self._raise_at:
            self.phase = Phase.SEARCH
            self._lost = self._bounds.maximum + 1
            self._is_passage_due = self._is_passage_due or is_used
            self._search(now)
        elif is_proved and self.phase is Phase.COMPLETE:
            self.learned_at, self._deadline = now, self._next_look(now)
        elif is_used and self.phase is Phase.COMPLETE:
            self._deadline, self._probe = None, self.size
        else:
            self._deadline = self._next_look(now)

    def _shrink(self, lost: int, now: float) -> None:
        """What was in use does not get through: smaller at once, and then see how much smaller it need be."""
        before, was_proved = self.size, self._proved > 0
        self._proved = 0
        self.learned_at = None
        self._named = self._spare = 0
        smaller = [size for size in self._bounds.candidates if size < lost]
        self.size = min(self._bounds.base, smaller[0]) if smaller else lost
        if was_proved:
            self._hole = self.black_hole
            self.black_hole = BlackHole(now, before, self.size)
            self._is_recovering = True
        # It may be another way now. Where it is not, fragments as large as the link's were lost with the rest.
        self.fragments_pass = None
        self._is_passage_due = True

    def _weigh(self, told: int, now: float) -> None:
        """What ICMP named gets through. Whether what is in use does not is another question, asked before or afterwards."""
        before = self.size
        if self._told_shrinks:
            passage = self.fragments_pass, self._is_passage_due
            self._shrink(before, now)
            self._settle(told, now)
            self.fragments_pass, self._is_passage_due = passage  # it may be the same way still
        else:
            self._spare = told
        self._told, self._probe = None, before

    def _settle(self, named: int, now: float | None) -> None:
        """Use what ICMP named, after `_shrink`. `now`: it was proved."""
        self._proved = self.size = self._named = named
        self.learned_at = now
        if self.black_hole is not None and self._is_recovering:
            self.black_hole = replace(self.black_hole, after=named)

    def _search(self, now: float) -> None:
        """Choose the next probe, or be content."""
        self._probe = self._choose()
        if self._probe is not None:
            self.phase, self._deadline = Phase.SEARCH, None
            return
        self._told = None
        if self.phase is not Phase.COMPLETE:  # otherwise it was a confirmation, which puts nothing off
            self._raise_at = now + RAISE_SECONDS
        self.phase = Phase.COMPLETE if self._proved else Phase.ERROR
        if self._is_recovering and self.black_hole is not None and self.size >= self.black_hole.before:
            self.black_hole, self._unfounded_at = self._hole, now
        self._is_recovering = False
        self._deadline = self._next_look(now)

    def _choose(self) -> int | None:
        """The largest first, then the middle between the size in use and the smallest that was lost."""
        if self._told is not None and self.size < self._told < self._lost:
            return self._told
        larger = [size for size in self._bounds.candidates if self.size < size < self._lost]
        if larger:
            return larger[0] if larger[0] == self._bounds.maximum else larger[len(larger) // 2]
        return self.size if not self._proved and self.size < self._lost else None

    def _next_look(self, now: float) -> float:
        return min(now + CONFIRM_SECONDS, self._raise_at) if self._proved else self._raise_at
