//! CRC-32C (RFC 3720, appendix B.4), by which damage of the messages is noticed.

/// The bytes that are taken at a time: one table for each, so that their look-ups do not wait for each other.
const BYTES: usize = 8;

/// For each byte of a step, the remainders of all its values by the reflected polynomial, with the rest of the step behind it.
static TABLES: [[u32; 256]; BYTES] = {
    let mut tables = [[0; 256]; BYTES];
    let mut byte = 0;
    while byte < 256 {
        let mut rest = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = if rest & 1 == 1 { rest >> 1 ^ 0x82f6_3b78 } else { rest >> 1 };
            bit += 1;
        }
        tables[0][byte] = rest;
        byte += 1;
    }
    let mut table = 1;
    while table < BYTES {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = tables[0][(before & 0xff) as usize] ^ before >> 8;
            byte += 1;
        }
        table += 1;
    }
    tables
};

/// The checksum of the bytes of `sum` with `bytes` behind them; 0 is the sum of no bytes.
pub(super) fn add(sum: u32, bytes: &[u8]) -> u32 {
    let (steps, rest) = bytes.as_chunks::<BYTES>();
    let sum = steps.iter().fold(!sum, |sum, step| {
        let word = u64::from_le_bytes(*step) ^ u64::from(sum);
        let parts = word.to_le_bytes();
        (0..BYTES).fold(0, |sum, place| sum ^ TABLES[BYTES - 1 - place][usize::from(parts[place])])
    });
    !rest.iter().fold(sum, |sum, byte| TABLES[0][((sum ^ u32::from(*byte)) & 0xff) as usize] ^ sum >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_those_of_the_standard() {
        assert_eq!(add(0, b""), 0);
        assert_eq!(add(0, b"123456789"), 0xe306_9283);
        assert_eq!(add(0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(add(0, &[0xff; 32]), 0x62a8_ab43);
        let bytes: Vec<u8> = (0..200u8).map(|byte| byte.wrapping_mul(7)).collect();
        for cut in 0..bytes.len() {
            assert_eq!(add(add(0, &bytes[..cut]), &bytes[cut..]), add(0, &bytes), "{cut}");
        }
    }
}
