import os
import sys

import pytest

from openmoat_lab.processes import CommandFailed, LabError
from openmoat_lab.usage import cpu_nanoseconds, cpu_of, cpu_seconds, proportional_octets, resident_octets


def test_the_cpu_time_of_a_command_is_its_own() -> None:
    spins = "import time\nwhile time.process_time() < 0.3: pass"
    assert cpu_of([sys.executable, "-I", "-c", spins]) >= 0.3
    assert cpu_of([sys.executable, "-I", "-c", "import time; time.sleep(0.5)"]) < 0.3
    with pytest.raises(CommandFailed, match="exit code 3"):
        cpu_of([sys.executable, "-I", "-c", "raise SystemExit(3)"])


def test_what_this_process_uses_is_what_the_kernel_says() -> None:
    used = sum(os.times()[:2])
    assert cpu_seconds(os.getpid()) == pytest.approx(used, abs=0.5)
    assert cpu_nanoseconds(os.getpid()) > 0
    assert 0 < proportional_octets(os.getpid()) <= resident_octets(os.getpid()) * 1.1


def test_a_process_that_has_ended_is_told() -> None:
    with pytest.raises((LabError, FileNotFoundError)):
        resident_octets(1 << 22)
