//! Why a command could not be carried out.

use openmoat_esp::sa::SaError;
use openmoat_io::DeviceError;

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It names a pair that is not installed.
    #[error("SA {0:08x} is not installed")]
    UnknownSpi(u32),
    /// It names an SPI that was not reserved.
    #[error("SPI {0:08x}: must be one of reserve_spis, this is not reserved")]
    NotReserved(u32),
    /// The pair has its outbound half already.
    #[error("SA {0:08x} has an outbound half already")]
    IsComplete(u32),
    /// The pair has no outbound half yet.
    #[error("SA {0:08x} has no outbound half to activate")]
    IsIncomplete(u32),
    /// Its packets would lie otherwise in payloads than was agreed.
    #[error("SA {0:08x}: framing was agreed with the peer, and cannot change")]
    OtherFraming(u32),
    /// No descriptor carries ESP so.
    #[error("SA {handle:08x}: no socket for ESP from {local} {how}")]
    NoSocket {
        /// Which pair.
        handle: u32,
        /// Our end.
        local: std::net::SocketAddr,
        /// In UDP, or not.
        how: &'static str,
    },
    /// Its keys or its window cannot be.
    #[error("SA {0:08x}: {1}")]
    Sa(u32, SaError),
    /// It has been stopped.
    #[error("the engine has been stopped")]
    IsStopped,
    /// See `DeviceError`.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
