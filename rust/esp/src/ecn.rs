//! Traffic class between inner and outer header: ECN (RFC 6040, normal mode) and DSCP (RFC 4301 5.1.2.1).

use crate::drops::DropReason;

/// The two low bits of TOS or traffic class.
pub const ECN_MASK: u8 = 0b11;
/// Not capable of ECN.
pub const NOT_ECT: u8 = 0b00;
/// Capable, codepoint 1.
pub const ECT_1: u8 = 0b01;
/// Capable, codepoint 0.
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// TOS of the outer header for an inner packet with TOS `inner` (RFC 6040 4.1: ECN is always copied).
pub const fn outer_tos(inner: u8, copies_dscp: bool) -> u8 {
    if copies_dscp { inner } else { inner & ECN_MASK }
}

/// TOS of the inner packet after decapsulation: its own DSCP, and ECN by the table of RFC 6040 4.2.
///
/// A mark that the inner packet cannot carry means the packet must go: `DropReason::Congested`.
pub const fn inner_tos(inner: u8, outer: u8) -> Result<u8, DropReason> {
    let ecn = match (inner & ECN_MASK, outer & ECN_MASK) {
        (NOT_ECT, CE) => return Err(DropReason::Congested),
        (NOT_ECT, _) => NOT_ECT,
        (CE, _) | (_, CE) => CE,
        (_, ECT_1) => ECT_1,
        (own, _) => own,
    };
    Ok((inner & !ECN_MASK) | ecn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decapsulation_follows_figure_4_of_rfc_6040() {
        let figure: [(u8, [Option<u8>; 4]); 4] = [
            // outer:    Not-ECT        ECT(0)         ECT(1)         CE
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in figure {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                let tos = inner_tos(0b1011_1000 | inner, outer);
                assert_eq!(
                    tos.ok(),
                    expected.map(|ecn| 0b1011_1000 | ecn),
                    "inner {inner:02b} outer {outer:02b}"
                );
            }
        }
    }

    #[test]
    fn dscp_goes_outside_only_where_asked() {
        assert_eq!(outer_tos(0xba, true), 0xba);
        assert_eq!(outer_tos(0xba, false), 0x02);
    }
}
