//! Vectors of RFC 7634 appendix A, RFC 3602 4, and of the examples that RFC 4106 9 refers to.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}

#[test]
fn rfc_7634_appendix_a_opens() {
    let source = hex(
        "45000054a6f200004001e778c6336405 c000020508005b7a3a080000553bec10 0007362708090a0b0c0d0e0f10111213
         1415161718191a1b1c1d1e1f20212223 2425262728292a2b2c2d2e2f30313233 34353637",
    );
    let mut packet = hex(
        "01020304 00000005 1011121314151617 24039428b97f417e3c13753a4f05087b 67c352e6a7fab1b982d466ef407ae5c6
         14ee8099d52844eb61aa95dfab4c02f7 2aa71e7c4c4f64c9befe2facc638e8f3 cbec163fac469b502773f6fb94e664da
         9165b82829f641e0 76aaa8266b7fb0f7b11b369907e1ad43",
    );
    let key: Vec<u8> = (0x80..=0xa3).collect();
    let key = PacketKey::new(
        Suite::by_name("chacha20poly1305").unwrap(),
        false,
        &key,
        &[],
    )
    .unwrap();
    let text = key.open(&mut packet, 5).unwrap();
    assert_eq!(packet[text], [&source[..], &[1, 2, 2, 4]].concat());
}

#[test]
fn aes_gcm_with_esn_opens_the_example_of_the_gcm_test_cases_for_ipsec() {
    let source = hex(
        "45000048699a000080114db7c0a80102 c0a801010a9bf15638d3010000010000 00000000045f736970045f7564700373
         69700963796265726369747902646b00 0021000101020201",
    );
    let mut packet = hex(
        "00004321 00000000 4956ed7e3b244cfe fecf537e729d5b07dc30df528dd22b76 8d1b98736696a6fd348509fa13ceac34
         cfa2436f14a3f3cf65925bf1f4a13c5d 15b21e1884f5ff6247aeabb786b93bce 61bc17d768fd9732
         459018148f6cbe722fd04796562dfdb4",
    );
    let key = hex("4c80cdefbb5d10da906ac73c3613a634 2e443b68");
    let key = PacketKey::new(Suite::by_name("aes128gcm16").unwrap(), true, &key, &[]).unwrap();
    let text = key.open(&mut packet, 0x8765_4321_0000_0000).unwrap();
    assert_eq!(packet[text], source[..]);
}

#[test]
fn rfc_3602_case_7_decrypts_and_encrypts() {
    let clear = hex(
        "4500005409040000 4001f988c0a87b03 c0a87bc808009f76 a90a0100b49c083d 02a2040008090a0b 0c0d0e0f10111213
         1415161718191a1b 1c1d1e1f20212223 2425262728292a2b 2c2d2e2f30313233 3435363701020304 0506070809 0a0a04",
    );
    let secret = hex(
        "773b5241a4c44922 5e4f3ce5ed611b0c 237ca96cf74a9301 3c1b0ea1a0cf70f8 e4ecaec78ac53aad 7a0f022b859243c6
         47752e94a859352b 8a4d4d2decd136e5 c177f132ad3fbfb2 201ac9904c74ee0a 109e0ca1e4dfe9d5 a100b842f1c22f0d",
    );
    let suite = Suite::by_name("aes128-sha256").unwrap();
    let keys = CbcHmac::new(suite, &hex("0123456789abcdef0123456789abcdef"), &[0; 32]).unwrap();
    let iv = aes::Block::clone_from_slice(&hex("f4e765244f6407adf13dc1380f673f37"));
    let mut text = clear.clone();
    encrypt_cbc(&keys.aes, &iv, &mut text).unwrap();
    assert_eq!(text, secret);
    decrypt_cbc(&keys.aes, &iv, &mut text).unwrap();
    assert_eq!(text, clear);
}

#[test]
fn ivs_of_counter_modes_are_the_sequence_number_and_those_of_cbc_look_like_nothing() {
    let mut ivs = std::collections::HashSet::new();
    for suite in SUITES {
        let key = vec![7; suite.key_material()];
        let key = PacketKey::new(suite, true, &key, &vec![9; suite.integrity_key()]).unwrap();
        for sequence in [1, 2, 1 << 33] {
            let mut packet = vec![0; suite.sealed_size(20)];
            key.seal(&mut packet, sequence).unwrap();
            let iv = packet[ESP_HEADER..suite.headroom()].to_vec();
            if suite.align() == MIN_ALIGN {
                assert_eq!(iv, sequence.to_be_bytes());
            } else {
                assert!(ivs.insert((suite.integrity, suite.key_bits, iv.clone())));
                assert!(
                    iv.iter().filter(|&&octet| octet == 0).count() < 8,
                    "{iv:02x?}"
                );
            }
        }
    }
}

#[test]
fn keys_of_another_size_are_refused_by_name() {
    let suite = Suite::by_name("aes256-sha512").unwrap();
    let error = PacketKey::new(suite, false, &[0; 32], &[0; 32]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "aes256-sha512: integrity key has 64 octets, got 32"
    );
    let error =
        PacketKey::new(Suite::by_name("aes128gcm16").unwrap(), false, &[0; 16], &[]).unwrap_err();
    assert_eq!(error.to_string(), "aes128gcm16: key has 20 octets, got 16");
}

#[test]
fn rows_are_found_by_their_numbers_and_only_by_them() {
    for suite in SUITES {
        assert_eq!(
            Suite::by_numbers(suite.encryption, suite.key_bits, suite.integrity),
            Ok(suite)
        );
        assert_eq!(Suite::by_name(suite.name), Some(suite));
    }
    assert_eq!(
        Suite::by_numbers(28, 0, 0).unwrap().name,
        "chacha20poly1305"
    );
    assert!(Suite::by_numbers(20, 0, 0).is_err());
    assert!(Suite::by_numbers(12, 128, 0).is_err());
    assert!(Suite::by_numbers(20, 128, 12).is_err());
}

#[test]
fn sealed_sizes_are_those_of_the_standards() {
    // RFC 4303 2: SPI 4, sequence 4, IV, payload, pad, 2, ICV.
    for (name, inner, sealed) in [
        ("aes128gcm16", 1442, 1476),
        ("aes128-sha256", 1438, 1480),
        ("aes128-sha512", 28, 88),
    ] {
        assert_eq!(
            Suite::by_name(name).unwrap().sealed_size(inner),
            sealed,
            "{name}"
        );
    }
}

#[cfg(feature = "unsealed")]
#[test]
fn without_sealing_sizes_stay_the_same_and_text_is_clear() {
    for suite in SUITES {
        let mut packet = vec![0x5a; suite.sealed_size(100)];
        let unsealed = PacketKey::unsealed(suite, false);
        assert_eq!(unsealed.seal(&mut packet, 7), Ok(()));
        let text = suite.headroom()..packet.len() - suite.icv();
        assert!(packet[text.clone()].iter().all(|octet| *octet == 0x5a));
        assert_eq!(unsealed.open(&mut packet, 7), Ok(text), "{}", suite.name);
        let key = vec![0; suite.key_material()];
        let key = PacketKey::new(suite, false, &key, &vec![0; suite.integrity_key()]).unwrap();
        assert_eq!(key.open(&mut packet, 7), Err(DropReason::BadIcv));
    }
}
