"""OpenMoat: an IPsec virtual private network with a virtually large MTU."""

__version__ = "0.1.0"
