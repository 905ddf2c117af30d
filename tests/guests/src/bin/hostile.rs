//! The attacker: one application whose first argument names the attack. It prints a tally and ends with status 0 if
//! every attempt was answered rightly; some attacks never end, or end with the attacker being stopped. Of a name that is no
//! attack it says what attacks there are.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use guests::instructions::{self, Tally};
use guests::tenant::{Tenant, idle};
use guests::{capabilities, memory, nic_dma, nic_flood, ring3, trade, trap};
use userlib::cap::Fault;
use userlib::{clock, println};

userlib::entry!(main);

/// What an attack that ends by itself came to.
type Outcome = Result<Tally, Fault>;

/// Exit status if there is no such attack.
const UNKNOWN: u32 = 3;

fn main() -> ! {
    let mut tenant = Tenant::new();
    let attack = tenant.start.args.first().cloned().unwrap_or_default();
    let Some((_, make)) = ATTACKS.iter().find(|(name, _)| *name == attack) else { unknown(tenant, &attack) };
    println!("hostile: {attack} begins");
    match make(&mut tenant) {
        Ok(tally) => {
            println!("hostile: {attack}: {} attempts, {} wrong", tally.attempts, tally.wrong);
            tenant.exit(u32::from(tally.wrong != 0), tally.attempts)
        }
        Err(fault) => {
            println!("hostile: {attack} could not be made: {fault:?}");
            tenant.exit(2, 0)
        }
    }
}

/// A tally of attempts that were counted elsewhere.
fn tally(attempts: u64, wrong: u64) -> Outcome {
    Ok(Tally { attempts, wrong })
}

/// The first argument after the attack's name: how often.
fn count(tenant: &Tenant) -> u64 {
    tenant.number(1, 0)
}

/// The next one: the seed of what is random.
fn seed(tenant: &Tenant) -> u64 {
    tenant.number(2, 1)
}

/// Makes an attack.
type Attack = fn(&mut Tenant) -> Outcome;

/// All attacks: first those by what an application may do, then those by what its processor may do.
const ATTACKS: [(&str, Attack); 45] = [
    ("random", |tenant| {
        let end = tenant.start.free_slots_end;
        let done = capabilities::random_invocations(seed(tenant), count(tenant), end);
        println!("hostile: {} made, {} carried out", done.made, done.carried_out);
        // Some must go through, or only the first checks would be tried. One label in five is of a `PciFunction`, of
        // which a tenant can make none.
        tally(done.made, done.nonsense + u64::from(done.carried_out < done.made / 65))
    }),
    ("cnodes", |_| tally(1, capabilities::cnodes_in_cnodes())),
    ("hold", |tenant| tally(count(tenant), capabilities::hold_the_kernel(count(tenant)))),
    ("exhaust", |_| tally(1, capabilities::exhaust())),
    ("signals", |tenant| tally(count(tenant), capabilities::flood_with_signals(count(tenant)))),
    ("grants", |tenant| trade::flood_with_grants(count(tenant))),
    ("output", |tenant| Ok(trade::flood_with_output(count(tenant)))),
    ("console-requests", |tenant| Ok(trade::flood_with_console_requests(seed(tenant), count(tenant)))),
    ("nic-interrupts", |tenant| nic_flood::interrupts(|us| tenant.micros(us), count(tenant))),
    ("nic-mailbox", |tenant| nic_flood::mailbox(|us| tenant.micros(us), count(tenant), seed(tenant))),
    ("nic-registers", |tenant| nic_flood::every_register(|us| tenant.micros(us), count(tenant), seed(tenant))),
    // The argument is the last byte of the neighbour's address.
    ("nic-dma", |tenant| {
        let own = tenant.start.nic_mac.unwrap_or_default();
        let mut neighbour = own;
        neighbour[5] = count(tenant) as u8;
        nic_dma::attack(tenant.start.tsc_hz, own, neighbour)
    }),
    ("revoke-base", |_| capabilities::revoke_own_base()),
    // Both happens between two looks of the market.
    ("sleep-and-revoke", |tenant| {
        clock::sleep_until(clock::now() + tenant.micros(100));
        capabilities::revoke_own_base()
    }),
    ("stop", |_| capabilities::stop_itself()),
    ("delete-cnode", |_| capabilities::delete_own_cnode()),
    ("delete-everything", |_| capabilities::delete_everything()),
    ("requests", |tenant| {
        let (seed, count) = (seed(tenant), count(tenant));
        Ok(trade::flood(tenant, seed, count))
    }),
    ("notices", |tenant| with_traps(|| trade::ignore_every_notice(tenant))),
    ("released", |tenant| with_traps(|| trade::use_after_release(tenant))),
    ("never-accept", trade::never_accept),
    ("console-ring", |tenant| {
        trade::garble_console(seed(tenant), count(tenant));
        tally(count(tenant), 0)
    }),
    ("market-ring", |tenant| {
        trade::garble_market(seed(tenant), count(tenant));
        println!("hostile: the market's ring is garbled");
        idle()
    }),
    ("page-tables", |tenant| {
        with_traps(|| {
            let gone = trade::released_pages(tenant)?;
            assert!(!gone.is_empty(), "there were no leases to release");
            Ok(memory::wild_page_tables(seed(tenant), count(tenant), tenant.start.image_end, &gone))
        })
    }),
    ("svm", |_| with_traps(|| Ok(instructions::svm()))),
    ("caches", |_| with_traps(|| Ok(instructions::caches_and_counters()))),
    ("control-registers", |_| with_traps(|| Ok(instructions::control_registers()))),
    ("extended-features", |_| with_traps(|| Ok(instructions::extended_features()))),
    ("debug-registers", |_| with_traps(|| Ok(instructions::debug_registers()))),
    ("msrs", |_| with_traps(|| Ok(instructions::every_msr()))),
    ("ports", |_| with_traps(|| Ok(instructions::every_port()))),
    ("interrupt-commands", |_| with_traps(|| Ok(instructions::interrupt_commands()))),
    ("outside", |_| with_traps(|| Ok(memory::touch_what_is_not_its_own()))),
    ("spin", |_| with_traps(|| instructions::spin_with_interrupts_off())),
    ("halt", |_| with_traps(|| instructions::halt_with_interrupts_off())),
    ("endless-interrupt", |_| with_traps(|| instructions::never_end_an_interrupt())),
    ("triple-fault", |_| with_traps(|| instructions::triple_fault())),
    ("debug-storm", |_| with_traps(|| instructions::debug_storm())),
    ("debug-storm-in-delivery", |_| with_traps(|| instructions::debug_storm_in_delivery())),
    ("alignment-storm", |_| with_traps(|| ring3::alignment_storm())),
    ("invalid-opcode-storm", |_| with_traps(|| instructions::exception_storm())),
    ("no-upcall", |_| with_traps(|| memory::fault_without_upcall())),
    ("fault-in-upcall", |_| with_traps(|| memory::fault_during_upcall())),
    ("fault-in-delivery", |_| with_traps(|| memory::fault_in_delivery())),
    ("upcall-without-stack", |_| with_traps(|| memory::upcall_without_stack())),
];

/// Says what attacks there are, some on each line, as lines of the console are short.
fn unknown(tenant: Tenant, attack: &str) -> ! {
    println!("hostile: unknown attack {attack:?}; there are:");
    for some in ATTACKS.chunks(8) {
        let names: Vec<&str> = some.iter().map(|(name, _)| *name).collect();
        println!("hostile: {}", names.join(", "));
    }
    tenant.exit(UNKNOWN, 0)
}

/// Takes every exception and interrupt itself from here on.
fn with_traps(attack: impl FnOnce() -> Outcome) -> Outcome {
    trap::install();
    attack()
}
