//! Rows of `kv`: the store behind sockets, for clients that ask over TCP.

use crate::pair::{Over, Pair, server_at};
use crate::refused;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use guests::measure::{Counted, IoCost, RUNS, tell_io};
use guests::root::Root;
use kv_server::kv_engine::{HeapPages, NoCold, PageNumber, Store, Time};
use kv_server::{Server, Settings};
use net::Next;
use net::smoltcp::iface::{SocketHandle, SocketSet};
use net::smoltcp::socket::tcp::{Socket, SocketBuffer};

const PORT: u16 = 11211;
/// Pages of the store, and keys in it.
const STORE_PAGES: u32 = 512;
const KEYS: u64 = 1024;
const VALUE_BYTES: usize = 100;
/// Operations that are measured together.
const OPERATIONS: usize = 512;
/// Bytes of a client's buffers: what is asked at once, and what is answered.
const BUFFER_BYTES: usize = 16 << 10;
/// Heap for the buffers of everybody, in pages of 2 MiB.
const HEAP_PAGES: u64 = 8;

/// What is asked, and what the answer must be.
struct Exchange {
    question: Vec<u8>,
    answer: Vec<u8>,
}

fn set(key: u64) -> Exchange {
    let value = vec![b'a' + (key % 26) as u8; VALUE_BYTES];
    let head = format!("set key:{key:08} 0 0 {VALUE_BYTES}\r\n");
    Exchange { question: [head.as_bytes(), &value, b"\r\n"].concat(), answer: b"STORED\r\n".to_vec() }
}

fn get(key: u64) -> Exchange {
    let value = vec![b'a' + (key % 26) as u8; VALUE_BYTES];
    let head = format!("VALUE key:{key:08} 0 {VALUE_BYTES}\r\n");
    Exchange {
        question: format!("get key:{key:08}\r\n").into_bytes(),
        answer: [head.as_bytes(), &value, b"\r\nEND\r\n"].concat(),
    }
}

/// Makes the exchange about a key.
type Kind = fn(u64) -> Exchange;
type Kv = Server<HeapPages, NoCold>;

/// The server and the clients that are connected.
struct Bench<'a> {
    pair: &'a mut Pair,
    server: Kv,
    clients: Vec<SocketHandle>,
}

impl Bench<'_> {
    /// Lets all take their turns until the clients have what they want.
    fn until(&mut self, is_done: impl FnMut(&mut SocketSet<'static>) -> bool) -> Result<IoCost, String> {
        let server = &mut self.server;
        let mut goes_on = true;
        let mut turn = |stack: &mut Over<Counted>, now_ns| {
            let next = stack.poll(now_ns);
            let is_over = matches!(next, Next::Sleep(_)) && !goes_on;
            goes_on = is_over || server.serve(stack.sockets(), Time::from_micros(now_ns / 1000));
            (next, !is_over)
        };
        self.pair.until(&mut turn, is_done)
    }

    fn connect(&mut self, clients: usize) -> Result<(), String> {
        while self.clients.len() < clients {
            let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
            let mut socket = Socket::new(buffer(), buffer());
            socket.set_nagle_enabled(false);
            let (interface, sockets) = self.pair.client().interface();
            let local = 40_000 + self.clients.len() as u16;
            socket.connect(interface.context(), server_at(PORT), local).map_err(|error| format!("{error:?}"))?;
            let handle = sockets.add(socket);
            self.until(|sockets| sockets.get::<Socket>(handle).may_send())?;
            self.clients.push(handle);
        }
        Ok(())
    }

    /// Each client asks so many things at once, and gets its answers.
    fn ask(&mut self, exchanges: &[Exchange], pipelined: usize) -> Result<IoCost, String> {
        let mut wanted: Vec<(SocketHandle, Vec<u8>)> = Vec::new();
        for (&client, asked) in self.clients.iter().zip(exchanges.chunks(pipelined)) {
            let question = asked.iter().flat_map(|exchange| exchange.question.iter().copied()).collect::<Vec<u8>>();
            let answer = asked.iter().flat_map(|exchange| exchange.answer.iter().copied()).collect();
            let socket = self.pair.client().sockets().get_mut::<Socket>(client);
            if socket.send_slice(&question) != Ok(question.len()) {
                return Err("a client cannot ask so much".into());
            }
            wanted.push((client, answer));
        }
        let mut are_right = true;
        let cost = self.until(|sockets| {
            for (client, answer) in &mut wanted {
                let socket = sockets.get_mut::<Socket>(*client);
                while socket.can_recv() {
                    let taken = socket.recv(|bytes| {
                        let bytes = &bytes[..bytes.len().min(answer.len())];
                        are_right &= !bytes.is_empty() && answer.starts_with(bytes);
                        (bytes.len(), bytes.len())
                    });
                    answer.drain(..taken.unwrap_or_default());
                    if !are_right {
                        return true;
                    }
                }
            }
            wanted.iter().all(|(_, answer)| answer.is_empty())
        })?;
        if are_right { Ok(cost) } else { Err("an answer is wrong".into()) }
    }

    /// What `OPERATIONS` cost at the least, when each client asks so many things at once.
    fn measure(&mut self, pipelined: usize, exchange: Kind) -> Result<IoCost, String> {
        let at_once = self.clients.len() * pipelined;
        let mut best: Option<IoCost> = None;
        // The first run is not counted.
        for run in 0..=RUNS {
            let mut sum = IoCost::default();
            for first in (0..OPERATIONS).step_by(at_once) {
                let exchanges: Vec<Exchange> =
                    (0..at_once).map(|number| exchange((first + number) as u64 * 7 % KEYS)).collect();
                sum = sum + self.ask(&exchanges, pipelined)?;
            }
            if run > 0 {
                best = Some(best.map_or(sum, |best| best.min(sum)));
            }
        }
        Ok(best.unwrap_or_default())
    }
}

/// All rows.
pub fn measure(root: &mut Root, pair: &mut Pair) -> Result<(), String> {
    root.add_heap(HEAP_PAGES).map_err(refused("the heap is made"))?;
    let mut store =
        Store::new(HeapPages::new(STORE_PAGES as usize), NoCold, &[7; 16], Time::from_micros(1_767_225_600_000_000));
    (0..STORE_PAGES).for_each(|page| {
        store.add_page(PageNumber(page));
    });
    let settings = Settings { most_clients: 24, ..Settings::default() };
    let server = Server::new(store, pair.server(), settings);
    let mut bench = Bench { pair, server, clients: Vec::new() };
    bench.connect(1)?;
    for key in 0..KEYS {
        bench.ask(&[set(key)], 1)?;
    }
    let both: [(&str, Kind); 2] = [("GET", get), ("SET", set)];
    for (name, exchange) in both {
        let cost = bench.measure(1, exchange)?;
        tell_io(root, &format!("kv {name} of {VALUE_BYTES} bytes, 1 connection"), OPERATIONS as u64, cost);
    }
    bench.connect(16)?;
    for (name, exchange) in both {
        let cost = bench.measure(32, exchange)?;
        let row = format!("kv {name} of {VALUE_BYTES} bytes, 16 connections, 32 pipelined");
        tell_io(root, &row, OPERATIONS as u64, cost);
    }
    Ok(())
}
