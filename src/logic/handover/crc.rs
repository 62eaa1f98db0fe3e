//! CRC-32C (RFC 3720, appendix B.4), by which damage of the messages is noticed.

/// The remainders of all bytes by the reflected polynomial.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut rest = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = if rest & 1 == 1 { rest >> 1 ^ 0x82f6_3b78 } else { rest >> 1 };
            bit += 1;
        }
        table[byte] = rest;
        byte += 1;
    }
    table
};

/// The checksum of the bytes of `sum` with `bytes` behind them; 0 is the sum of no bytes.
pub(super) fn add(sum: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!sum, |rest, byte| TABLE[((rest ^ u32::from(*byte)) & 0xff) as usize] ^ rest >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_those_of_the_standard() {
        assert_eq!(add(0, b""), 0);
        assert_eq!(add(0, b"123456789"), 0xe306_9283);
        assert_eq!(add(0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(add(add(0, b"1234"), b"56789"), 0xe306_9283);
    }
}
