//! The only place where errors of Rust become exceptions of `openmoat.errors`.

use openmoat_engine::EngineError;
use openmoat_io::DeviceError;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Our own misuse: an argument that no caller of ours may give.
pub fn misuse(text: impl Into<String>) -> PyErr {
    PyValueError::new_err(text.into())
}

/// An error of a command.
pub fn engine_error(py: Python<'_>, error: &EngineError) -> PyErr {
    let class = match error {
        EngineError::UnknownSpi(_) => "UnknownSpi",
        EngineError::Device(_) | EngineError::NoSocket { .. } => "DeviceError",
        _ => "DataplaneError",
    };
    named(py, class, error.to_string())
}

/// An error of a descriptor.
pub fn device_error(py: Python<'_>, error: &DeviceError) -> PyErr {
    named(py, "DeviceError", error.to_string())
}

/// An algorithm or size the engine does not have.
pub fn dataplane_error(py: Python<'_>, text: String) -> PyErr {
    named(py, "DataplaneError", text)
}

fn named(py: Python<'_>, class: &str, text: String) -> PyErr {
    let made = py
        .import("openmoat.errors")
        .and_then(|errors| errors.getattr(class))
        .and_then(|class| class.call1((text,)));
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}
