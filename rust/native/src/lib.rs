//! The Python module `openmoat._native`: PyO3 only, no logic.
use pyo3::prelude::*;

/// The packet engine; see `_native.pyi` for the interface.
#[pymodule(name = "_native")]
fn openmoat_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
