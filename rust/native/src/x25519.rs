//! X25519 (RFC 7748) for IKE: the functions of aws-lc, several times as fast as those that Python has otherwise.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::misuse;

/// The public value that belongs to 32 private octets.
#[pyfunction]
pub fn x25519_public<'py>(
    py: Python<'py>,
    private: &Bound<'py, PyBytes>,
) -> PyResult<Bound<'py, PyBytes>> {
    let public = key(private)?
        .compute_public_key()
        .map_err(|_| misuse("x25519: no public value"))?;
    Ok(PyBytes::new(py, public.as_ref()))
}

/// What both ends share. `ValueError` for a peer's value that leads to all zeros, or has not 32 octets.
#[pyfunction]
pub fn x25519_shared<'py>(
    py: Python<'py>,
    private: &Bound<'py, PyBytes>,
    peer: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    agree(
        &key(private)?,
        UnparsedPublicKey::new(&X25519, peer),
        misuse("x25519: not 32 octets, or a value of small order"),
        |secret| Ok(PyBytes::new(py, secret)),
    )
}

fn key(private: &Bound<'_, PyBytes>) -> PyResult<PrivateKey> {
    PrivateKey::from_private_key(&X25519, private.as_bytes())
        .map_err(|_| misuse("x25519: a private value has 32 octets"))
}
