//! The kernel command line: words `key=value`, separated by blanks. Unknown words are the root VM's business.

/// Budget of the root VM's own reservation if the command line does not say, in microseconds per 10 ms.
pub const ROOT_BUDGET_US: u64 = 1_000;
/// Period of the root VM's own reservation, in microseconds: its budget comes in one piece, for what a market has to do when
/// an interval begins comes at once, too.
pub const ROOT_PERIOD_US: u64 = 10_000;

/// What the kernel itself takes from its command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `root_budget_us=`: microseconds per 10 ms that the root VM has on core 0, 250 to 9,000; or 10,000: the whole core, on
    /// which nobody else is admitted then, not even a market's console, and which has no alarms; what the IOMMU stops calls it
    /// still.
    pub root_budget_us: u64,
    /// `cores=`: at most this many cores are started.
    pub cores: usize,
    /// `trace=on`: what the kernel does is recorded for a checker outside, without which it does not go on.
    pub trace: bool,
    /// `pace=pit`: the PIT runs fast, for an emulator whose cores take turns at its events.
    pub pace: bool,
}

/// Reads the options; a value that is no number or out of range is ignored.
pub fn parse(line: &[u8]) -> Options {
    let mut options = Options { root_budget_us: ROOT_BUDGET_US, cores: usize::MAX, trace: false, pace: false };
    let words = core::str::from_utf8(line).unwrap_or("").split_ascii_whitespace();
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        match (key, value.parse()) {
            ("root_budget_us", Ok(budget @ (250..=9_000 | ROOT_PERIOD_US))) => options.root_budget_us = budget,
            ("cores", Ok(cores @ 1..)) => options.cores = cores as usize,
            ("trace", _) => options.trace = value == "on",
            ("pace", _) => options.pace = value == "pit",
            _ => {}
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_bad_ones_ignored() {
        let default = parse(b"");
        assert_eq!(default.root_budget_us, ROOT_BUDGET_US);
        assert_eq!(parse(b"quiet root_budget_us=2500 cores=1").root_budget_us, 2500);
        assert_eq!(parse(b"root_budget_us=10000").root_budget_us, ROOT_PERIOD_US);
        assert_eq!(parse(b"root_budget_us=9999").root_budget_us, ROOT_BUDGET_US);
        assert_eq!(parse(b"cores=1").cores, 1);
        assert!(parse(b"trace=on").trace && !parse(b"trace=off").trace && !default.trace);
        assert!(parse(b"pace=pit").pace && !parse(b"pace=hpet").pace && !default.pace);
        for bad in
            [&b"root_budget_us="[..], b"root_budget_us=9999999", b"root_budget_us=1x", b"cores=0", b"=", b"cores"]
        {
            assert_eq!(parse(bad), default);
        }
        assert_eq!(parse(b"root_budget_us=99999999999999999999999"), default);
    }
}
