//! The attacker: one application whose first argument names the attack. It prints a tally and ends with status 0 if
//! every attempt was answered rightly; some attacks never end, or end with the attacker being stopped.
#![no_std]
#![no_main]

use guests::instructions::{self, Tally};
use guests::tenant::{Tenant, idle};
use guests::{capabilities, memory, ring3, trade, trap};
use userlib::cap::Fault;
use userlib::println;

userlib::entry!(main);

/// What an attack that ends by itself came to.
type Outcome = Result<Tally, Fault>;

fn main() -> ! {
    let mut tenant = Tenant::new();
    let attack = tenant.start.args.first().cloned().unwrap_or_default();
    println!("hostile: {attack} begins");
    match run(&mut tenant, &attack) {
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

fn run(tenant: &mut Tenant, attack: &str) -> Outcome {
    let count = tenant.number(1, 0);
    let seed = tenant.number(2, 1);
    match attack {
        "random" => {
            let end = tenant.start.free_slots_end;
            let done = capabilities::random_invocations(seed, count, end);
            println!("hostile: {} made, {} carried out", done.made, done.carried_out);
            // Some must go through, or only the first checks would be tried.
            tally(done.made, done.nonsense + u64::from(done.carried_out < done.made / 50))
        }
        "cnodes" => tally(1, capabilities::cnodes_in_cnodes()),
        "hold" => tally(count, capabilities::hold_the_kernel(count)),
        "exhaust" => tally(1, capabilities::exhaust()),
        "signals" => tally(count, capabilities::flood_with_signals(count)),
        "grants" => trade::flood_with_grants(count),
        "output" => Ok(trade::flood_with_output(count)),
        "console-requests" => Ok(trade::flood_with_console_requests(seed, count)),
        "revoke-base" => capabilities::revoke_own_base(),
        "stop" => capabilities::stop_itself(),
        "delete-cnode" => capabilities::delete_own_cnode(),
        "delete-everything" => capabilities::delete_everything(),
        "requests" => Ok(trade::flood(tenant, seed, count)),
        "notices" => with_traps(|| trade::ignore_every_notice(tenant)),
        "released" => with_traps(|| trade::use_after_release(tenant)),
        "never-accept" => trade::never_accept(tenant),
        "console-ring" => {
            trade::garble_console(seed, count);
            tally(count, 0)
        }
        "market-ring" => {
            trade::garble_market(seed, count);
            println!("hostile: the market's ring is garbled");
            idle()
        }
        "page-tables" => with_traps(|| {
            let gone = trade::released_pages(tenant)?;
            assert!(!gone.is_empty(), "there were no leases to release");
            Ok(memory::wild_page_tables(seed, count, tenant.start.image_end, &gone))
        }),
        _ => with_traps(|| instruction(attack)),
    }
}

/// Takes every exception and interrupt itself from here on.
fn with_traps(attack: impl FnOnce() -> Outcome) -> Outcome {
    trap::install();
    attack()
}

fn instruction(attack: &str) -> Outcome {
    match attack {
        "svm" => Ok(instructions::svm()),
        "caches" => Ok(instructions::caches_and_counters()),
        "control-registers" => Ok(instructions::control_registers()),
        "extended-features" => Ok(instructions::extended_features()),
        "debug-registers" => Ok(instructions::debug_registers()),
        "msrs" => Ok(instructions::every_msr()),
        "ports" => Ok(instructions::every_port()),
        "interrupt-commands" => Ok(instructions::interrupt_commands()),
        "outside" => Ok(memory::touch_what_is_not_its_own()),
        "spin" => instructions::spin_with_interrupts_off(),
        "halt" => instructions::halt_with_interrupts_off(),
        "endless-interrupt" => instructions::never_end_an_interrupt(),
        "triple-fault" => instructions::triple_fault(),
        "debug-storm" => instructions::debug_storm(),
        "debug-storm-in-delivery" => instructions::debug_storm_in_delivery(),
        "alignment-storm" => ring3::alignment_storm(),
        "invalid-opcode-storm" => instructions::exception_storm(),
        "no-upcall" => memory::fault_without_upcall(),
        "fault-in-upcall" => memory::fault_during_upcall(),
        "fault-in-delivery" => memory::fault_in_delivery(),
        "upcall-without-stack" => memory::upcall_without_stack(),
        unknown => panic!("unknown attack {unknown:?}"),
    }
}
