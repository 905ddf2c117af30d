//! Bandwidth on a whole machine: what tenants send leaves the device at the rate that they have, to within 5 % in every tenth
//! of a second of the machine's time, again after the network server was started anew, and while they buy and lose it.

use e2e::xtask::network;
use e2e::{Change, Finished, Machine, rounds};
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

/// Looks at all windows from the beginning of these frames to their end, in which as many bits are to go out as `wanted` says of a
/// window's beginning and end; returns how many there were.
fn expect_rate(sent: &[(u64, u64)], wanted: impl Fn(u64, u64) -> u64) -> usize {
    let (Some((first, _)), Some((last, _))) = (sent.first(), sent.last()) else { panic!("nothing was sent") };
    let begins = (first + BEGINNING_US..).step_by(STEP_US as usize).take_while(|begin| begin + WINDOW_US <= *last);
    begins
        .inspect(|begin| {
            let bits = before(sent, begin + WINDOW_US) - before(sent, *begin);
            let (at, wanted) = (begin - first, wanted(*begin, begin + WINDOW_US));
            assert!(
                bits.abs_diff(wanted) <= wanted / 20,
                "{bits} bits, not {wanted}, in a tenth of a second {at} us after the beginning"
            );
        })
        .count()
}

/// Runs a scenario and returns, with it, what its device's cable carried, as the emulator has captured it.
fn captured(scenario: &str, name: &str) -> (Finished, Vec<u8>) {
    let scenario = e2e::scenario(scenario, &Change::none()).expect("a scenario");
    let file = std::env::temp_dir().join(format!("{name}-{}.pcap", std::process::id()));
    let mut devices = network::devices("user,id=n0,restrict=on");
    devices.extend(["-object".into(), format!("filter-dump,id=f0,netdev=n0,maxlen=64,file={}", file.display())]);
    let run = Machine::start_with_devices(&scenario, devices).and_then(Machine::finish).expect("a run");
    let capture = fs::read(&file).expect("a capture");
    fs::remove_file(&file).expect("it is ours");
    run.expect_good();
    (run, capture)
}

#[test]
fn what_is_sent_is_what_was_sold_within_five_percent_also_after_a_crash() {
    let (run, capture) = captured(SCENARIO, "bandwidth");
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
            let windows = expect_rate(part, |begin, end| bits_per_us * (end - begin));
            assert!(windows >= least, "{windows} windows at {bits_per_us} Mb/s: {:#?}", run.console);
        }
    }
}

/// Two that bid for the bandwidth that is for sale besides their bases, of which each wants most; the second one wins it for a
/// while.
fn sold() -> String {
    let sender = |name: &str, valuation: &str| {
        format!(
            "[[app]]\nname = \"{name}\"\nimage = \"netbench\"\nnic = true\nbudget = 1\nvaluation = {valuation}\nbase_cpu = 30\n\
             base_bandwidth = {BASE}\nargs = [\"role=flood\", \"peer=02:00:00:00:00:99\", \"for=2400\", \"want=100\"]\n"
        )
    };
    let machine = "title = \"bandwidth by price\"\nlimit = \"20 s\"\n[machine]\ncores = 1\nmemory = \"128 MiB\"\n[bandwidth]\nsupply = 110\n";
    let shock = "[[event]]\nat = \"1050 ms\"\ndo = \"shock:second:4:600 ms\"\n";
    [machine, &sender("first", "2e-8"), &sender("second", "1e-8"), shock].concat()
}

/// Megabits in each base of theirs, and an interval.
const BASE: u64 = 60;
const INTERVAL_US: u64 = 100_000;
/// A round is closed so long before the interval that begins at its time, at most.
const LEAD_US: u64 = 5_000;

#[test]
fn what_is_bought_by_price_is_what_leaves_the_device_in_its_interval() {
    let (run, capture) = captured(&sold(), "sold");
    let good = rounds::good(&run.state, "bandwidth");
    for (app, name) in ["first", "second"].into_iter().enumerate() {
        let sent = sent(&capture, app as u8 + 1);
        // The time at which the first of these frames was sent: that of the run, as the sender told it, and that of the machine.
        let marker = format!("[{name}] sends from ");
        let said =
            run.console.iter().find_map(|line| line.strip_prefix(&marker)?.split(' ').next()?.parse::<u64>().ok());
        let offset = sent[0].0 - said.expect("it has told");
        // A round sells the interval after the one that begins.
        let held = |time: u64| {
            let interval = (time - offset) / INTERVAL_US;
            let sold = good.history.iter().find(|sample| (sample.t + LEAD_US) / INTERVAL_US + 1 == interval);
            BASE + sold.map_or(0, |sample| u64::from(sample.holdings[app]))
        };
        let wanted = |begin: u64, end: u64| {
            let next = begin + INTERVAL_US - (begin - offset) % INTERVAL_US;
            held(begin) * (next.min(end) - begin) + held(next) * end.saturating_sub(next)
        };
        // What it sent before it had a limit is made up for in an interval.
        let begin = sent.partition_point(|(at, _)| *at < sent[0].0 + INTERVAL_US);
        let windows = expect_rate(&sent[begin..], wanted);
        assert!(windows >= 1_500, "{windows} windows of {name}: {:#?}", run.console);
        let mut units: Vec<u32> = good.history.iter().map(|sample| sample.holdings[app]).collect();
        units.dedup();
        let turns = [100, 10, 100].map(|units| if app == 0 { units } else { 110 - units });
        assert!(units.windows(3).any(|units| units == turns), "{name} held {units:?}");
    }
}
