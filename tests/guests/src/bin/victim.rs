//! The victim: an application beside an attacker. It holds pages with known contents, works a known amount on them, and
//! watches the CPU time that it gets. It ends with status 0 only if its pages, its results and its CPU time are right.
//!
//! Arguments: rounds of work; cores of the machine, or 0 where its clock does not tell, as the machine is stopped again and
//! again core by core: then CPU time is not judged.
#![no_std]
#![no_main]

extern crate alloc;

use cap_spec::abi::Rights;
use guests::capabilities::{Random, SCRATCH};
use guests::share::Watch;
use guests::tenant::Tenant;
use proto::start::LEASE_BASE;
use userlib::cap::{Fault, Frame, PageTable, Slot, own};
use userlib::println;

userlib::entry!(main);

/// Words in a page.
const WORDS: usize = 512;
/// Pages in the image.
const IMAGE_PAGES: usize = 32;
/// Pages made from the base and mapped by the victim itself.
const BASE_PAGES: u16 = 16;
/// A period may come up short by this many microseconds.
const SHORT_MICROS: u64 = 20;

#[repr(C, align(4096))]
struct Pages([[u64; WORDS]; IMAGE_PAGES]);

static mut PAGES: Pages = Pages([[0; WORDS]; IMAGE_PAGES]);

fn main() -> ! {
    let tenant = Tenant::new();
    let rounds = tenant.number(0, 100);
    let failures = match map_pages() {
        Ok(()) => work(&tenant, rounds),
        Err(fault) => {
            println!("victim: no pages: {fault:?}");
            1
        }
    };
    tenant.exit(u32::from(failures != 0), rounds)
}

/// Makes pages from the base and maps them from [`LEASE_BASE`] on.
fn map_pages() -> Result<(), Fault> {
    let slot = |offset: u16| Slot::root(SCRATCH + offset);
    for (offset, level) in [(0, 2), (1, 1)] {
        own::BASE.retype::<PageTable>(0, slot(offset))?.map(own::VM, LEASE_BASE, level)?;
    }
    own::BASE.retype_many::<Frame>(12, slot(2), BASE_PAGES)?;
    for page in 0..BASE_PAGES {
        let at = LEASE_BASE + u64::from(page) * 4096;
        slot(2 + page).cap::<Frame>().map(own::VM, at, Rights::READ | Rights::WRITE)?;
    }
    Ok(())
}

/// Address of a page of the victim's.
fn page(number: usize) -> *mut u64 {
    if number < IMAGE_PAGES {
        (&raw mut PAGES).cast::<u64>().wrapping_add(number * WORDS)
    } else {
        core::ptr::with_exposed_provenance_mut(LEASE_BASE as usize + (number - IMAGE_PAGES) * 4096)
    }
}

/// Folds a word into a hash.
fn fold(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
}

/// Fills the pages, hashes them over and over, and says how much was wrong.
fn work(tenant: &Tenant, rounds: u64) -> u64 {
    let pages = IMAGE_PAGES + usize::from(BASE_PAGES);
    let mut random = Random(tenant.start.seed ^ 0x5eed);
    let mut expected = 0;
    for number in 0..pages {
        for index in 0..WORDS {
            let word = random.word();
            // SAFETY: the page is the victim's, and `index` lies within it.
            unsafe { page(number).add(index).write_volatile(word) };
            expected = fold(expected, word);
        }
    }
    let cores = tenant.number(1, 1);
    let mut watch = Watch::new(cores, tenant.start.tsc_hz);
    let mut damaged = 0u64;
    for _ in 0..rounds {
        let mut hash = 0;
        for number in 0..pages {
            for index in 0..WORDS {
                // SAFETY: as above.
                hash = fold(hash, unsafe { page(number).add(index).read_volatile() });
                if index % 32 == 0 {
                    watch.look();
                }
            }
        }
        damaged += u64::from(hash != expected);
    }
    let seen = watch.report();
    println!(
        "victim: {rounds} rounds, {damaged} damaged; {} periods of {} ticks, budget {}, worst {} short, best {} over; \
         owed {}, had {}; {} absences; charged {}, seen {}",
        seen.windows,
        seen.period,
        seen.budget,
        seen.worst,
        seen.over,
        seen.owed,
        seen.had,
        seen.absences,
        seen.charged,
        seen.seen
    );
    let mut failures = damaged;
    if cores == 0 {
        return failures;
    }
    let mut check = |right: bool, what: &str| {
        if !right {
            println!("victim: WRONG: {what}");
            failures += 1;
        }
    };
    check(seen.windows >= 3, "too few whole periods were seen");
    check(seen.worst <= tenant.micros(SHORT_MICROS), "a period came up short");
    // No allowance for what absences hide: their ends lie anywhere in a turn, mostly in none, and there are few of them.
    check(seen.had + seen.owed / 100 >= seen.owed, "less than 99 % of what is owed was had");
    // With more cores it takes a short absence for time that it had.
    if cores > 1 {
        return failures;
    }
    check(seen.over <= tenant.micros(SHORT_MICROS), "a period had more than its budget");
    // The kernel charges what the Vcpu does not see: its own entry and exit at each switch.
    check(seen.charged <= seen.seen + seen.seen / 50 + tenant.micros(50), "the kernel charged for somebody else");
    failures
}
