//! The Python module `openmoat._native`: PyO3 only, no logic. `_native.pyi` is its interface.

mod batch;
mod engine;
mod errors;
mod files;
mod records;
mod types;
mod x25519;

use openmoat_engine::SaCounter;
use openmoat_engine::events::flag;
use openmoat_esp::drops::DropReason;
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

/// Name and sentence of each counter of an SA, in the order of `Engine.read_counters`.
#[pyfunction]
fn sa_counters() -> Vec<(&'static str, &'static str)> {
    let rows = SaCounter::ALL.iter();
    rows.map(|row| (row.name(), row.sentence())).collect()
}

/// Name, bit and sentence of each flag of an SA.
#[pyfunction]
fn sa_flags() -> Vec<(&'static str, u32, &'static str)> {
    flag::ALL.to_vec()
}

/// Name and sentence of each reason to drop a packet.
#[pyfunction]
fn drop_reasons() -> Vec<(&'static str, &'static str)> {
    let rows = DropReason::ALL.iter();
    rows.map(|row| (row.name(), row.sentence())).collect()
}

/// The packet engine.
#[pymodule(name = "_native")]
fn openmoat_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(suites, module)?)?;
    module.add_function(wrap_pyfunction!(sa_counters, module)?)?;
    module.add_function(wrap_pyfunction!(sa_flags, module)?)?;
    module.add_function(wrap_pyfunction!(drop_reasons, module)?)?;
    #[cfg(feature = "unsealed")]
    module.add_function(wrap_pyfunction!(engine::unsealed_engine, module)?)?;
    module.add_function(wrap_pyfunction!(files::stamps, module)?)?;
    module.add_function(wrap_pyfunction!(x25519::x25519_public, module)?)?;
    module.add_function(wrap_pyfunction!(x25519::x25519_shared, module)?)?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<batch::Batch>()
}
