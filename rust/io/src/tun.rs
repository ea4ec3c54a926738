//! Queues of a TUN device, and what stands for one in tests.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::batch::{PacketBatch, PacketList};
use crate::error::DeviceError;
use crate::offloads::{OffloadState, Offloads, TunOffloads};
use crate::options;
use crate::vnet::{VNET_HEADER, VnetHeader};

/// Pieces that one write passes to the kernel beside the vnet header; `IOV_MAX` is 1024.
const MAX_WRITE_PIECES: usize = 256;

/// The inside of the engine: gives packets of the host, takes packets for it. Any of them may be a super-packet.
pub trait TunDevice: Send + Sync {
    /// Readable while `read_batch` would give something.
    fn readable(&self) -> BorrowedFd<'_>;

    /// Clear `batch`, then read until it is full or nothing waits. Answers how many packets it then holds.
    fn read_batch(&self, batch: &mut PacketBatch) -> io::Result<usize>;

    /// Write all of `list`, whose pieces lie in `arena`. Answers how many pieces the device did not take: as many packets
    /// as went into the super-packets.
    fn write_batch(&self, arena: &[u8], list: &PacketList) -> usize;

    /// Let the kernel give and take super-packets as far as they are wanted and it can. Answers with what it does.
    fn enable_offloads(&self, wanted: Offloads) -> TunOffloads;
}

/// One queue of a TUN device with `IFF_NO_PI | IFF_VNET_HDR`.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
}

impl Tun {
    /// Own a duplicate of an open queue. The open file becomes non-blocking.
    pub fn adopt(fd: RawFd) -> Result<Self, DeviceError> {
        let wanted = "a queue of a TUN device with IFF_NO_PI and IFF_VNET_HDR";
        let owned = options::duplicate(fd)?;
        // SAFETY: all-zero octets are a value of this C structure.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: TUNGETIFF writes one ifreq where the pointer says, which is ours.
        if unsafe { libc::ioctl(owned.as_raw_fd(), libc::TUNGETIFF, &raw mut request) } < 0 {
            return Err(DeviceError::WrongKind {
                fd,
                wanted,
                found: io::Error::last_os_error().to_string(),
            });
        }
        // SAFETY: TUNGETIFF fills in the flags; every bit pattern of them is a value.
        let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
        if flags & (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR)
            != libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR
        {
            return Err(DeviceError::WrongKind {
                fd,
                wanted,
                found: format!("flags are {flags:#06x}"),
            });
        }
        let size = VNET_HEADER as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int where the pointer says.
        if unsafe { libc::ioctl(owned.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) } < 0 {
            return Err(DeviceError::last("TUNSETVNETHDRSZ"));
        }
        options::set_nonblocking(&owned)?;
        Ok(Self { fd: owned })
    }

    fn set_offloads(&self, offloads: libc::c_uint) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        let answer = unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                libc::TUNSETOFFLOAD,
                libc::c_ulong::from(offloads),
            )
        };
        if answer < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn read_one(&self, room: &mut [u8]) -> io::Result<(VnetHeader, usize)> {
        let mut header = [0u8; VNET_HEADER];
        let pieces = [
            libc::iovec {
                iov_base: header.as_mut_ptr().cast(),
                iov_len: VNET_HEADER,
            },
            libc::iovec {
                iov_base: room.as_mut_ptr().cast(),
                iov_len: room.len(),
            },
        ];
        // SAFETY: both pieces are writable for their lengths and outlive the call.
        let got = unsafe { libc::readv(self.fd.as_raw_fd(), pieces.as_ptr(), 2) };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((
            VnetHeader::parse(&header),
            (got as usize).saturating_sub(VNET_HEADER),
        ))
    }

    fn write_one(
        &self,
        header: &[u8; VNET_HEADER],
        pieces: impl Iterator<Item = (*const u8, usize)>,
    ) -> bool {
        let nothing = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let mut vector = [nothing; MAX_WRITE_PIECES + 1];
        vector[0] = libc::iovec {
            iov_base: header.as_ptr().cast_mut().cast(),
            iov_len: VNET_HEADER,
        };
        let mut count = 1;
        for (pointer, length) in pieces {
            if count > MAX_WRITE_PIECES {
                return false;
            }
            vector[count] = libc::iovec {
                iov_base: pointer.cast_mut().cast(),
                iov_len: length,
            };
            count += 1;
        }
        // SAFETY: each piece is readable for its length and outlives the call; writev does not write to them.
        unsafe { libc::writev(self.fd.as_raw_fd(), vector.as_ptr(), count as libc::c_int) >= 0 }
    }
}

impl TunDevice for Tun {
    fn readable(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn read_batch(&self, batch: &mut PacketBatch) -> io::Result<usize> {
        batch.clear();
        while let Some(room) = batch.room() {
            match self.read_one(room) {
                Ok((vnet, length)) => batch.push(vnet, length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What was read is delivered first; a lasting error comes again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || !batch.is_empty() => {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(batch.len())
    }

    fn write_batch(&self, arena: &[u8], list: &PacketList) -> usize {
        let mut refused = 0;
        for (vnet, pieces) in list.iter() {
            let mut count = 0;
            let slices = pieces.inspect(|_| count += 1).map(|piece| {
                let slice = &arena[piece];
                (slice.as_ptr(), slice.len())
            });
            if !self.write_one(&vnet.emit(), slices) {
                refused += count;
            }
        }
        refused
    }

    fn enable_offloads(&self, wanted: Offloads) -> TunOffloads {
        let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        let udp = libc::TUN_F_CSUM | libc::TUN_F_USO4 | libc::TUN_F_USO6; // Linux 6.2 and newer
        // Each setting replaces the one before, so that the second holds what the first was granted.
        let tso = OffloadState::of(wanted.tun_tso, || self.set_offloads(tcp));
        let granted = if tso.is_on() { tcp } else { 0 };
        let uso = OffloadState::of(wanted.tun_uso, || self.set_offloads(granted | udp));
        if !uso.is_on() {
            let _ = self.set_offloads(granted); // it has just been granted, or is nothing
        }
        TunOffloads { tso, uso }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vnet::GsoType;
    use std::fs::{File, OpenOptions};

    /// A queue of a new device that is down; None where this process may not make one.
    fn open() -> Option<File> {
        let clone = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun");
        let file = clone.ok()?;
        // SAFETY: all-zero octets are a value of this C structure.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one ifreq where the pointer says, which is ours.
        let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        (answer >= 0).then_some(file)
    }

    #[test]
    fn each_offload_of_a_device_is_granted_by_itself() -> Result<(), DeviceError> {
        let Some(file) = open() else {
            eprintln!("not run: no TUN device can be made here");
            return Ok(());
        };
        let tun = Tun::adopt(file.as_raw_fd())?;
        for (tun_tso, tun_uso) in [(true, true), (true, false), (false, true), (false, false)] {
            let wanted = Offloads {
                tun_tso,
                tun_uso,
                ..Offloads::ALL
            };
            let found = tun.enable_offloads(wanted);
            assert_eq!(found.tso.is_on(), tun_tso);
            // A kernel before 6.2 knows no USO.
            assert!(found.uso.is_on() == tun_uso || matches!(found.uso, OffloadState::Refused(_)));
        }
        Ok(())
    }

    #[test]
    fn a_device_that_is_down_refuses_every_packet_of_a_super_packet() -> Result<(), DeviceError> {
        let Some(file) = open() else {
            eprintln!("not run: no TUN device can be made here");
            return Ok(());
        };
        let tun = Tun::adopt(file.as_raw_fd())?;
        let vnet = VnetHeader {
            gso_type: GsoType::Udp,
            gso_size: 10,
            ..VnetHeader::default()
        };
        let mut list = PacketList::new();
        list.push(vnet, 0..40);
        list.extend(0, 40..50);
        list.extend(0, 60..70);
        list.push(VnetHeader::default(), 0..40);
        assert_eq!(tun.write_batch(&[0x45; 80], &list), 4);
        let mut batch = PacketBatch::new();
        assert!(tun.read_batch(&mut batch).is_ok_and(|count| count == 0));
        Ok(())
    }

    #[test]
    fn what_is_no_device_is_refused() {
        assert!(Tun::adopt(-1).is_err());
        assert!(File::open("/dev/null").is_ok_and(|file| Tun::adopt(file.as_raw_fd()).is_err()));
    }
}
