"""The IKEv2 core (RFC 7296), sans-IO: octets, time and chance in, octets and events out. Pure."""
