//! The engine as a server on the host: TCP and UDP on one port.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use kv_engine::udp::Exchange;
use kv_engine::{Connection, Ends, LEAST_ROOM, Next, Output, Time};

use super::HeapStore;

/// Bytes that are gathered before they are sent.
const ROOM: usize = 16 * LEAST_ROOM;

struct Gathered(Vec<u8>);

impl Output for Gathered {
    fn room(&self) -> usize {
        ROOM - self.0.len()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_micros(since.as_micros() as u64)
}

/// Serves a store, in threads of its own, on a port of 127.0.0.1; 0 is any.
pub fn start(mut store: HeapStore, port: u16) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let address = listener.local_addr()?;
    let socket = UdpSocket::bind(address)?;
    let service = store.service_mut();
    (service.tcp_port, service.udp_port) = (address.port(), address.port());
    let store = Arc::new(Mutex::new(store));
    let for_udp = store.clone();
    thread::spawn(move || serve_datagrams(&for_udp, &socket));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let store = store.clone();
            // A client that goes away is no failure of the server.
            thread::spawn(move || serve(&store, stream).unwrap_or_default());
        }
    });
    Ok(address)
}

fn serve(store: &Mutex<HeapStore>, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let lock = || store.lock().unwrap_or_else(PoisonError::into_inner);
    let ends = match (stream.peer_addr()?, stream.local_addr()?) {
        (SocketAddr::V4(client), SocketAddr::V4(server)) => Some(Ends { client, server }),
        _ => None,
    };
    let mut connection = Connection::between(ends, &mut lock());
    let mut output = Gathered(Vec::new());
    let (mut buffer, mut filled) = (vec![0; 16384], 0);
    let result = loop {
        let progress = connection.receive(&mut lock(), now(), &buffer[..filled], &mut output);
        buffer.copy_within(progress.consumed..filled, 0);
        filled -= progress.consumed;
        if let Err(error) = stream.write_all(&output.0) {
            break Err(error);
        }
        output.0.clear();
        match progress.next {
            Next::Close => break Ok(()),
            Next::Room | Next::Cold(_) => {}
            Next::Input => match stream.read(&mut buffer[filled..]) {
                Ok(0) => break Ok(()),
                Ok(length) => filled += length,
                Err(error) => break Err(error),
            },
        }
    };
    connection.close(&mut lock());
    result
}

fn serve_datagrams(store: &Mutex<HeapStore>, socket: &UdpSocket) {
    let mut buffer = vec![0; 65536];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut exchange) = Exchange::new(&buffer[..length]) else { continue };
        exchange.proceed(&mut store, now());
        for (header, payload) in exchange.datagrams() {
            // A datagram that is lost is lost.
            let _ = socket.send_to(&[&header, payload].concat(), from);
        }
        exchange.close(&mut store);
    }
}
