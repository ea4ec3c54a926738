//! Where the packets of a pair come from, and whether the daemon knows.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use openmoat_io::Path;

/// What an authentic packet, newest by sequence number, says of its pair's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Nothing that the daemon does not know.
    Known,
    /// Packets come from another path.
    Moved,
    /// Packets come from the expected path again.
    Back,
}

/// Written by the daemon's thread (`expect`) and by packet threads (`observe`).
pub struct PathWatch {
    expected: ArcSwap<Path>,
    /// Where the newest packet came from, while that is elsewhere.
    new: ArcSwapOption<Path>,
    /// Fingerprint (even) of the path that tells nothing new; an odd number, each time another, while it must be looked for.
    quiet: AtomicU64,
    /// The next odd number.
    unknown: AtomicU64,
}

impl PathWatch {
    /// Packets are expected from here.
    pub fn new(expected: Path) -> Self {
        Self {
            expected: ArcSwap::from_pointee(expected),
            new: ArcSwapOption::empty(),
            quiet: AtomicU64::new(1),
            unknown: AtomicU64::new(3),
        }
    }

    /// The daemon knows that packets come from here.
    pub fn expect(&self, path: Path) {
        self.expected.store(Arc::new(path));
        self.forget();
    }

    /// Where the newest packet came from, while that is elsewhere than expected.
    pub fn new_path(&self) -> Option<Path> {
        self.new.load_full().map(|path| *path)
    }

    /// Look at the path of a packet. One comparison where it is the path of the packet before it.
    pub fn observe(&self, path: &Path) -> Observed {
        let quiet = self.quiet.load(Ordering::Acquire);
        let fingerprint = fingerprint(path);
        if quiet == fingerprint {
            return Observed::Known;
        }
        let observed = self.compare(path);
        // The daemon's thread may have called `expect` in between; then the next packet is looked at again.
        let _ =
            self.quiet
                .compare_exchange(quiet, fingerprint, Ordering::AcqRel, Ordering::Relaxed);
        observed
    }

    fn compare(&self, path: &Path) -> Observed {
        let is_expected = **self.expected.load() == *path;
        let known = self.new.load();
        let is_known = known.as_ref().map_or(is_expected, |known| **known == *path);
        if is_known {
            return Observed::Known;
        }
        if is_expected {
            self.forget();
            return Observed::Back;
        }
        self.new.store(Some(Arc::new(*path)));
        Observed::Moved
    }

    /// There is no new path any more.
    fn forget(&self) {
        self.new.store(None);
        // Another number each time, so that no packet thread that looked before takes it for what it saw.
        let unknown = self.unknown.fetch_add(2, Ordering::SeqCst);
        self.quiet.store(unknown, Ordering::SeqCst);
    }
}

/// An even number that stands for a path. Two paths that share one cost only that the second is followed later.
fn fingerprint(path: &Path) -> u64 {
    let fold = |end: &SocketAddr| {
        let address = match end.ip() {
            IpAddr::V4(v4) => u64::from(u32::from(v4)),
            IpAddr::V6(v6) => {
                let bits = u128::from(v6);
                (bits as u64).wrapping_mul(0xff51_afd7_ed55_8ccd) ^ (bits >> 64) as u64
            }
        };
        (address ^ (u64::from(end.port()) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    fold(&path.local)
        .rotate_left(31)
        .wrapping_add(fold(&path.remote))
        & !1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(port: u16) -> Path {
        Path {
            local: ([192, 0, 2, 1], 4500).into(),
            remote: ([192, 0, 2, 2], port).into(),
        }
    }

    #[test]
    fn a_move_is_told_once_and_so_is_the_way_back() {
        let watch = PathWatch::new(from(4500));
        assert_eq!(watch.observe(&from(4500)), Observed::Known);
        assert_eq!(watch.observe(&from(9)), Observed::Moved);
        assert_eq!(watch.observe(&from(9)), Observed::Known);
        assert_eq!(watch.new_path(), Some(from(9)));
        assert_eq!(watch.observe(&from(4500)), Observed::Back);
        assert_eq!(watch.new_path(), None);
    }

    #[test]
    fn what_the_daemon_expects_is_no_news_and_another_path_is() {
        let watch = PathWatch::new(from(4500));
        watch.observe(&from(9));
        watch.expect(from(9));
        assert_eq!(watch.new_path(), None);
        assert_eq!(watch.observe(&from(9)), Observed::Known);
        assert_eq!(watch.observe(&from(4500)), Observed::Moved);
    }
}
