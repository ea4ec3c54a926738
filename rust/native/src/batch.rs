//! Commands for the engine, gathered one method a command.

use std::sync::{Mutex, MutexGuard, PoisonError};

use openmoat_engine::command::Command;
use pyo3::prelude::*;

use crate::records::{self, Record};

/// Commands for `Engine.apply`, which takes them out.
#[pyclass(frozen, module = "openmoat._native")]
pub struct Batch(Mutex<Vec<Command>>);

impl Batch {
    /// All commands; the batch is empty after this.
    pub fn take(&self) -> Vec<Command> {
        std::mem::take(&mut *self.commands())
    }

    fn commands(&self) -> MutexGuard<'_, Vec<Command>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, command: Command) {
        self.commands().push(command);
    }
}

#[pymethods]
impl Batch {
    #[new]
    fn new() -> Self {
        Self(Mutex::default())
    }

    fn add_inbound(&self, command: Bound<'_, PyAny>) -> PyResult<()> {
        let command = records::add_inbound(&Record(command))?;
        self.push(Command::AddInbound(Box::new(command)));
        Ok(())
    }

    fn add_outbound(&self, command: Bound<'_, PyAny>) -> PyResult<()> {
        let command = records::add_outbound(&Record(command))?;
        self.push(Command::AddOutbound(Box::new(command)));
        Ok(())
    }

    fn activate(&self, handle: u32) {
        self.push(Command::Activate(handle));
    }

    fn update(&self, command: Bound<'_, PyAny>) -> PyResult<()> {
        let command = records::update(&Record(command))?;
        self.push(Command::Update(Box::new(command)));
        Ok(())
    }

    fn remove(&self, handle: u32) {
        self.push(Command::Remove(handle));
    }

    fn put_policy(&self, policy: Bound<'_, PyAny>) -> PyResult<()> {
        let policy = records::policy(&Record(policy))?;
        self.push(Command::PutPolicy(Box::new(policy)));
        Ok(())
    }

    fn remove_policy(&self, id: u32) {
        self.push(Command::RemovePolicy(id));
    }
}
