//! The kernel command line: words `key=value`, separated by blanks. Unknown words are the root VM's business.

/// Budget of the root VM's own reservation if the command line does not say, in microseconds per 10 ms.
pub const ROOT_BUDGET_US: u64 = 1_000;
/// Period of the root VM's own reservation, in microseconds.
pub const ROOT_PERIOD_US: u64 = 2_000;

/// What the kernel itself takes from its command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `root_budget_us=`: microseconds per 10 ms that the root VM has on core 0, 250 to 9,000.
    pub root_budget_us: u64,
    /// `cores=`: at most this many cores are started.
    pub cores: usize,
}

/// Reads the options; a value that is no number or out of range is ignored.
pub fn parse(line: &[u8]) -> Options {
    let mut options = Options { root_budget_us: ROOT_BUDGET_US, cores: usize::MAX };
    for word in line.split(|byte| byte.is_ascii_whitespace()) {
        let Some(at) = word.iter().position(|&byte| byte == b'=') else { continue };
        let Some(number) = number(&word[at + 1..]) else { continue };
        match &word[..at] {
            b"root_budget_us" if (250..=9_000).contains(&number) => options.root_budget_us = number,
            b"cores" if number > 0 => options.cores = usize::try_from(number).unwrap_or(usize::MAX),
            _ => {}
        }
    }
    options
}

/// A decimal number; `None` if it is empty, has another character or does not fit.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, &digit| {
        sum.checked_mul(10)?.checked_add(u64::from(digit.is_ascii_digit().then(|| digit - b'0')?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_bad_ones_ignored() {
        let default = parse(b"");
        assert_eq!(default.root_budget_us, ROOT_BUDGET_US);
        assert_eq!(parse(b"quiet root_budget_us=2500 cores=1").root_budget_us, 2500);
        assert_eq!(parse(b"cores=1").cores, 1);
        for bad in
            [&b"root_budget_us="[..], b"root_budget_us=9999999", b"root_budget_us=1x", b"cores=0", b"=", b"cores"]
        {
            assert_eq!(parse(bad), default);
        }
        assert_eq!(parse(b"root_budget_us=99999999999999999999999"), default);
    }
}
