//! Random octets, for what an attacker must not guess.

use crate::error::DeviceError;

/// Fill `octets` from the generator of the kernel.
pub fn fill_random(octets: &mut [u8]) -> Result<(), DeviceError> {
    let mut done = 0;
    while done < octets.len() {
        let rest = &mut octets[done..];
        // SAFETY: the pointer and the length describe `rest`, which is ours to write.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        if got >= 0 {
            done += got as usize;
        } else if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            return Err(DeviceError::last("getrandom"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn octets_by_chance_differ() -> Result<(), crate::DeviceError> {
        let (mut ours, mut theirs) = ([0; 32], [0; 32]);
        super::fill_random(&mut ours)?;
        super::fill_random(&mut theirs)?;
        assert_ne!(ours, theirs);
        Ok(())
    }
}
