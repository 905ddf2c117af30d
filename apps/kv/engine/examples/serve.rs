//! The engine as a server on the host, to be tried with ordinary clients: `serve [PORT [PAGES]]`, by default port 11211
//! and 16384 pages (64 MiB).

#[path = "../tests/common/mod.rs"]
mod common;

use std::{env, io, thread};

use kv_engine::{HeapPages, NoCold, PageNumber, Store};

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1).map(|argument| argument.parse::<u32>().map_err(io::Error::other));
    let port = arguments.next().transpose()?.unwrap_or(11211);
    let pages = arguments.next().transpose()?.unwrap_or(16384);
    let mut store = Store::new(HeapPages::new(pages as usize), NoCold, &[0; 16], common::server::now());
    (0..pages).for_each(|page| {
        store.add_page(PageNumber(page));
    });
    let address = common::server::start(store, u16::try_from(port).map_err(io::Error::other)?)?;
    println!("serving {address}");
    loop {
        thread::park();
    }
}
