//! Waits and works by turns: halts on its core until an instant that it has chosen, and looks at how late it woke. Another
//! VM may have the core meanwhile. It ends with status 0 only if it always woke in time.
//!
//! Arguments: how often.
#![no_std]
#![no_main]

use cap_spec::abi::{INFO_PAGE, info_page};
use guests::capabilities::Random;
use guests::root::word;
use guests::tenant::Tenant;
use userlib::arch::halt_until;
use userlib::{clock, println};

userlib::entry!(main);

fn main() -> ! {
    let tenant = Tenant::new();
    let rounds = tenant.number(0, 100);
    let mut random = Random(tenant.start.seed);
    let (period, budget) = (word(INFO_PAGE, info_page::PERIOD_TICKS), word(INFO_PAGE, info_page::BUDGET_TICKS));
    // It may have had its budget at the start of one period, and have it next at the end of the one after.
    let latest = 2 * (period - budget) + tenant.micros(40);
    let (mut early, mut worst, mut prompt) = (0, 0, 0);
    for _ in 0..rounds {
        let deadline = clock::now() + tenant.micros(50 + random.below(5_000));
        halt_until(deadline);
        let woke = clock::now();
        early += u64::from(woke < deadline);
        let late = woke.saturating_sub(deadline);
        worst = worst.max(late);
        prompt += u64::from(late <= tenant.micros(20));
        let until = woke + tenant.micros(random.below(3_000));
        while clock::now() < until {}
    }
    println!("waiter: {rounds} waits, {early} too short, {prompt} prompt, worst {worst} ticks late, {latest} allowed");
    let wrong = early > 0 || worst > latest || prompt < rounds / 8 || worst < tenant.micros(1_000);
    tenant.exit(u32::from(wrong), rounds)
}
