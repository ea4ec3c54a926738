"""Bounds on certificates, apart from `crypto.x509`: who only counts them needs none of what reads them."""

__all__ = ["MAX_CERTIFICATE", "MAX_CERTIFICATES"]

MAX_CERTIFICATE = 16384
"""Octets of one certificate."""
MAX_CERTIFICATES = 16
"""Certificates that a peer may send; more refuse it."""
