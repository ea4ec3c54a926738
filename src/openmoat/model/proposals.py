"""Proposals as the configuration writes them (`aes256gcm16-prfsha256-x25519`), and the default ones.

The defaults are strict by RFC 8247 and RFC 8221: authenticated encryption with modern key exchange first, then what every
implementation has, and nothing weaker. PFS is not asked for by default: many peers refuse a child rekey with it, an hour
after all seemed well, and an IKE SA is rekeyed with a fresh key exchange anyway.
"""

from collections.abc import Callable

from openmoat.crypto.suites import (
    AES_128_CBC,
    AES_128_GCM_16,
    AES_256_CBC,
    AES_256_GCM_16,
    CHACHA20_POLY1305,
    ECP_256,
    ENCRYPTIONS,
    HMAC_SHA2_256_128,
    INTEGRITIES,
    KE_METHODS,
    MODP_2048,
    PRF_HMAC_SHA2_256,
    PRF_HMAC_SHA2_384,
    PRF_HMAC_SHA2_512,
    PRFS,
    X25519,
    Encryption,
    Integrity,
    KeyExchange,
    PrfRow,
    by_name,
)
from openmoat.errors import did_you_mean
from openmoat.model.connection import EspProposal, IkeProposal

__all__ = [
    "DEFAULT_ESP_PROPOSALS",
    "DEFAULT_IKE_PROPOSALS",
    "format_esp_proposal",
    "format_ike_proposal",
    "parse_esp_proposal",
    "parse_ike_proposal",
]

_AEADS = (AES_256_GCM_16, AES_128_GCM_16, CHACHA20_POLY1305)
_CBC = (AES_256_CBC, AES_128_CBC)

DEFAULT_IKE_PROPOSALS = (
    IkeProposal(
        encryptions=_AEADS,
        prfs=(PRF_HMAC_SHA2_256, PRF_HMAC_SHA2_384, PRF_HMAC_SHA2_512),
        key_exchanges=(X25519, ECP_256),
    ),
    IkeProposal(
        encryptions=_CBC,
        integrities=(HMAC_SHA2_256_128,),
        prfs=(PRF_HMAC_SHA2_256,),
        key_exchanges=(X25519, ECP_256, MODP_2048),
    ),
)
DEFAULT_ESP_PROPOSALS = (
    EspProposal(encryptions=_AEADS),
    EspProposal(encryptions=_CBC, integrities=(HMAC_SHA2_256_128,)),
)

_Row = Encryption | Integrity | PrfRow | KeyExchange
_ENCRYPTIONS = {row.name: row for row in ENCRYPTIONS}
_INTEGRITIES, _PRFS, _KES = by_name(INTEGRITIES), by_name(PRFS), by_name(KE_METHODS)
_ESN = {"esn": True, "noesn": False}
_LONGEST_FIRST = sorted((*_ENCRYPTIONS, *_INTEGRITIES, *_PRFS, *_KES, *_ESN), key=len, reverse=True)


def parse_ike_proposal(text: str) -> IkeProposal:
    """Read `aes256gcm16-aes128gcm16-prfsha256-x25519-ecp256`: any number of words of each kind, order is preference.

    `ValueError` names the word that is not known and similar ones, or the kind that is missing.
    """
    words = _words(text, lambda word: word not in _ESN)
    return IkeProposal(
        encryptions=tuple(_ENCRYPTIONS[word] for word in words if word in _ENCRYPTIONS),
        integrities=tuple(_INTEGRITIES[word] for word in words if word in _INTEGRITIES),
        prfs=tuple(_PRFS[word] for word in words if word in _PRFS),
        key_exchanges=tuple(_KES[word] for word in words if word in _KES),
    )


def parse_esp_proposal(text: str) -> EspProposal:
    """Read `aes128-sha256-x25519-esn`; a key exchange asks for PFS, `esn` or `noesn` allows only that, neither both."""
    words = _words(text, lambda word: word not in _PRFS)
    return EspProposal(
        encryptions=tuple(_ENCRYPTIONS[word] for word in words if word in _ENCRYPTIONS),
        integrities=tuple(_INTEGRITIES[word] for word in words if word in _INTEGRITIES),
        key_exchanges=tuple(_KES[word] for word in words if word in _KES),
        esn=tuple(_ESN[word] for word in words if word in _ESN) or (True, False),
    )


def format_ike_proposal(proposal: IkeProposal) -> str:
    """The text that `parse_ike_proposal` reads."""
    return _format(*proposal.encryptions, *proposal.integrities, *proposal.prfs, *proposal.key_exchanges)


def format_esp_proposal(proposal: EspProposal) -> str:
    """The text that `parse_esp_proposal` reads."""
    text = _format(*proposal.encryptions, *proposal.integrities, *proposal.key_exchanges)
    if proposal.esn == (True, False):
        return text
    return "-".join([text, *("esn" if esn else "noesn" for esn in proposal.esn)])


def _format(*rows: _Row) -> str:
    return "-".join(row.name for row in rows)


def _words(text: str, is_permitted: Callable[[str], bool]) -> list[str]:
    """Cut at hyphens; a few names (`null-aes128gmac`) hold one themselves."""
    known = [word for word in _LONGEST_FIRST if is_permitted(word)]
    words, rest = [], text.strip().lower()
    while rest:
        word = next((w for w in known if rest == w or rest.startswith(w + "-")), None)
        if word is None:
            unknown = rest.partition("-")[0]
            raise ValueError(f'no algorithm "{unknown}"{did_you_mean(unknown, known)}')
        if word in words:
            raise ValueError(f'"{word}" is named twice')
        words.append(word)
        rest = rest[len(word) + 1 :]
    return words
