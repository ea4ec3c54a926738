//! Descriptors in batches: TUN with vnet headers, UDP, raw IP, and a device in memory. The only crate with `unsafe`.
