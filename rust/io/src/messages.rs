//! `recvmmsg` and `sendmmsg`: the structures the kernel wants, kept from call to call.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::address::{RawAddress, any_address};
use crate::batch::{Outgoing, ReceiveBatch, Received};
use crate::bounds::BATCH;
use crate::control::{CONTROL, Control};
use crate::entropy::fill_random;
use crate::fragments::Fragmented;
use crate::options::set_option;
use crate::socket::SocketKind;
use std::ops::Range;

/// Structures of the kernel for one batch, in one direction.
struct Headers {
    messages: Vec<libc::mmsghdr>,
    pieces: Vec<libc::iovec>,
    names: Vec<RawAddress>,
    controls: Vec<Control>,
}

impl Headers {
    fn new() -> Self {
        // SAFETY: all-zero octets are a value of this C structure: null pointers with length zero.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Self {
            messages: vec![message; BATCH],
            pieces: vec![
                libc::iovec {
                    iov_base: std::ptr::null_mut(),
                    iov_len: 0
                };
                BATCH
            ],
            names: vec![RawAddress::empty(); BATCH],
            controls: vec![Control::new(); BATCH],
        }
    }

    /// Let message `index` point at the other structures of the same index, and at these octets.
    fn point(&mut self, index: usize, octets: *mut u8, length: usize, name: u32, control: usize) {
        self.pieces[index] = libc::iovec {
            iov_base: octets.cast(),
            iov_len: length,
        };
        let header = &mut self.messages[index].msg_hdr;
        header.msg_name = (&raw mut self.names[index]).cast();
        header.msg_namelen = name;
        header.msg_iov = &raw mut self.pieces[index];
        header.msg_iovlen = 1;
        header.msg_control = if control == 0 {
            std::ptr::null_mut()
        } else {
            self.controls[index].as_mut_ptr()
        };
        header.msg_controllen = control as _;
        header.msg_flags = 0;
    }
}

/// Receives batches.
pub(crate) struct Receiver {
    headers: Headers,
}

// SAFETY: the pointers in the headers are rewritten by `point` before each system call and point into the same value
// or into a buffer borrowed for the call; between calls nobody follows them, whatever thread owns the value.
unsafe impl Send for Receiver {}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self {
            headers: Headers::new(),
        }
    }

    pub(crate) fn receive(&mut self, fd: &OwnedFd, batch: &mut ReceiveBatch) -> io::Result<usize> {
        for index in 0..BATCH {
            let (_, room) = batch.room(index);
            let (pointer, length) = (room.as_mut_ptr(), room.len());
            self.headers
                .point(index, pointer, length, RawAddress::SIZE, CONTROL);
        }
        // SAFETY: every header points at a name, a control buffer and octets of its own, all writable and alive.
        let got = unsafe {
            let messages = self.headers.messages.as_mut_ptr();
            libc::recvmmsg(
                fd.as_raw_fd(),
                messages,
                BATCH as _,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if got >= 0 {
            return Ok(got as usize);
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            error => Err(error),
        }
    }

    /// What message `index` is; None where it is cut off or makes no sense.
    pub(crate) fn describe(
        &self,
        index: usize,
        kind: SocketKind,
        is_v6: bool,
        batch: &mut ReceiveBatch,
    ) -> Option<Received> {
        let message = &self.headers.messages[index];
        let length = message.msg_len as usize;
        if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let remote = self.headers.names[index].read(message.msg_hdr.msg_namelen)?;
        let ancillary = self.headers.controls[index].read(message.msg_hdr.msg_controllen);
        let (start, octets) = batch.room(index);
        let skip = if kind == SocketKind::Raw && !is_v6 {
            header_length_v4(&octets[..length])?
        } else {
            0
        };
        let mut local = any_address(&remote);
        if let Some(ip) = ancillary.local {
            local.set_ip(ip);
        }
        let mut remote = remote;
        match kind {
            SocketKind::Udp { port } => local.set_port(port),
            SocketKind::Raw => remote.set_port(0),
        }
        let tos = if skip > 0 { octets[1] } else { ancillary.tos };
        let segment = ancillary.segment.unwrap_or(length).min(length);
        let length = length - skip;
        Some(Received {
            start: start + skip,
            length,
            segment: segment.min(length),
            local,
            remote,
            tos,
        })
    }
}

/// Octets of the IPv4 header that a raw socket gives before the payload.
fn header_length_v4(packet: &[u8]) -> Option<usize> {
    let length = usize::from(*packet.first()? & 0x0f) * 4;
    (20..=packet.len()).contains(&length).then_some(length)
}

/// Sends batches, and knows how the socket is set.
pub(crate) struct Sender {
    headers: Headers,
    df: bool,
    fragment_size: u16,
    has_headers: bool,
    /// Fragments of our own making, and where each lies.
    fragments: (Vec<u8>, Vec<Range<usize>>),
}

// SAFETY: as for `Receiver`.
unsafe impl Send for Sender {}

impl Sender {
    pub(crate) fn new() -> Self {
        Self {
            headers: Headers::new(),
            df: false,
            fragment_size: 0,
            has_headers: false,
            fragments: Default::default(),
        }
    }

    /// Change the setting of an IPv6 socket; a new one has 0.
    pub(crate) fn set_fragment_size(&mut self, fd: &OwnedFd, size: u16) {
        let is_same = self.fragment_size == size;
        if !is_same && set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU, size.into()).is_ok() {
            self.fragment_size = size;
        }
    }

    /// Whether what is sent by this raw socket of IPv6 has its IP header already; a new one takes it without.
    pub(crate) fn set_headers(&mut self, fd: &OwnedFd, has_headers: bool) -> io::Result<()> {
        if self.has_headers != has_headers {
            let name = libc::IPV6_HDRINCL;
            set_option(fd, libc::IPPROTO_IPV6, name, has_headers.into())
                .map_err(io::Error::other)?;
            self.has_headers = has_headers;
        }
        Ok(())
    }

    /// Send a datagram in fragments, by a raw socket of IPv6; `wait` is asked where there is no room for one of them.
    pub(crate) fn send_fragments(
        &mut self,
        fd: &OwnedFd,
        whole: &Fragmented<'_>,
        outgoing: &Outgoing,
        mut wait: impl FnMut() -> bool,
    ) -> io::Result<()> {
        let mut identification = [0; 4];
        // RFC 7739: nobody is to guess the next one.
        fill_random(&mut identification).map_err(io::Error::other)?;
        self.set_headers(fd, true)?;
        let (mut octets, mut places) = std::mem::take(&mut self.fragments);
        whole.write(u32::from_ne_bytes(identification), &mut octets, &mut places);
        let mut answer = Ok(());
        for place in &places {
            let one = Outgoing {
                octets: place.clone(),
                fragment_size: 0,
                ..outgoing.clone()
            };
            answer = loop {
                let one = std::slice::from_ref(&one);
                match self.send(fd, &octets, one, SocketKind::Raw, true) {
                    Ok(_) => break Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && wait() => {}
                    Err(error) => break Err(error),
                }
            };
            if answer.is_err() {
                break;
            }
        }
        self.fragments = (octets, places);
        answer
    }

    /// Change the setting of an IPv4 socket; `configure` began with false.
    pub(crate) fn set_df(&mut self, fd: &OwnedFd, df: bool) {
        if self.df == df {
            return;
        }
        // Neither believes what ICMP said of the path, which anybody could have sent.
        let mode = if df {
            libc::IP_PMTUDISC_PROBE
        } else {
            libc::IP_PMTUDISC_OMIT
        };
        if set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, mode).is_ok() {
            self.df = df;
        }
    }

    /// One `sendmmsg` of at most `BATCH` datagrams; answers how many were taken. The error is that of the first.
    pub(crate) fn send(
        &mut self,
        fd: &OwnedFd,
        arena: &[u8],
        datagrams: &[Outgoing],
        kind: SocketKind,
        is_v6: bool,
    ) -> io::Result<usize> {
        let count = datagrams.len().min(BATCH);
        for (index, datagram) in datagrams[..count].iter().enumerate() {
            let mut remote = datagram.remote;
            if kind == SocketKind::Raw {
                remote.set_port(0);
            }
            let (name, name_length) = RawAddress::of(&remote);
            self.headers.names[index] = name;
            let control = &mut self.headers.controls[index];
            describe_outgoing(control, datagram, is_v6);
            let control_length = control.len();
            let octets = &arena[datagram.octets.clone()];
            let (pointer, length) = (octets.as_ptr().cast_mut(), octets.len());
            self.headers
                .point(index, pointer, length, name_length, control_length);
        }
        // SAFETY: every header points at a name, a control buffer and octets that are readable and alive; sendmmsg
        // writes nothing but `msg_len` of our own headers.
        let sent = unsafe {
            let messages = self.headers.messages.as_mut_ptr();
            libc::sendmmsg(fd.as_raw_fd(), messages, count as _, libc::MSG_DONTWAIT)
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(sent as usize)
        }
    }
}

fn describe_outgoing(control: &mut Control, datagram: &Outgoing, is_v6: bool) {
    control.clear();
    control.push_source(datagram.local.ip());
    if datagram.tos != 0 {
        control.push_tos(is_v6, datagram.tos);
    }
    if datagram.df && is_v6 {
        control.push_dont_fragment_v6();
    }
    if datagram.segment != 0 && datagram.octets.len() > usize::from(datagram.segment) {
        control.push_segment(datagram.segment);
    }
}
