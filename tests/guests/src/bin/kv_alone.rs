//! A root image that serves `kv` from its own virtual function: it drives the 82576 and the function, and is the memcached
//! server behind it, without a market and with nothing but the kernel under it.
//!
//! `address=dhcp` on the command line lets it ask for its address. A line says when it serves. Whenever the last client
//! has left, a line tells what serving took: `kv_alone: B bytes of commands, E exits, M at
//! MSRs, P preemptions, I interrupts`. The first are those that it caused itself. Those at MSRs are the timer's: the kernel
//! has it when the VM comes back from a preemption, and hands it over again at its next use. With a whole core of its own
//! (`root_budget_us=10000`) there are neither.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use cap_spec::abi::{ExitKind, STATS_PAGE, stats_page};
use device::Clock;
use guests::card::{self, Card, Vf};
use guests::root::{Root, exits, option, tsc, word};
use kv_server::kv_engine::{HeapPages, NoCold, PageNumber, Store, Time};
use kv_server::{Server, Settings};
use net::smoltcp::wire::{Ipv4Address, Ipv4Cidr};
use net::{Address, Mode, Next};
use userlib::arch::halt_while;
use userlib::cap::{Cap, Fault};

userlib::entry!(main);

/// Pages of the store.
const STORE_PAGES: u32 = 2048;
/// Large pages of the heap: for the store, and for 300 clients with their buffers.
const HEAP_PAGES: u64 = 12;
/// When the machine's clock begins, as the emulator is told: 2026.
const EPOCH_S: u64 = 1_767_225_600;

fn main() -> ! {
    let mut root = Root::new().unwrap_or_else(|fault| panic!("no root: {fault:?}"));
    match serve(&mut root) {
        Err(why) => panic!("{why}"),
    }
}

fn refused(what: &'static str) -> impl Fn(Fault) -> String {
    move |fault| format!("{what}: {fault:?}")
}

/// What serving has taken so far.
#[derive(Clone, Copy)]
struct Work {
    bytes: u64,
    exits: u64,
    msrs: u64,
    preemptions: u64,
    interrupts: u64,
}

fn serve(root: &mut Root) -> Result<core::convert::Infallible, String> {
    root.add_heap(HEAP_PAGES).map_err(refused("the heap is made"))?;
    let nic: Cap<_> = card::find().ok_or("there is no 82576")?;
    let mut card = Card::new(root, nic, 1).map_err(refused("the card is set up"))?;
    let Vf { port, registers, mac } =
        card.function(root, 0, card.capability(0), |registers| registers).map_err(refused("its function is set up"))?;
    let address = match option("address").as_str() {
        "dhcp" => Address::Dhcp,
        _ => Address::Static {
            address: Ipv4Cidr::new(Ipv4Address::new(10, 0, 2, 15), 24),
            gateway: Some(Ipv4Address::new(10, 0, 2, 2)),
        },
    };
    let settings = net::Settings { mac, address, vector: 0, mode: Mode::Interrupt, seed: tsc() };
    let mut stack = net::Stack::new(port, registers, &settings, card.clock.now_ns());

    let time = |now_ns: u64| Time::from_micros(EPOCH_S * 1_000_000 + now_ns / 1000);
    let mut key = [0; 16];
    key.iter_mut().for_each(|byte| *byte = (tsc() >> 2) as u8);
    let mut store = Store::new(HeapPages::new(STORE_PAGES as usize), NoCold, &key, time(card.clock.now_ns()));
    (0..STORE_PAGES).for_each(|page| {
        store.add_page(PageNumber(page));
    });
    let mut server = Server::new(store, stack.sockets(), Settings::default());
    while stack.address().is_none() {
        stack.poll(card.clock.now_ns());
        card.go_on();
    }
    root.text(&format!("kv_alone: serving {:?}\n", stack.address()));

    let (mut before, mut had_clients, mut goes_on) = (None, false, true);
    loop {
        let interrupts = card::interrupts(0);
        if card::take_interrupt(0) {
            stack.interrupted();
        }
        let now_ns = card.clock.now_ns();
        let next = stack.poll(now_ns);
        let is_over = matches!(next, Next::Sleep(_)) && !goes_on;
        goes_on = is_over || server.serve(stack.sockets(), time(now_ns));
        card.go_on();
        let has_clients = server.clients() > 0;
        if has_clients != had_clients {
            had_clients = has_clients;
            let [preemptions, msrs] =
                [ExitKind::Nmi, ExitKind::Msr].map(|kind| word(STATS_PAGE, stats_page::EXITS + 8 * kind as usize));
            let bytes = server.store().counters().bytes_read;
            let work = Work { bytes, exits: exits() - preemptions - msrs, msrs, preemptions, interrupts };
            match before.take() {
                Some(Work { bytes, exits, msrs, preemptions, interrupts }) => root.text(&format!(
                    "kv_alone: {} bytes of commands, {} exits, {} at MSRs, {} preemptions, {} interrupts\n",
                    work.bytes - bytes,
                    work.exits - exits,
                    work.msrs - msrs,
                    work.preemptions - preemptions,
                    work.interrupts - interrupts
                )),
                None => before = Some(work),
            }
        }
        if let (Next::Sleep(until_ns), true) = (next, is_over) {
            let until_ns = until_ns.unwrap_or(u64::MAX).min(card.due_ns());
            halt_while(card.tsc_at(until_ns), || !card::is_interrupted(0));
        }
    }
}
