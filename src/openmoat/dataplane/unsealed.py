"""An engine that seals nothing, to measure what the rest of the pipeline costs. The daemon cannot reach it."""

from collections.abc import Sequence

from openmoat import _native

__all__ = ["open_unsealed_engine"]


def open_unsealed_engine(
    *, tun: Sequence[int], udp: Sequence[tuple[int, int]], raw: Sequence[int], slots: int = 65_536
) -> _native.Engine:
    """As `userspace.open_engine`, but packets go in clear and any is believed: for two namespaces of a laboratory.

    ESP packets keep the size their suite gives them, so that paths, segments and system calls are the same.
    """
    engine = _native.unsealed_engine(tun=tun, udp=udp, raw=raw, slots=slots)
    engine.start()
    return engine
