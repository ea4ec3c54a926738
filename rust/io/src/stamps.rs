//! Whether files are unchanged, without reading them: of thousands in one call.

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;

/// Device, inode, size, and the times in nanoseconds of the last change of the octets and of the file itself.
pub type Stamp = [i64; 5];

/// What each file is now, links followed. None where it cannot be looked at, or either time is in `unsettled`: such a file
/// may change once more and show the same times.
pub fn stamps(files: Vec<OsString>, unsettled: Range<i64>) -> Vec<Option<Stamp>> {
    let mut parent = Parent::none();
    let look = |file: OsString| {
        let status = parent.status(file.into_vec()).ok()?;
        let changed = nanoseconds(status.st_mtime, status.st_mtime_nsec);
        let altered = nanoseconds(status.st_ctime, status.st_ctime_nsec);
        let is_settled = !unsettled.contains(&changed) && !unsettled.contains(&altered);
        let (device, inode) = (status.st_dev.cast_signed(), status.st_ino.cast_signed());
        is_settled.then_some([device, inode, status.st_size, changed, altered])
    };
    files.into_iter().map(look).collect()
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// The directory of the last file. Most files are in the same one, and from it the kernel has less to walk.
struct Parent {
    path: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

impl Parent {
    fn none() -> Self {
        Self {
            path: Vec::new(),
            descriptor: None,
        }
    }

    fn status(&mut self, file: Vec<u8>) -> io::Result<libc::stat> {
        let Some(end) = file.iter().rposition(|octet| *octet == b'/') else {
            return status_at(libc::AT_FDCWD, &CString::new(file)?);
        };
        let (path, name) = file.split_at(end + 1);
        if self.descriptor.is_none() || self.path != path {
            self.descriptor = Some(open_directory(&CString::new(path)?)?);
            self.path = path.to_vec();
        }
        let directory = self.descriptor.as_ref();
        let number = directory.map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
        status_at(number, &CString::new(name)?)
    }
}

fn open_directory(path: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the path ends with a zero octet.
    let number = unsafe { libc::open(path.as_ptr(), flags) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn status_at(directory: RawFd, name: &CStr) -> io::Result<libc::stat> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the name ends with a zero octet, and `status` has room for the structure that the kernel writes.
    if unsafe { libc::fstatat(directory, name.as_ptr(), status.as_mut_ptr(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel wrote all of it, as it answered without an error.
    Ok(unsafe { status.assume_init() })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;

    const SETTLED: Range<i64> = 0..0;

    /// An empty directory that is removed at the end.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> io::Result<Self> {
            let path = std::env::temp_dir().join(format!("stamps-{}-{name}", std::process::id()));
            fs::create_dir(&path)?;
            Ok(Self(path))
        }

        fn file(&self, name: &str) -> OsString {
            self.0.join(name).into_os_string()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_stamp_is_what_the_system_says_of_a_file() -> io::Result<()> {
        let place = Place::new("says")?;
        fs::write(place.file("one"), b"octets")?;
        let meta = fs::metadata(place.file("one"))?;
        let times = [
            nanoseconds(meta.mtime(), meta.mtime_nsec()),
            nanoseconds(meta.ctime(), meta.ctime_nsec()),
        ];
        let expected = [
            meta.dev().cast_signed(),
            meta.ino().cast_signed(),
            6,
            times[0],
            times[1],
        ];
        assert_eq!(stamps(vec![place.file("one")], SETTLED), [Some(expected)]);
        Ok(())
    }

    #[test]
    fn links_are_followed_and_what_is_not_there_has_no_stamp() -> io::Result<()> {
        let (place, other) = (Place::new("links")?, Place::new("links-other")?);
        fs::write(other.file("target"), b"")?;
        symlink(other.file("target"), place.file("link"))?;
        symlink(place.file("nothing"), place.file("dangling"))?;
        let files = ["link", "dangling", "missing", "with\0zero", "no/directory"];
        let mut all: Vec<_> = files.iter().map(|name| place.file(name)).collect();
        all.push(other.file("target"));
        let found = stamps(all, SETTLED);
        assert!(found[0].is_some());
        assert_eq!(found[1..5], [None; 4]);
        assert_eq!(found[0], found[5]);
        Ok(())
    }

    #[test]
    fn a_file_with_an_unsettled_time_has_no_stamp() -> io::Result<()> {
        let place = Place::new("unsettled")?;
        fs::write(place.file("one"), b"")?;
        std::thread::sleep(std::time::Duration::from_millis(20)); // a tick of the file system's clock
        fs::set_permissions(place.file("one"), fs::Permissions::from_mode(0o600))?;
        let meta = fs::metadata(place.file("one"))?;
        let changed = nanoseconds(meta.mtime(), meta.mtime_nsec());
        let altered = nanoseconds(meta.ctime(), meta.ctime_nsec());
        assert!(changed < altered);
        let settled = |unsettled| stamps(vec![place.file("one")], unsettled)[0].is_some();
        assert!(!settled(changed..changed + 1));
        assert!(!settled(altered..altered + 1));
        assert!(settled(altered + 1..i64::MAX));
        assert!(settled(0..changed));
        Ok(())
    }
}
