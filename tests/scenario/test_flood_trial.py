"""The sender of the bench's own flood."""

import json
import socket
import subprocess
import sys

import pytest

from openmoat_lab.bench import flood


@pytest.mark.parametrize("rate", [1.0, 5_000.0])
def test_a_trial_takes_time_and_sends_something_at_any_rate_that_it_has_time_for(rate: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        port = str(sink.getsockname()[1])
        said = subprocess.run(
            [
                sys.executable,
                "-I",
                str(flood.__file__),
                "send",
                "127.0.0.1",
                "127.0.0.1",
                port,
                "64",
                str(rate),
                "0.4",
                "1",
                "1",
                "0",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    account = json.loads(said)
    assert account["seconds"] > 0
    assert account["sent"] == max(1, rate * 0.4) or account["seconds"] > 0.4
