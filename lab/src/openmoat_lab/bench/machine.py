"""Facts about the machine that a reader needs to judge or repeat the figures."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from openmoat import __version__
from openmoat_lab.processes import run

__all__ = ["facts"]


def facts() -> Mapping[str, object]:
    """Processor, memory, kernel, and versions of what measures."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    iperf = run(["iperf3", "--version"], check=False).stdout.split()
    return {
        "processor": models[0] if models else platform.machine(),
        "processors": os.cpu_count(),
        "memory_gib": round(pages / (1 << 30)),
        "load_before": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "iperf3": iperf[1] if len(iperf) > 1 else "?",
        "openmoat": __version__,
    }
