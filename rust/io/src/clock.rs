//! The clock of the packet threads, read once per batch.

/// Nanoseconds of `CLOCK_BOOTTIME`, which goes on while the machine sleeps and never goes back: the clock of the daemon,
/// whose deadlines the engine keeps. Linux answers without a system call since 5.3.
pub fn boottime() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for one timespec; the clock exists on every Linux since 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds that the calling thread has run on a core. A system call: for measurements, not for packets.
pub fn thread_time() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: as above.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}
