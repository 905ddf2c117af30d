//! The hardware below the console server: two UARTs, the debug-exit port, and the clients' rings.
//!
//! The server sleeps until a client signals or the first UART has received something, whose interrupt ends the sleep. Its
//! interrupts are off but for a moment after each sleep: one that comes before the next sleep is pending then, and who has
//! an interrupt pending does not sleep, so no byte is missed.

extern crate alloc;

use alloc::{collections::VecDeque, vec::Vec};
use console_server::{Console, Effect};
use proto::console::FromConsole;
use proto::start::{FIRST_CLIENT_SLOT, IRQ_SLOT, MARKET_CLIENT, MAX_CLIENTS, PORT_SLOTS};
use userlib::arch::{disable_interrupts, enable_interrupts};
use userlib::cap::{Cap, IoPort, Irq, PortWidth, Slot, own};
use userlib::channel::{ChannelError, Endpoint};
use userlib::{clock, end, events, start_page};

/// First ports of the two UARTs, and the debug-exit port.
const COM: [u16; 2] = [0x3f8, 0x2f8];
const DEBUG_EXIT: u16 = 0xf4;
/// Registers of a 16550 UART.
const INTERRUPT_ENABLE: u16 = 1;
const FIFO_CONTROL: u16 = 2;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
/// Line status: a byte was received; the transmitter's FIFO is empty; and the last byte has left the wire register, too.
const RECEIVED: u32 = 1;
const CAN_TRANSMIT: u32 = 0x20;
const ALL_SENT: u32 = 0x40;
/// FIFO on; terminal ready and request to send; the same with the interrupt output; interrupts for received bytes.
const FIFO_ON: u32 = 1;
const READY: u32 = 3;
const READY_TO_INTERRUPT: u32 = READY | 8;
const ON_RECEIVED: u32 = 1;
/// Vector of the first UART's interrupt. Nothing is done there but to end it.
const VECTOR: u8 = 0x40;
/// Bytes that the transmitter's FIFO takes.
const FIFO: usize = 16;
/// Bytes that are written to a port, or read from it, before the clients have their turn again.
const TURN_BYTES: usize = 1024;
/// Messages that are read from a client before the next one has its turn. The market's are records of all others.
const TURN_MESSAGES: usize = 8;
const MARKET_TURN_MESSAGES: usize = 32;
/// The longest time without a look at a port that is full, in microseconds.
const FULL_MICROS: u64 = 200;

/// One serial port.
struct Uart {
    ports: Cap<IoPort>,
    base: u16,
}

impl Uart {
    fn new(ports: Cap<IoPort>, base: u16) -> Uart {
        let uart = Uart { ports, base };
        for (register, value) in [(INTERRUPT_ENABLE, 0), (FIFO_CONTROL, FIFO_ON), (MODEM_CONTROL, READY)] {
            // A port that does not take this has no UART; then nothing is ever ready.
            let _ = uart.ports.output(base + register, PortWidth::Byte, value);
        }
        uart
    }

    /// Lets the port interrupt when it has received something.
    fn interrupt_on_received(&self) {
        for (register, value) in [(MODEM_CONTROL, READY_TO_INTERRUPT), (INTERRUPT_ENABLE, ON_RECEIVED)] {
            let _ = self.ports.output(self.base + register, PortWidth::Byte, value);
        }
    }

    /// True if something was received.
    fn has_received(&self) -> bool {
        self.status() & RECEIVED != 0
    }

    /// True if nothing that was written is still on its way: what a power-off would lose.
    fn has_sent_all(&self) -> bool {
        self.status() & ALL_SENT != 0
    }

    fn status(&self) -> u32 {
        self.ports.input(self.base + LINE_STATUS, PortWidth::Byte).unwrap_or(0)
    }

    /// Writes as much as the port takes, at most one turn's. True if something was written.
    fn write(&self, waiting: &mut VecDeque<u8>) -> bool {
        let mut written = 0;
        while !waiting.is_empty() && written < TURN_BYTES && self.status() & CAN_TRANSMIT != 0 {
            let count = waiting.len().min(FIFO);
            let bytes: Vec<u8> = waiting.iter().take(count).copied().collect();
            if self.ports.output_bytes(self.base, &bytes).is_err() {
                break;
            }
            waiting.drain(..count);
            written += count;
        }
        written > 0
    }

    /// Reads what was received, at most one turn's.
    fn read(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < TURN_BYTES && self.has_received() {
            match self.ports.input(self.base, PortWidth::Byte) {
                Ok(byte) => bytes.push(byte as u8),
                Err(_) => break,
            }
        }
        bytes
    }
}

/// One client's connection.
struct Client {
    endpoint: Endpoint,
    /// It broke the rules of its ring or has gone; nothing is read from it any more.
    lost: bool,
    /// What waits for room in its ring.
    answers: VecDeque<FromConsole>,
}

/// Most answers that wait for a client; it does not read, so further ones are dropped.
const MAX_ANSWERS: usize = 64;

impl Client {
    fn answer(&mut self, answer: FromConsole) {
        if self.answers.len() < MAX_ANSWERS {
            self.answers.push_back(answer);
        }
    }

    fn send_answers(&mut self) {
        while let Some(answer) = self.answers.front() {
            match self.endpoint.send(answer) {
                Err(ChannelError::Full) => return,
                // It is gone, or hears no more.
                _ => drop(self.answers.pop_front()),
            }
        }
    }
}

/// Serves for ever.
pub fn main() -> ! {
    let Some(start) = start_page::read() else { end::stop() };
    let [ports_1, ports_2, debug_exit] = PORT_SLOTS.map(|slot| Slot::root(slot).cap::<IoPort>());
    let (text_port, frame_port) = (Uart::new(ports_1, COM[0]), Uart::new(ports_2, COM[1]));
    let irq: Cap<Irq> = Slot::root(IRQ_SLOT).cap();
    let Ok(()) = irq.bind(own::VCPU, VECTOR) else { end::stop() };
    text_port.interrupt_on_received();
    let mut console = Console::new(start.args.iter().take(MAX_CLIENTS).cloned(), start.tsc_hz);
    let mut clients: Vec<Client> = (0..console.clients())
        .map(|client| {
            let channel = Slot::root(FIRST_CLIENT_SLOT + client as u16).cap();
            Client { endpoint: Endpoint::to_client(client, channel), lost: false, answers: VecDeque::new() }
        })
        .collect();
    let all_clients = (1u64 << clients.len()) - 1;
    let mut power_off = None;
    let mut first = 0;
    loop {
        let mut busy = false;
        for turn in 0..clients.len() {
            // Who is first changes, so that a full port delays nobody for ever.
            let at = (first + turn) % clients.len();
            busy |= serve(&mut console, &mut clients[at], at, &mut power_off);
        }
        first = (first + 1) % clients.len().max(1);
        busy |= text_port.write(console.text());
        busy |= frame_port.write(console.frames());
        let received = text_port.read();
        if !received.is_empty()
            && let Some(market) = clients.get_mut(MARKET_CLIENT)
        {
            console.received(&received).into_iter().for_each(|command| market.answer(command));
            busy = true;
        }
        clients.iter_mut().for_each(Client::send_answers);
        let written = console.text().is_empty() && console.frames().is_empty();
        let all_sent = written && power_off.is_some() && text_port.has_sent_all() && frame_port.has_sent_all();
        if let Some(value) = power_off.filter(|_| all_sent && !busy) {
            // When the machine has no such port, the market ends it by a reset.
            let _ = debug_exit.output(DEBUG_EXIT, PortWidth::Byte, value);
            end::stop();
        }
        if !busy {
            let waits = !written || power_off.is_some();
            let deadline = if waits { clock::now() + start.tsc_hz / 1_000_000 * FULL_MICROS } else { 0 };
            rest(&mut clients, all_clients, &text_port, deadline);
        }
    }
}

/// Reads from one client, as far as its turn and the room for output go. True if there was something.
fn serve(console: &mut Console, client: &mut Client, at: usize, power_off: &mut Option<u32>) -> bool {
    let turn = if at == MARKET_CLIENT { MARKET_TURN_MESSAGES } else { TURN_MESSAGES };
    for count in 0..turn {
        if client.lost || !console.has_room() {
            return count > 0;
        }
        let effect = match client.endpoint.receive_bytes() {
            Ok(Some(bytes)) => console.take(at, bytes, clock::now()),
            Ok(None) => return count > 0,
            Err(_) => {
                client.lost = true;
                console.lost(at, clock::now());
                return true;
            }
        };
        match effect {
            Effect::Nothing => {}
            Effect::Answer(answer) => client.answer(answer),
            Effect::PowerOff(value) => *power_off = Some(value.into()),
        }
    }
    true
}

/// Sleeps until a client has something, the port has received something, or the deadline (0: none).
fn rest(clients: &mut [Client], all_clients: u64, port: &Uart, deadline: u64) {
    let mut quiet = true;
    for client in clients.iter_mut().filter(|client| !client.lost) {
        quiet &= client.endpoint.announce_sleep() != Ok(false);
    }
    while quiet {
        let events = events::wait_only(all_clients, deadline);
        // Takes what ended the sleep; the instruction after the enabling one is still without.
        enable_interrupts();
        core::hint::spin_loop();
        disable_interrupts();
        // Any NMI of the core may have been the port's, so that it also wakes for nothing.
        quiet = events == Ok(0) && !port.has_received() && (deadline == 0 || clock::now() < deadline);
    }
    for client in clients.iter_mut().filter(|client| !client.lost) {
        client.endpoint.awake();
    }
}
