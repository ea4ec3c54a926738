//! What tells whether files are unchanged: one call for ten thousand, instead of as many calls with an object for each answer.

use std::ffi::OsString;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The stamp of each file as octets, or None: see `openmoat_io::stamps`.
#[pyfunction]
pub fn stamps<'py>(
    py: Python<'py>,
    files: Vec<OsString>,
    unsettled: (i64, i64),
) -> Vec<Option<Bound<'py, PyBytes>>> {
    let found = py.detach(|| openmoat_io::stamps(files, unsettled.0..unsettled.1));
    let octets = |stamp: [i64; 5]| PyBytes::new(py, stamp.map(i64::to_ne_bytes).as_flattened());
    found.into_iter().map(|stamp| stamp.map(octets)).collect()
}
