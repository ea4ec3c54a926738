//! The packet threads. Outbound: TUN, SPD, ESP, wire. Inbound: wire, ESP, check, TUN.
#![forbid(unsafe_code)]
