//! What `stats` tells, one line at a time, so that it needs little room.
//!
//! Names and meanings are those of memcached 1.6.18. What has no meaning here is told if a constant is true, or left out:
//! `docs/kv.md` lists what is left out, and why; `tests/statistics.rs` compares with what memcached tells.

mod classes;
mod general;
mod settings;

use core::net::SocketAddrV4;

use crate::LEAST_ROOM;
use crate::cold::Cold;
use crate::output::{Line, Output};
use crate::pages::Pages;
use crate::service::Ends;
use crate::store::Store;
use crate::text::{self, MOST_DIGITS};

/// Groups of statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    General,
    Settings,
    Items,
    Slabs,
    Sizes,
    Connections,
    Prefixes,
}

/// Writes lines of the group from `*line` on while there is room. True when the end is written.
pub(crate) fn write<P: Pages, C: Cold>(
    group: Group,
    line: &mut usize,
    store: &Store<P, C>,
    output: &mut impl Output,
) -> bool {
    loop {
        if output.room() < LEAST_ROOM {
            return false;
        }
        let next = match group {
            Group::General => named(*line, general::all(store).into_iter().chain(general::of_vm(store)), output),
            Group::Settings => named(*line, settings::all(store), output),
            Group::Items => classes::items(*line, store, output),
            Group::Slabs => classes::slabs(*line, store, output),
            Group::Sizes => sizes(*line, store, output),
            Group::Connections => connections(*line, store, output),
            Group::Prefixes => prefixes(*line, store, output),
        };
        let Some(next) = next else {
            output.write(b"END\r\n");
            return true;
        };
        *line = next;
    }
}

#[derive(Clone, Copy)]
enum Value {
    Number(u64),
    Text(&'static str),
}

/// `yes` or `no`.
fn yes(is_so: bool) -> Value {
    Value::Text(if is_so { "yes" } else { "no" })
}

fn begin<'a, O: Output>(output: &'a mut O, name: &[&[u8]]) -> Line<'a, O> {
    let mut line = Line::new(output);
    line.text(b"STAT ");
    name.iter().for_each(|part| line.text(part));
    line.text(b" ");
    line
}

fn stat(output: &mut impl Output, name: &[&[u8]], value: Value) {
    let mut line = begin(output, name);
    match value {
        Value::Number(number) => line.number(number),
        Value::Text(text) => line.text(text.as_bytes()),
    }
    line.end();
}

/// Writes `number:name`, where the number is of a class or of a connection.
fn numbered(prefix: &[u8], number: usize, name: &[u8], value: Value, output: &mut impl Output) {
    let mut buffer = [0; MOST_DIGITS];
    stat(output, &[prefix, text::digits(number as u64, &mut buffer), b":", name], value);
}

/// As all that follow: writes the line with this number, if it tells anything, and returns the number of the one behind it;
/// `None` if there is none.
fn named(
    line: usize,
    list: impl IntoIterator<Item = (&'static str, Value)>,
    output: &mut impl Output,
) -> Option<usize> {
    let (name, value) = list.into_iter().nth(line)?;
    stat(output, &[name.as_bytes()], value);
    Some(line + 1)
}

fn sizes<P: Pages, C: Cold>(line: usize, store: &Store<P, C>, output: &mut impl Output) -> Option<usize> {
    if !store.sizes.is_on() {
        return named(line, [("sizes_status", Value::Text("disabled"))], output);
    }
    let (row, bytes, count) = store.sizes.from(line)?;
    let mut buffer = [0; MOST_DIGITS];
    stat(output, &[text::digits(bytes, &mut buffer)], Value::Number(count));
    Some(row + 1)
}

/// Lines that a connection has at most.
const LINES_PER_CONNECTION: usize = 4;

/// The sockets that listen come first, with the numbers 0 and 1.
fn connections<P: Pages, C: Cold>(line: usize, store: &Store<P, C>, output: &mut impl Output) -> Option<usize> {
    const LISTENING: usize = 2;
    let (number, part) = (line / LINES_PER_CONNECTION, line % LINES_PER_CONNECTION);
    if number >= LISTENING + store.clients.places() {
        return None;
    }
    let seconds = |since: u64| Value::Number(store.clock.uptime().saturating_sub(since));
    let tell = |name: &[u8], value, output: &mut _| numbered(b"", number, name, value, output);
    if let Some(client) = number.checked_sub(LISTENING).and_then(|place| store.clients.at(place)) {
        match (part, client.ends) {
            (0, Some(Ends { client, .. })) => address(number, b":addr", b"tcp:", client, output),
            (1, Some(Ends { server, .. })) => address(number, b":listen_addr", b"tcp:", server, output),
            (2, _) => tell(b"state", Value::Text(client.activity.name()), output),
            (3, _) => tell(b"secs_since_last_cmd", Value::Number((store.clock.now() - client.heard).into()), output),
            _ => {}
        }
    } else if number < LISTENING {
        let is_udp = number == 1;
        let port = if is_udp { store.service.udp_port } else { store.service.tcp_port };
        let any = SocketAddrV4::new([0; 4].into(), port);
        match part {
            _ if port == 0 => {}
            0 if is_udp => tell(b"UDP", Value::Text("UDP"), output),
            1 => address(number, b":addr", if is_udp { b"udp:" } else { b"tcp:" }, any, output),
            2 => tell(b"state", Value::Text(if is_udp { "conn_read" } else { "conn_listening" }), output),
            3 => tell(b"secs_since_last_cmd", seconds(0), output),
            _ => {}
        }
    }
    Some(line + 1)
}

fn address(number: usize, name: &[u8], protocol: &[u8], address: SocketAddrV4, output: &mut impl Output) {
    let mut buffer = [0; MOST_DIGITS];
    let mut line = begin(output, &[text::digits(number as u64, &mut buffer), name]);
    line.text(protocol);
    for (before, part) in [&b""[..], b".", b".", b"."].into_iter().zip(address.ip().octets()) {
        line.text(before);
        line.number(part.into());
    }
    line.text(b":");
    line.number(address.port().into());
    line.end();
}

fn prefixes<P: Pages, C: Cold>(line: usize, store: &Store<P, C>, output: &mut impl Output) -> Option<usize> {
    let (prefix, counts) = store.prefixes.get(line)?;
    let mut text = Line::new(output);
    text.text(b"PREFIX ");
    text.text(prefix);
    for (name, count) in [(" get ", counts.get), (" hit ", counts.hit), (" set ", counts.set), (" del ", counts.del)] {
        text.text(name.as_bytes());
        text.number(count);
    }
    text.end();
    Some(line + 1)
}
