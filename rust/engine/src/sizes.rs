//! Sizes of packets: the plan of an SA, what it does to packets that do not fit, and whether large ones arrive.

pub mod divide;
pub mod fragment;
pub mod inner_packet;
pub mod ladder;
pub mod plan;
pub mod probe;
pub mod segment;
pub mod suspicion;
