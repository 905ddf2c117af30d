//! Reads and writes of namespaces by price: who has bought so many a second does so many, sees nothing else of the limit than
//! that, and keeps nobody else from theirs; also when it buys more, and when the storage server crashes or has lost its
//! controller. One machine at a time, as what the medium does in the meantime is the host's.

use e2e::program::one_at_a_time;
use e2e::{Change, Finished, run};
use proto::host::End;

/// One that may do 2,000 reads and writes a second and buys 3,000 more for the third second, and one without a limit.
const SCENARIO: &str = r#"
    title = "operations"
    limit = "10 s"
    [machine]
    cores = 1
    memory = "128 MiB"
    [[app]]
    name = "limited"
    image = "blkbench"
    storage = "256 KiB"
    base_iops = 20
    budget = 1
    valuation = 1e-7
    base_cpu = 30
    base_pages = 96
    args = ["role=steady", "for=3050", "depth=8", "want=30", "from=1850"]
    [[app]]
    name = "free"
    image = "blkbench"
    storage = "256 KiB"
    budget = 1
    base_cpu = 30
    base_pages = 96
    args = ["role=steady", "for=3050", "depth=2", "mode=poll"]
"#;

/// What an application did in each second.
fn seconds(run: &Finished, app: &str) -> Vec<u64> {
    let marker = format!("[{app}] operations right in each second:");
    let line = run.console.iter().find_map(|line| line.split_once(&marker));
    let line = line.unwrap_or_else(|| panic!("{app} did not tell: {:#?}", run.console)).1;
    line.split_whitespace().map(|word| word.parse().expect("a number")).collect()
}

/// Asserts that so many were done. On a host that has time for it that is so to within 5 %; on another one the medium and the
/// emulated controller stand still at times, as the clock does not.
fn expect(done: u64, limit: u64, second: usize) {
    assert!(done.abs_diff(limit) <= limit / 10, "{done} in second {second}, of {limit}");
}

#[test]
fn a_tenant_does_as_many_operations_as_it_has_bought_and_its_neighbour_is_not_slowed() {
    let _one = one_at_a_time();
    let run = run(SCENARIO, &Change::none());
    run.expect_good();
    let (limited, free) = (seconds(&run, "limited"), seconds(&run, "free"));
    println!("limited {limited:?}, free {free:?}");
    expect(limited[1], 2_000, 1);
    expect(limited[2], 5_000, 2);
    assert!(free[1] > 3_000 && free[2] > 3_000, "{free:?}");
    assert_eq!((run.end("limited"), run.end("free")), (&End::Exit { status: 0 }, &End::Exit { status: 0 }));
    assert!(run.console_has("[limited] 0 exits, "), "{:#?}", run.console);
}

/// The limit is in force again after each restart of the server, without a reset of the controller and with one.
#[test]
fn a_limit_outlives_the_storage_server() {
    let _one = one_at_a_time();
    let polled = SCENARIO.replace("\"want=30\", \"from=1850\"", "\"mode=poll\"").replace("for=3050", "for=4050");
    let alone = polled.split("    [[app]]\n    name = \"free\"").next().expect("the first one");
    let change = Change::none().event("600 ms=crash-storage").event("2200 ms=fail-storage");
    let run = run(alone, &change);
    run.expect_good();
    let limited = seconds(&run, "limited");
    println!("limited {limited:?}");
    assert!(run.console_has("the storage server stopped") && run.console_has("storage device: it was reset"));
    // In the second of a crash nobody counts for a moment, and the next one makes up for what passed then.
    let both = limited[0] + limited[1];
    assert!(both.abs_diff(4_000) <= 200, "{both} in the first two seconds, of 4000");
    expect(limited[3], 2_000, 3);
    assert!(run.console_has("preemptions, 1 times with new queues"));
    assert_eq!(run.end("limited"), &End::Exit { status: 0 });
}
