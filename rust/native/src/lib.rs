//! The Python module `openmoat._native`: PyO3 only, no logic. `_native.pyi` is its interface.

mod batch;
mod engine;
mod errors;
mod types;
mod x25519;

use openmoat_esp::suite::SUITES;
use pyo3::prelude::*;

/// Every suite the engine has: `(encryption id, key bits, integrity id or 0, esn)`.
#[pyfunction]
fn suites() -> Vec<(u16, u16, u16, bool)> {
    let both = |esn| {
        SUITES
            .iter()
            .map(move |suite| (suite.encryption, suite.key_bits, suite.integrity, esn))
    };
    both(false).chain(both(true)).collect()
}

/// The packet engine.
#[pymodule(name = "_native")]
fn openmoat_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(suites, module)?)?;
    #[cfg(feature = "unsealed")]
    module.add_function(wrap_pyfunction!(engine::unsealed_engine, module)?)?;
    module.add_function(wrap_pyfunction!(x25519::x25519_public, module)?)?;
    module.add_function(wrap_pyfunction!(x25519::x25519_shared, module)?)?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<batch::Batch>()?;
    module.add_class::<types::MtuPlan>()?;
    module.add_class::<types::SaCounters>()?;
    module.add_class::<types::SaState>()?;
    module.add_class::<types::Acquire>()?;
    module.add_class::<types::StrangeSpi>()
}
