//! What the packet threads look up: the SAD, a slot per pair, and the SPD with the active pairs of its policies.

pub mod pair;
pub mod path_watch;
pub mod policies;
pub mod sa_counters;
pub mod sad;
pub mod send_lock;
pub mod spis;
