//! What the market promises about time when it takes pages back, as a tenant sees it that loses all of its leases: notice
//! of a whole interval, and then 1 ms in which 2,500 pages go. The guest is `tests/guests/src/bin/notice.rs`.
//!
//! On one core the instruction clock is exact, but the tenant does not run while the market does. On two it does, but what
//! either core executes is time for both: so the tenant sleeps between two looks, and sees what happens as finely as that.

use e2e::{Change, run};
use proto::host::End;

/// Instructions from the result of a round to the last notice of it.
const NOTICE: u64 = 2_000;
/// Ticks of 1 ms.
const MS: u64 = 1_000_000;

/// A tenant on core `cores - 1` that loses so many pages in blocks of at most 2^`bits` bytes.
fn loses(cores: u16, pages: u32, bits: u8) {
    let (allowed, pause) = (MS, if cores > 1 { 150 } else { 0 });
    let text = format!(
        r#"
        title = "losing pages"
        limit = "5 s"
        [machine]
        cores = {cores}
        memory = "128 MiB"
        [operator]
        common_pool_percent = 0
        [[app]]
        name = "notice"
        args = ["{pages}", "{bits}", "{allowed}", "{pause}"]
        budget = 1
        core = {core}
        base_cpu = 60
        base_pages = 768
        "#,
        core = cores - 1,
    );
    let run = run(&text, &Change::none());
    let said = run.app("notice").lines.join("\n");
    println!("{said}");
    let verified = run.state.verified.as_ref().expect("totals");
    println!("slowest notice: {} ticks; slowest cut: {} ticks", verified.slowest_notice, verified.slowest_cut);
    assert_eq!(run.end("notice"), &End::Exit { status: 0 }, "{said}");
    run.expect_good();
    assert!(verified.slowest_notice > 0 && verified.slowest_cut > 0, "nothing was timed");
    assert!(verified.slowest_cut <= allowed, "the market says that it took {} ticks", verified.slowest_cut);
    if cores == 1 {
        assert!(verified.slowest_notice <= NOTICE, "a notice took {} instructions", verified.slowest_notice);
    }
}

#[test]
fn large_blocks_go_within_a_millisecond() {
    loses(1, 2_500, 21);
}

#[test]
fn single_pages_go_within_a_millisecond() {
    loses(1, 600, 12);
}

#[test]
fn large_blocks_go_before_the_eyes_of_another_core() {
    loses(2, 2_500, 21);
}

#[test]
fn single_pages_go_before_the_eyes_of_another_core() {
    loses(2, 600, 12);
}
