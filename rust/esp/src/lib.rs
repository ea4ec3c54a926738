//! ESP (RFC 4303) as pure functions over octets: no I/O, no clock, no threads.
#![forbid(unsafe_code)]
