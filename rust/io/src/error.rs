//! What can be wrong with a descriptor.

/// A descriptor is not what it was said to be, or the kernel refused a setting.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It is another kind of descriptor.
    #[error("descriptor {fd}: must be {wanted}, {found}")]
    WrongKind {
        /// Number as given.
        fd: i32,
        /// What it must be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it could not be.
        source: std::io::Error,
    },
}

impl DeviceError {
    /// The last error of this thread, as the failure of `what`.
    pub(crate) fn last(what: &'static str) -> Self {
        Self::System {
            what,
            source: std::io::Error::last_os_error(),
        }
    }
}
