//! Rows of the 82576: its interrupt, and UDP.

use crate::pair::{Over, Pair, Turn, server_at};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use device::Registers;
use guests::interrupt;
use guests::measure::{Cost, Counted, IoCost, RUNS, Start, clock_cost, tell_io};
use guests::root::Root;
use net::smoltcp::iface::{SocketHandle, SocketSet};
use net::smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket};
use userlib::arch::{disable_interrupts, enable_interrupts};

/// Extended Interrupt Cause Set: raises a vector of the function (82576 datasheet, 8.26.2.2).
const VTEICS: u32 = 0x1520;
/// The port of the echo.
const ECHO: u16 = 7;
const BYTES: usize = 64;
/// Datagrams that are measured together.
const DATAGRAMS: u64 = 64;

/// All rows.
pub fn measure(root: &mut Root) -> Result<(), String> {
    let mut pair = Pair::new(root)?;
    crate::lifetime::measure(root, &mut pair)?;
    let cost = raise(&pair);
    tell_io(root, "interrupt: virtual function raises to first instruction of the handler", 1, cost);
    for outstanding in [1, 16] {
        let mut turn = |stack: &mut Over<Counted>, now_ns| {
            let next = stack.poll_and_answer(now_ns, ECHO, |asked, place| {
                place.get_mut(..asked.len())?.copy_from_slice(asked);
                Some(asked.len())
            });
            (next, false)
        };
        let cost = echo(&mut pair, outstanding, &mut turn)?;
        tell_io(root, &format!("UDP echo of {BYTES} bytes, {outstanding} outstanding"), DATAGRAMS, cost);
    }
    let server = pair.server().add(socket(ECHO));
    for outstanding in [1, 16] {
        let mut turn = |stack: &mut Over<Counted>, now_ns| (stack.poll(now_ns), send_back(stack.sockets(), server));
        let cost = echo(&mut pair, outstanding, &mut turn)?;
        let row = format!("UDP echo of {BYTES} bytes by a socket, {outstanding} outstanding");
        tell_io(root, &row, DATAGRAMS, cost);
    }
    pair.server().remove(server);
    crate::kv::measure(root, &mut pair)
}

/// The least time from the write that makes the function raise its vector to the first instruction of the handler.
fn raise(pair: &Pair) -> IoCost {
    let runs = || {
        (0..RUNS).map(|_| {
            interrupt::forget();
            enable_interrupts();
            let start = Start::now();
            pair.registers.0.write32(VTEICS, 1);
            while interrupt::stamp() == 0 {
                core::hint::spin_loop();
            }
            disable_interrupts();
            let came = interrupt::came();
            let Cost { ticks, kernel, exits } = start.until_counted(came.at, came.kernel);
            IoCost { ticks: ticks.saturating_sub(clock_cost()), exits, writes: 1, interrupts: 1, kernel }
        })
    };
    interrupt::with_handler(guests::card::FIRST_VECTOR, || runs().min()).unwrap_or_default()
}

fn socket(port: u16) -> Socket<'static> {
    let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; 32], vec![0; 32 * BYTES]);
    let mut socket = Socket::new(buffer(), buffer());
    let bound = socket.bind(port);
    assert!(bound.is_ok(), "a new socket can be bound");
    socket
}

/// Sends back what a socket has received. True if there was anything.
fn send_back(sockets: &mut SocketSet<'static>, server: SocketHandle) -> bool {
    let socket = sockets.get_mut::<Socket>(server);
    let mut has_moved = false;
    let mut bytes = [0; BYTES];
    while let Ok((length, from)) = socket.recv_slice(&mut bytes) {
        let sent = socket.send_slice(&bytes[..length], from.endpoint);
        has_moved |= sent.is_ok();
    }
    has_moved
}

/// Datagrams that a server sends back, so many of them under way at once: the least of several runs.
fn echo(pair: &mut Pair, outstanding: u64, turn: &mut impl Turn) -> Result<IoCost, String> {
    let client = pair.client().sockets().add(socket(4000));
    let mut best = None;
    // The first run is not counted: addresses are found out.
    for run in 0..=RUNS as u64 {
        let mut sum = IoCost::default();
        for batch in 0..DATAGRAMS / outstanding {
            let payload = |number: u64| [(run + batch + number) as u8; BYTES];
            for number in 0..outstanding {
                let socket = pair.client().sockets().get_mut::<Socket>(client);
                socket.send_slice(&payload(number), server_at(ECHO)).map_err(|error| format!("{error:?}"))?;
            }
            let mut back = 0;
            let cost = pair.until(turn, |sockets| {
                let socket = sockets.get_mut::<Socket>(client);
                while let Ok((bytes, _)) = socket.recv() {
                    assert_eq!(bytes, payload(back), "datagram {back}");
                    back += 1;
                }
                back == outstanding
            })?;
            sum = sum + cost;
        }
        best = if run == 0 { None } else { Some(best.map_or(sum, |best: IoCost| best.min(sum))) };
    }
    pair.client().sockets().remove(client);
    best.ok_or_else(|| "nothing was measured".into())
}
