"""An engine that encrypts nothing, to measure what the rest of the packet path costs. Released builds have none."""

from collections.abc import Sequence
from typing import Any

from openmoat import _native
from openmoat_lab.processes import LabError

__all__ = ["open_unsealed_engine", "require_unsealed"]


def require_unsealed() -> Any:
    """The function that opens such an engine. Raises `LabError` if the module was built without it, as released ones are."""
    opener = getattr(_native, "unsealed_engine", None)
    if opener is None:
        raise LabError(
            "this build of openmoat._native has no suite that encrypts nothing;"
            " remedy: maturin develop --release --features pyo3/extension-module,unsealed"
        )
    return opener


def open_unsealed_engine(
    *, tun: Sequence[int], udp: Sequence[tuple[int, int]], raw: Sequence[int], slots: int = 65_536
) -> _native.Engine:
    """As `userspace.open_engine`, but packets are sent unencrypted and none is authenticated: for two namespaces of a lab.

    ESP packets keep the size their suite gives them, so that paths, segments and system calls are the same.
    """
    engine: _native.Engine = require_unsealed()(tun=tun, udp=udp, raw=raw, slots=slots)
    engine.start()
    return engine
