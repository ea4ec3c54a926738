import random
from ipaddress import ip_address

from openmoat.ike.cookies import COOKIE_LIFE, MAX_COOKIE, CookieJar
from openmoat.net import HostPort

SOURCE = HostPort(ip_address("192.0.2.1"), 500)
NONCE = bytes(range(32))


def jar() -> CookieJar:
    return CookieJar(random.Random(1).randbytes)  # noqa: S311


def test_a_cookie_comes_back_good_also_from_another_port() -> None:
    cookies = jar()
    cookie = cookies.make(NONCE, 7, SOURCE, 0.0)
    assert 1 <= len(cookie) <= MAX_COOKIE
    assert cookies.is_good(cookie, NONCE, 7, SOURCE, 1.0)
    assert cookies.is_good(cookie, NONCE, 7, HostPort(SOURCE.address, 1025), 1.0)


def test_a_cookie_of_another_nonce_spi_or_address_is_bad() -> None:
    cookies = jar()
    cookie = cookies.make(NONCE, 7, SOURCE, 0.0)
    assert not cookies.is_good(cookie, bytes(32), 7, SOURCE, 1.0)
    assert not cookies.is_good(cookie, NONCE, 8, SOURCE, 1.0)
    assert not cookies.is_good(cookie, NONCE, 7, HostPort(ip_address("192.0.2.2"), 500), 1.0)
    assert not cookies.is_good(cookie[:-1], NONCE, 7, SOURCE, 1.0)
    assert not cookies.is_good(b"", NONCE, 7, SOURCE, 1.0)


def test_a_cookie_outlives_one_change_of_the_secret_and_not_two() -> None:
    cookies = jar()
    cookie = cookies.make(NONCE, 7, SOURCE, 0.0)
    assert cookies.is_good(cookie, NONCE, 7, SOURCE, COOKIE_LIFE + 1)
    assert not cookies.is_good(cookie, NONCE, 7, SOURCE, 2 * COOKIE_LIFE + 2)


def test_after_a_long_silence_no_old_cookie_is_good() -> None:
    cookies = jar()
    cookie = cookies.make(NONCE, 7, SOURCE, 0.0)
    assert not cookies.is_good(cookie, NONCE, 7, SOURCE, 10 * COOKIE_LIFE)
