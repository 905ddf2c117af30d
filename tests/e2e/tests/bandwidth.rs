//! Bandwidth on a whole machine: what tenants send leaves the device at the rate that they have, to within 5 % in every tenth
//! of a second of the machine's time, and again after the network server was started anew.

use e2e::xtask::network;
use e2e::{Change, Machine};
use std::fs;

/// Two tenants that send outside all the time, as fast as they may, at different rates.
const SCENARIO: &str = r#"
    title = "bandwidth"
    limit = "20 s"
    [machine]
    cores = 1
    memory = "128 MiB"
    [bandwidth]
    supply = 0
    [[app]]
    name = "slow"
    image = "netbench"
    nic = true
    budget = 1
    base_cpu = 20
    base_bandwidth = 20
    args = ["role=flood", "bytes=256", "peer=02:00:00:00:00:99", "for=1800"]
    [[app]]
    name = "fast"
    image = "netbench"
    nic = true
    budget = 1
    base_cpu = 40
    base_bandwidth = 150
    args = ["role=flood", "peer=02:00:00:00:00:99", "for=1800"]
    [[event]]
    at = "1200 ms"
    do = "crash-nic"
"#;

/// Who has which address, and how many bits it may send in a microsecond.
const SENDERS: [(u8, u64); 2] = [(1, 20), (2, 150)];
const WINDOW_US: u64 = 100_000;
/// Windows begin every so many microseconds.
const STEP_US: u64 = 1_000;
/// Who begins sends so long at no limit, until it is seen; and what that was is made up for.
const BEGINNING_US: u64 = 100_000;
/// Without a server nobody is closed until the device is reset, which is so late at most.
const CRASH_US: u64 = 10_000;

/// What a sender sent: when, in microseconds, and the bits up to then.
type Sent = Vec<(u64, u64)>;

/// What the station with this address sent, by a capture file of the emulator's, in which times are the machine's (libpcap's
/// format: a header of 24 bytes, then frames, each after a header of four words: seconds, microseconds, bytes kept, bytes).
fn sent(capture: &[u8], sender: u8) -> Sent {
    let word = |at: usize| u64::from(u32::from_le_bytes(capture[at..at + 4].try_into().expect("four bytes")));
    let (mut at, mut bits, mut sent) = (24, 0, Sent::new());
    while at < capture.len() {
        let (time, kept, bytes) = (word(at) * 1_000_000 + word(at + 4), word(at + 8), word(at + 12));
        at += 16;
        if capture[at + 6..at + 12] == [2, 0x6e, 0x6b, 0, 0, sender] {
            // With its checksum, which counts.
            bits += 8 * (bytes + 4);
            sent.push((time, bits));
        }
        at += kept as usize;
    }
    sent
}

/// Bits that were sent before a moment.
fn before(sent: &[(u64, u64)], time: u64) -> u64 {
    let next = sent.partition_point(|(at, _)| *at < time);
    next.checked_sub(1).map_or(0, |last| sent[last].1)
}

/// Looks at all windows from the beginning of these frames to their end; returns how many there were.
fn expect_rate(sent: &[(u64, u64)], bits_per_us: u64) -> usize {
    let (Some((first, _)), Some((last, _))) = (sent.first(), sent.last()) else { panic!("nothing was sent") };
    let wanted = bits_per_us * WINDOW_US;
    let begins = (first + BEGINNING_US..).step_by(STEP_US as usize).take_while(|begin| begin + WINDOW_US <= *last);
    begins
        .inspect(|begin| {
            let bits = before(sent, begin + WINDOW_US) - before(sent, *begin);
            let at = begin - first;
            assert!(
                bits.abs_diff(wanted) <= wanted / 20,
                "{bits} bits, not {wanted}, in a tenth of a second {at} us after the beginning"
            );
        })
        .count()
}

#[test]
fn what_is_sent_is_what_was_sold_within_five_percent_also_after_a_crash() {
    let scenario = e2e::scenario(SCENARIO, &Change::none()).expect("a scenario");
    let file = std::env::temp_dir().join(format!("bandwidth-{}.pcap", std::process::id()));
    let mut devices = network::devices("user,id=n0,restrict=on");
    devices.extend(["-object".into(), format!("filter-dump,id=f0,netdev=n0,maxlen=64,file={}", file.display())]);
    let run = Machine::start_with_devices(&scenario, devices).and_then(Machine::finish).expect("a run");
    let capture = fs::read(&file).expect("a capture");
    fs::remove_file(&file).expect("it is ours");
    run.expect_good();
    for line in
        ["the network server was started again", "[slow] the function was reset", "[fast] the function was reset"]
    {
        assert!(run.console_has(line), "{line}: {:#?}", run.console);
    }
    let sent = SENDERS.map(|(sender, bits_per_us)| (sent(&capture, sender), bits_per_us));
    let mut times: Vec<u64> = sent.iter().flat_map(|(sent, _)| sent.iter().map(|(at, _)| *at)).collect();
    times.sort_unstable();
    // Nobody sends while the device is set up anew.
    let pause = times.windows(2).max_by_key(|pair| pair[1] - pair[0]).expect("frames were sent");
    for (sent, bits_per_us) in &sent {
        let end = sent.partition_point(|(at, _)| at + CRASH_US < pause[0]);
        let begin = sent.partition_point(|(at, _)| *at < pause[1]);
        for (part, least) in [(&sent[..end], 400), (&sent[begin..], 100)] {
            let windows = expect_rate(part, *bits_per_us);
            assert!(windows >= least, "{windows} windows at {bits_per_us} Mb/s: {:#?}", run.console);
        }
    }
}
