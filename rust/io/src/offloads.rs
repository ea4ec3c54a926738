//! Which offloads of the kernel are used: asked for, probed where a device is taken into use, and told with the reason.

use std::fmt;

/// Offloads that are wanted. What is wanted and not there is left alone: batches of single packets carry the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Super-packets of TCP at the TUN device, both ways (`TUN_F_TSO4`, `TUN_F_TSO6`, `TUN_F_TSO_ECN`).
    pub tun_tso: bool,
    /// Super-packets of UDP there (`TUN_F_USO4`, `TUN_F_USO6`; Linux 6.2).
    pub tun_uso: bool,
    /// Many datagrams to one place in one call (`UDP_SEGMENT`).
    pub udp_gso: bool,
    /// Datagrams of one size from one place joined by the kernel (`UDP_GRO`).
    pub udp_gro: bool,
}

impl Offloads {
    /// Everything.
    pub const ALL: Self = Self {
        tun_tso: true,
        tun_uso: true,
        udp_gso: true,
        udp_gro: true,
    };

    /// The plain path: every packet by itself, in batches of `recvmmsg`, `sendmmsg`, `read` and `write`.
    pub const NONE: Self = Self {
        tun_tso: false,
        tun_uso: false,
        udp_gso: false,
        udp_gro: false,
    };
}

impl Default for Offloads {
    fn default() -> Self {
        Self::ALL
    }
}

/// What became of one offload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OffloadState {
    /// In use.
    On,
    /// Nobody wanted it.
    #[default]
    SwitchedOff,
    /// The kernel said no when it was asked.
    Refused(String),
    /// The device on the way out could not, when it was tried.
    GivenUp,
    /// No descriptor that could have it.
    NoDevice,
}

impl OffloadState {
    /// What to say of an offload: not wanted, refused by this error, or on.
    pub fn of<E: fmt::Display>(is_wanted: bool, answer: impl FnOnce() -> Result<(), E>) -> Self {
        if !is_wanted {
            return Self::SwitchedOff;
        }
        match answer() {
            Ok(()) => Self::On,
            Err(error) => Self::Refused(error.to_string()),
        }
    }

    /// Whether it is in use.
    pub fn is_on(&self) -> bool {
        *self == Self::On
    }

    /// The worse of two: what is to be said of several devices together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self.is_on() { other } else { self }
    }
}

impl fmt::Display for OffloadState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On => write!(out, "on"),
            Self::SwitchedOff => write!(out, "off: by configuration"),
            Self::Refused(error) => write!(out, "off: the kernel refuses it: {error}"),
            Self::GivenUp => write!(out, "off: an interface on the way out makes no checksums"),
            Self::NoDevice => write!(out, "off: no such descriptor"),
        }
    }
}

/// What a TUN device has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunOffloads {
    /// Super-packets of TCP.
    pub tso: OffloadState,
    /// Super-packets of UDP.
    pub uso: OffloadState,
}

/// What a socket has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketOffloads {
    /// Segments on the way out.
    pub gso: OffloadState,
    /// Segments on the way in.
    pub gro: OffloadState,
}
