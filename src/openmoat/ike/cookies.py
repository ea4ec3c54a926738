"""Stateless cookies against spoofed IKE_SA_INIT requests (RFC 7296 2.6)."""

import hmac
from collections.abc import Callable

from openmoat.errors import Secret
from openmoat.net import HostPort

__all__ = ["COOKIE_LIFE", "MAX_COOKIE", "CookieJar"]

COOKIE_LIFE = 60.0
"""Seconds after which a new secret is used; cookies of the one before are taken for as long again."""
MAX_COOKIE = 64
"""Octets of a cookie (RFC 7296 2.6)."""
SECRET_SIZE = 32


class CookieJar:
    """Makes and checks `version | HMAC-SHA256(secret, Ni | IPi | SPIi)`; keeps two secrets and nothing per peer."""

    __slots__ = ("_previous", "_random", "_secret", "_since", "_version")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._secret = Secret(random(SECRET_SIZE))
        self._previous: Secret | None = None
        self._version = 0
        self._since: float | None = None

    def make(self, nonce_i: bytes, spi_i: int, source: HostPort, now: float) -> bytes:
        """The cookie that this request must carry."""
        self._turn(now)
        return bytes((self._version,)) + _digest(self._secret, nonce_i, spi_i, source)

    def is_good(self, cookie: bytes, nonce_i: bytes, spi_i: int, source: HostPort, now: float) -> bool:
        """Whether we made this cookie, not long ago, for the same nonce, SPI and address."""
        self._turn(now)
        if not cookie:
            return False
        secret = {self._version: self._secret, (self._version - 1) % 256: self._previous}.get(cookie[0])
        return secret is not None and hmac.compare_digest(cookie[1:], _digest(secret, nonce_i, spi_i, source))

    def _turn(self, now: float) -> None:
        """Change the secret when it is due; two changes at once leave no old one."""
        if self._since is None:
            self._since = now
        age = now - self._since
        if age >= COOKIE_LIFE:
            self._previous = self._secret if age < 2 * COOKIE_LIFE else None
            self._secret = Secret(self._random(SECRET_SIZE))
            self._version = (self._version + 1) % 256
            self._since = now


def _digest(secret: Secret, nonce_i: bytes, spi_i: int, source: HostPort) -> bytes:
    # The port is left out: a NAT may change it between the two requests.
    return hmac.digest(secret, nonce_i + source.address.packed + spi_i.to_bytes(8, "big"), "sha256")
