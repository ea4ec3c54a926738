//! Bounds and wishes that hold for the life of an engine.

use openmoat_io::Offloads;

/// Bounds of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Pairs; rounded up to a power of two.
    pub slots: usize,
    /// Datagrams in each of the three queues for IKE.
    pub ike_queue: usize,
    /// Unauthenticated events that wait.
    pub noise: usize,
    /// Offloads of the kernel to use where they exist.
    pub offloads: Offloads,
    /// Whether packets are encrypted; false only in measurements of what is not cipher.
    #[cfg(feature = "unsealed")]
    pub seals: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            slots: 65_536,
            ike_queue: 1_024,
            noise: 256,
            offloads: Offloads::ALL,
            #[cfg(feature = "unsealed")]
            seals: true,
        }
    }
}
