//! What protects the packets of one SA: the table of suites, and keys that seal and open in place without allocating.
//!
//! IVs: counter modes take the sequence number, which is unique per key (RFC 4106 3.1, RFC 7634 2). CBC needs IVs that
//! nobody can foretell (RFC 3602 3): the sequence number goes through AES under a key of its own, derived from the SA's
//! integrity key (NIST SP 800-38A, appendix C, first method). So the crate needs no chance, and an IV cannot repeat.

use std::ops::Range;

use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockDecryptMut, BlockEncrypt, BlockEncryptMut, InnerIvInit, KeyInit};
use aws_lc_rs::{aead, constant_time, hmac};
use zeroize::Zeroizing;

use crate::drops::DropReason;
use crate::wire::{ESP_HEADER, ESP_TRAILER};

/// Octets of salt after the key of a counter mode (RFC 4106 4, RFC 7634 2).
pub const SALT: usize = 4;
const COUNTER_IV: usize = 8;
const AES_BLOCK: usize = 16;
const AEAD_ICV: usize = 16;
/// RFC 4303 2.4: the ICV begins on a multiple of four octets.
const MIN_ALIGN: usize = 4;
/// Octets under one AES key before collisions of blocks become likely enough to matter: 2^48 blocks (RFC 4106 7, RFC 3602 5).
pub const MAX_AES_OCTETS: u64 = 1 << 52;

/// A suite or key that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuiteError {
    /// Not in the table.
    #[error(
        "suite: encryption {encryption} with {key_bits} bits and integrity {integrity} is not in the table"
    )]
    Unknown {
        /// IANA number of the encryption transform.
        encryption: u16,
        /// Key size asked for.
        key_bits: u16,
        /// IANA number of the integrity transform, 0 for none.
        integrity: u16,
    },
    /// Keying material of another size.
    #[error("{suite}: {part} has {need} octets, got {got}")]
    KeySize {
        /// Name of the suite.
        suite: &'static str,
        /// Which key.
        part: &'static str,
        /// Octets it must have.
        need: usize,
        /// Octets that came.
        got: usize,
    },
    /// The library took no key of a size it documents.
    #[error("{0}: refused by the cryptographic library")]
    Refused(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mode {
    Gcm,
    ChaCha20,
    Gmac,
    Cbc,
}

/// One row of the table of suites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Suite {
    /// As the configuration writes it.
    pub name: &'static str,
    /// IANA number of the encryption transform.
    pub encryption: u16,
    /// Bits of the cipher key.
    pub key_bits: u16,
    /// IANA number of the integrity transform, 0 with an AEAD.
    pub integrity: u16,
    mode: Mode,
    integrity_key: usize,
    icv: usize,
}

const fn aead_row(name: &'static str, encryption: u16, key_bits: u16, mode: Mode) -> Suite {
    Suite {
        name,
        encryption,
        key_bits,
        integrity: 0,
        mode,
        integrity_key: 0,
        icv: AEAD_ICV,
    }
}

const fn cbc_row(name: &'static str, key_bits: u16, integrity: u16, integrity_key: usize) -> Suite {
    // RFC 4868 2.1: keys as long as the hash, ICV half of it.
    Suite {
        name,
        encryption: 12,
        key_bits,
        integrity,
        mode: Mode::Cbc,
        integrity_key,
        icv: integrity_key / 2,
    }
}

/// Every suite there is; numbers are those of the IKEv2 registries.
pub const SUITES: [Suite; 16] = [
    aead_row("aes128gcm16", 20, 128, Mode::Gcm),
    aead_row("aes192gcm16", 20, 192, Mode::Gcm),
    aead_row("aes256gcm16", 20, 256, Mode::Gcm),
    aead_row("chacha20poly1305", 28, 256, Mode::ChaCha20),
    aead_row("null-aes128gmac", 21, 128, Mode::Gmac),
    aead_row("null-aes192gmac", 21, 192, Mode::Gmac),
    aead_row("null-aes256gmac", 21, 256, Mode::Gmac),
    cbc_row("aes128-sha256", 128, 12, 32),
    cbc_row("aes192-sha256", 192, 12, 32),
    cbc_row("aes256-sha256", 256, 12, 32),
    cbc_row("aes128-sha384", 128, 13, 48),
    cbc_row("aes192-sha384", 192, 13, 48),
    cbc_row("aes256-sha384", 256, 13, 48),
    cbc_row("aes128-sha512", 128, 14, 64),
    cbc_row("aes192-sha512", 192, 14, 64),
    cbc_row("aes256-sha512", 256, 14, 64),
];

impl Suite {
    /// The row with these IANA numbers; `key_bits` 0 means the only size there is (ChaCha20 carries none on the wire).
    pub fn by_numbers(encryption: u16, key_bits: u16, integrity: u16) -> Result<Self, SuiteError> {
        let fits = |row: &&Suite| {
            row.encryption == encryption
                && row.integrity == integrity
                && (row.key_bits == key_bits || (key_bits == 0 && row.mode == Mode::ChaCha20))
        };
        SUITES
            .iter()
            .find(fits)
            .copied()
            .ok_or(SuiteError::Unknown {
                encryption,
                key_bits,
                integrity,
            })
    }

    /// The row of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        SUITES.iter().find(|row| row.name == name).copied()
    }

    /// Octets of the encryption key as it comes from KEYMAT, salt included.
    pub const fn key_material(&self) -> usize {
        self.key_bits as usize / 8 + if self.is_cbc() { 0 } else { SALT }
    }

    /// Octets of the integrity key, 0 with an AEAD.
    pub const fn integrity_key(&self) -> usize {
        self.integrity_key
    }

    const fn is_cbc(&self) -> bool {
        matches!(self.mode, Mode::Cbc)
    }

    /// Octets of IV on the wire.
    pub const fn iv(&self) -> usize {
        if self.is_cbc() { AES_BLOCK } else { COUNTER_IV }
    }

    /// Octets of the integrity check value.
    pub const fn icv(&self) -> usize {
        self.icv
    }

    /// The padded plaintext is a multiple of this.
    pub const fn align(&self) -> usize {
        if self.is_cbc() { AES_BLOCK } else { MIN_ALIGN }
    }

    /// Octets before the inner packet: SPI, sequence number, IV.
    pub const fn headroom(&self) -> usize {
        ESP_HEADER + self.iv()
    }

    /// Octets of the whole ESP packet around an inner packet, from SPI to ICV.
    pub const fn sealed_size(&self, inner: usize) -> usize {
        self.headroom() + (inner + ESP_TRAILER).next_multiple_of(self.align()) + self.icv
    }

    /// The largest inner packet whose ESP packet fits into `size` octets; 0 where none does.
    pub const fn inner_room(&self, size: usize) -> usize {
        let room = size.saturating_sub(self.headroom() + self.icv);
        (room - room % self.align()).saturating_sub(ESP_TRAILER)
    }

    /// Octets one key may protect.
    pub const fn max_octets(&self) -> u64 {
        if matches!(self.mode, Mode::ChaCha20) {
            u64::MAX
        } else {
            MAX_AES_OCTETS
        }
    }
}

/// The keys of one SA in one direction, with schedules made. Wiped when dropped; never shown.
pub struct PacketKey {
    suite: Suite,
    has_esn: bool,
    cipher: Cipher,
}

impl std::fmt::Debug for PacketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PacketKey({})", self.suite.name)
    }
}

enum Cipher {
    Aead {
        key: aead::LessSafeKey,
        salt: Zeroizing<[u8; SALT]>,
    },
    Gmac {
        key: aead::LessSafeKey,
        salt: Zeroizing<[u8; SALT]>,
    },
    Cbc(Box<CbcHmac>),
    /// See [`PacketKey::unsealed`].
    #[cfg(feature = "unsealed")]
    Unsealed,
}

impl PacketKey {
    /// No key at all: packets have every octet they would have, but their text is clear and their ICV zeros that nobody
    /// looks at. For measurements of what is not cipher; no release is built with it.
    #[cfg(feature = "unsealed")]
    pub fn unsealed(suite: Suite, has_esn: bool) -> Self {
        Self {
            suite,
            has_esn,
            cipher: Cipher::Unsealed,
        }
    }

    /// Keys from KEYMAT (RFC 7296 2.17): `key` with the salt behind it, `integrity_key` empty with an AEAD.
    pub fn new(
        suite: Suite,
        has_esn: bool,
        key: &[u8],
        integrity_key: &[u8],
    ) -> Result<Self, SuiteError> {
        let size = |part, need, got| {
            if need == got {
                Ok(())
            } else {
                Err(SuiteError::KeySize {
                    suite: suite.name,
                    part,
                    need,
                    got,
                })
            }
        };
        size("key", suite.key_material(), key.len())?;
        size("integrity key", suite.integrity_key, integrity_key.len())?;
        let cipher = match suite.mode {
            Mode::Cbc => Cipher::Cbc(Box::new(CbcHmac::new(suite, key, integrity_key)?)),
            Mode::Gmac => {
                let (key, salt) = aead_key(suite, key)?;
                Cipher::Gmac { key, salt }
            }
            Mode::Gcm | Mode::ChaCha20 => {
                let (key, salt) = aead_key(suite, key)?;
                Cipher::Aead { key, salt }
            }
        };
        Ok(Self {
            suite,
            has_esn,
            cipher,
        })
    }

    /// The row of the table.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Whether sequence numbers have 64 bits (RFC 4303 2.2.1).
    pub fn has_esn(&self) -> bool {
        self.has_esn
    }

    /// Encrypt and authenticate a packet in place: SPI and sequence number are written, plaintext with trailer stands
    /// behind the room for the IV, room for the ICV ends it. Fails with `NoRoom` only.
    pub fn seal(&self, packet: &mut [u8], sequence: u64) -> Result<(), DropReason> {
        if packet.len() < self.suite.headroom() + self.suite.icv {
            return Err(DropReason::NoRoom);
        }
        match &self.cipher {
            Cipher::Aead { key, salt } => {
                packet[ESP_HEADER..ESP_HEADER + COUNTER_IV]
                    .copy_from_slice(&sequence.to_be_bytes());
                let nonce = counter_nonce(salt, packet);
                let aad = self.associated(packet, sequence);
                let (_, body) = packet.split_at_mut(ESP_HEADER + COUNTER_IV);
                let (text, icv) = body.split_at_mut(body.len() - AEAD_ICV);
                let tag = key
                    .seal_in_place_separate_tag(nonce, aad, text)
                    .map_err(|_| DropReason::NoRoom)?;
                icv.copy_from_slice(tag.as_ref());
            }
            Cipher::Gmac { key, salt } => return self.seal_gmac(key, salt, packet, sequence),
            Cipher::Cbc(keys) => return keys.seal(packet, sequence, self.has_esn),
            #[cfg(feature = "unsealed")]
            Cipher::Unsealed => {
                let (icv, iv) = (packet.len() - self.suite.icv, self.suite.iv());
                packet[ESP_HEADER..ESP_HEADER + iv].fill(0);
                packet[icv..].fill(0);
            }
        }
        Ok(())
    }

    fn seal_gmac(
        &self,
        key: &aead::LessSafeKey,
        salt: &[u8; SALT],
        packet: &mut [u8],
        sequence: u64,
    ) -> Result<(), DropReason> {
        packet[ESP_HEADER..ESP_HEADER + COUNTER_IV].copy_from_slice(&sequence.to_be_bytes());
        let nonce = counter_nonce(salt, packet);
        let shift = self.spread_for_gmac(packet, sequence);
        let text_end = packet.len() - AEAD_ICV + shift;
        let tag = key
            .seal_in_place_separate_tag(nonce, aead::Aad::from(&packet[..text_end]), &mut [])
            .map_err(|_| DropReason::NoRoom)?;
        if shift > 0 {
            packet.copy_within(ESP_HEADER..text_end, ESP_HEADER - shift);
        }
        let icv = packet.len() - AEAD_ICV;
        packet[icv..].copy_from_slice(tag.as_ref());
        Ok(())
    }

    /// Check and decrypt a packet in place; where the plaintext with its trailer stands, at least `ESP_TRAILER` octets.
    ///
    /// On an error the octets are of no more use.
    pub fn open(&self, packet: &mut [u8], sequence: u64) -> Result<Range<usize>, DropReason> {
        self.check_size(packet.len())?;
        let (start, end) = (self.suite.headroom(), packet.len() - self.suite.icv);
        match &self.cipher {
            Cipher::Aead { key, salt } => {
                let nonce = counter_nonce(salt, packet);
                let aad = self.associated(packet, sequence);
                key.open_in_place(nonce, aad, &mut packet[start..])
                    .map_err(|_| DropReason::BadIcv)?;
                Ok(start..end)
            }
            Cipher::Gmac { key, salt } => {
                let nonce = counter_nonce(salt, packet);
                let mut icv = [0; AEAD_ICV];
                icv.copy_from_slice(&packet[end..]);
                let shift = self.spread_for_gmac(packet, sequence);
                let aad = aead::Aad::from(&packet[..end + shift]);
                key.open_in_place(nonce, aad, &mut icv)
                    .map_err(|_| DropReason::BadIcv)?;
                Ok(start + shift..end + shift)
            }
            Cipher::Cbc(keys) => keys
                .open(packet, sequence, self.has_esn)
                .map(|()| start..end),
            #[cfg(feature = "unsealed")]
            Cipher::Unsealed => Ok(start..end),
        }
    }

    /// Whether an ESP packet can have this size (RFC 4303 3.4): checked before anything is spent on it.
    pub fn check_size(&self, size: usize) -> Result<(), DropReason> {
        let text = size
            .checked_sub(self.suite.headroom() + self.suite.icv)
            .ok_or(DropReason::TooShort)?;
        let is_whole = !self.suite.is_cbc() || text % AES_BLOCK == 0;
        if text >= ESP_TRAILER && is_whole {
            Ok(())
        } else {
            Err(DropReason::TooShort)
        }
    }

    /// AAD of the combined modes: SPI and sequence number, 64 bits of it with ESN (RFC 4106 5, RFC 7634 2.1).
    fn associated(&self, packet: &[u8], sequence: u64) -> aead::Aad<Associated> {
        let mut octets = [0; 12];
        octets[..4].copy_from_slice(&packet[..4]);
        if self.has_esn {
            octets[4..].copy_from_slice(&sequence.to_be_bytes());
        } else {
            octets[4..8].copy_from_slice(&packet[4..8]);
        }
        aead::Aad::from(Associated {
            octets,
            size: if self.has_esn { 12 } else { 8 },
        })
    }

    /// GMAC authenticates the packet as AAD in one piece, and with ESN the high half stands in the midst of it
    /// (RFC 4543 3.3): all behind the SPI moves four octets into the room of the ICV. Answers by how much it moved.
    fn spread_for_gmac(&self, packet: &mut [u8], sequence: u64) -> usize {
        if !self.has_esn {
            return 0;
        }
        const SHIFT: usize = 4;
        let text_end = packet.len() - AEAD_ICV;
        packet.copy_within(SHIFT..text_end, 2 * SHIFT);
        packet[SHIFT..2 * SHIFT].copy_from_slice(&((sequence >> 32) as u32).to_be_bytes());
        SHIFT
    }
}

struct Associated {
    octets: [u8; 12],
    size: usize,
}

impl AsRef<[u8]> for Associated {
    fn as_ref(&self) -> &[u8] {
        &self.octets[..self.size]
    }
}

fn aead_key(
    suite: Suite,
    key: &[u8],
) -> Result<(aead::LessSafeKey, Zeroizing<[u8; SALT]>), SuiteError> {
    let algorithm = match (suite.mode, suite.key_bits) {
        (Mode::ChaCha20, _) => &aead::CHACHA20_POLY1305,
        (_, 128) => &aead::AES_128_GCM,
        (_, 192) => &aead::AES_192_GCM,
        _ => &aead::AES_256_GCM,
    };
    let (key, tail) = key.split_at(suite.key_bits as usize / 8);
    let mut salt = Zeroizing::new([0; SALT]);
    salt.copy_from_slice(tail);
    let key = aead::UnboundKey::new(algorithm, key).map_err(|_| SuiteError::Refused(suite.name))?;
    Ok((aead::LessSafeKey::new(key), salt))
}

/// Nonce of the counter modes: salt and the IV of the packet (RFC 4106 4).
fn counter_nonce(salt: &[u8; SALT], packet: &[u8]) -> aead::Nonce {
    let mut nonce = [0; SALT + COUNTER_IV];
    nonce[..SALT].copy_from_slice(salt);
    nonce[SALT..].copy_from_slice(&packet[ESP_HEADER..ESP_HEADER + COUNTER_IV]);
    aead::Nonce::assume_unique_for_key(nonce)
}

/// AES-CBC (RFC 3602) with HMAC-SHA2 over everything before the ICV (RFC 4303 3.3.2.1, RFC 4868).
struct CbcHmac {
    aes: AesKeys,
    iv_key: aes::Aes128Enc,
    mac: hmac::Key,
    icv: usize,
}

enum AesKeys {
    Aes128(Box<(aes::Aes128Enc, aes::Aes128Dec)>),
    Aes192(Box<(aes::Aes192Enc, aes::Aes192Dec)>),
    Aes256(Box<(aes::Aes256Enc, aes::Aes256Dec)>),
}

impl CbcHmac {
    fn new(suite: Suite, key: &[u8], integrity_key: &[u8]) -> Result<Self, SuiteError> {
        let refused = |_| SuiteError::Refused(suite.name);
        let algorithm = match suite.integrity_key {
            32 => hmac::HMAC_SHA256,
            48 => hmac::HMAC_SHA384,
            _ => hmac::HMAC_SHA512,
        };
        let mac = hmac::Key::new(algorithm, integrity_key);
        // No ESP packet begins with SPI 0, so this is never the HMAC of one.
        let tag = hmac::sign(&mac, b"\0\0\0\0iv of esp cbc");
        let mut derived = Zeroizing::new([0; AES_BLOCK]);
        derived.copy_from_slice(&tag.as_ref()[..AES_BLOCK]);
        let aes = match suite.key_bits {
            128 => AesKeys::Aes128(Box::new((
                aes::Aes128Enc::new_from_slice(key).map_err(refused)?,
                aes::Aes128Dec::new_from_slice(key).map_err(refused)?,
            ))),
            192 => AesKeys::Aes192(Box::new((
                aes::Aes192Enc::new_from_slice(key).map_err(refused)?,
                aes::Aes192Dec::new_from_slice(key).map_err(refused)?,
            ))),
            _ => AesKeys::Aes256(Box::new((
                aes::Aes256Enc::new_from_slice(key).map_err(refused)?,
                aes::Aes256Dec::new_from_slice(key).map_err(refused)?,
            ))),
        };
        Ok(Self {
            aes,
            iv_key: aes::Aes128Enc::new(&(*derived).into()),
            mac,
            icv: suite.icv,
        })
    }

    fn seal(&self, packet: &mut [u8], sequence: u64, has_esn: bool) -> Result<(), DropReason> {
        let mut iv = aes::Block::from(u128::from(sequence).to_be_bytes());
        self.iv_key.encrypt_block(&mut iv);
        let icv_at = packet.len() - self.icv;
        let text = ESP_HEADER + AES_BLOCK;
        packet[ESP_HEADER..text].copy_from_slice(&iv);
        encrypt_cbc(&self.aes, &iv, &mut packet[text..icv_at])?;
        let tag = self.icv_of(&packet[..icv_at], sequence, has_esn);
        packet[icv_at..].copy_from_slice(&tag.as_ref()[..self.icv]);
        Ok(())
    }

    fn open(&self, packet: &mut [u8], sequence: u64, has_esn: bool) -> Result<(), DropReason> {
        let icv_at = packet.len() - self.icv;
        let tag = self.icv_of(&packet[..icv_at], sequence, has_esn);
        constant_time::verify_slices_are_equal(&tag.as_ref()[..self.icv], &packet[icv_at..])
            .map_err(|_| DropReason::BadIcv)?;
        let (head, body) = packet.split_at_mut(ESP_HEADER + AES_BLOCK);
        let iv = aes::Block::clone_from_slice(&head[ESP_HEADER..]);
        decrypt_cbc(&self.aes, &iv, &mut body[..icv_at - ESP_HEADER - AES_BLOCK])
    }

    /// HMAC over the packet and, with ESN, the high half of its number (RFC 4303 2.2.1).
    fn icv_of(&self, authenticated: &[u8], sequence: u64, has_esn: bool) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.mac);
        context.update(authenticated);
        if has_esn {
            context.update(&((sequence >> 32) as u32).to_be_bytes());
        }
        context.sign()
    }
}

fn encrypt_cbc(keys: &AesKeys, iv: &aes::Block, text: &mut [u8]) -> Result<(), DropReason> {
    let size = text.len();
    let done =
        match keys {
            AesKeys::Aes128(keys) => cbc::Encryptor::inner_iv_init(&keys.0, iv)
                .encrypt_padded_mut::<NoPadding>(text, size),
            AesKeys::Aes192(keys) => cbc::Encryptor::inner_iv_init(&keys.0, iv)
                .encrypt_padded_mut::<NoPadding>(text, size),
            AesKeys::Aes256(keys) => cbc::Encryptor::inner_iv_init(&keys.0, iv)
                .encrypt_padded_mut::<NoPadding>(text, size),
        };
    done.map(|_| ()).map_err(|_| DropReason::NoRoom)
}

fn decrypt_cbc(keys: &AesKeys, iv: &aes::Block, text: &mut [u8]) -> Result<(), DropReason> {
    let done = match keys {
        AesKeys::Aes128(keys) => cbc::Decryptor::inner_iv_init(&keys.1, iv)
            .decrypt_padded_mut::<NoPadding>(text)
            .is_ok(),
        AesKeys::Aes192(keys) => cbc::Decryptor::inner_iv_init(&keys.1, iv)
            .decrypt_padded_mut::<NoPadding>(text)
            .is_ok(),
        AesKeys::Aes256(keys) => cbc::Decryptor::inner_iv_init(&keys.1, iv)
            .decrypt_padded_mut::<NoPadding>(text)
            .is_ok(),
    };
    if done {
        Ok(())
    } else {
        Err(DropReason::TooShort)
    }
}

#[cfg(test)]
#[path = "suite_tests.rs"]
mod tests;
