//! `kv` as a tenant, with clients that misbehave, requests in datagrams, segments that are forged into a connection, and a
//! neighbour that sends it malformed frames: a client that does nothing wrong is served all the while, and finds what it has stored.

use device_tests::forged::{Random, begins, comes_from, forge, goes_to};
use e2e::memcached::Client;
use e2e::station::{FIRST_PORT, Host, Station};
use e2e::{Change, Machine};
use proto::host::{Command, End};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A server, and a tenant beside it whose frames are malformed.
const SCENARIO: &str = r#"
    title = "kv and a hostile neighbour"
    limit = "1000 s"
    [machine]
    cores = 2
    memory = "128 MiB"
    [[app]]
    name = "kv"
    nic = true
    port = 11211
    budget = 1
    valuation = 1e-9
    core = 1
    base_cpu = 50
    base_pages = 2048
    args = ["items=24", "pages=0"]
    awaited = false
    [[app]]
    name = "neighbour"
    image = "netbench"
    nic = true
    budget = 1
    core = 0
    base_cpu = 10
    base_pages = 64
    starts = false
    args = ["role=malform", "peer=02:6e:6b:00:00:01", "target=10.0.2.101", "from=10.0.2.102", "frames=3000", "for=100000"]
"#;

/// Bytes of a value that takes several datagrams.
const LARGE: usize = 3000;

/// Where the server is on the Ethernet, and the ports.
const SERVER: ([u8; 6], [u8; 4]) = ([2, 0x6e, 0x6b, 0, 0, 1], [10, 0, 2, 101]);
const PORTS: (u16, u16) = (40_000, 11_211);

/// Sends a request in a datagram (memcached's protocol.txt, "UDP protocol").
fn send(station: &Station, header: [u16; 4], request: &[u8]) {
    let header = header.map(u16::to_be_bytes).concat();
    station.send_datagram(SERVER, PORTS, &[&header, request].concat());
}

/// The datagrams of the answer to this request, put together, and how many there were. No other answer comes.
fn answer(station: &Station, number: u16) -> (Vec<u8>, u16) {
    let (mut pieces, mut total) = (BTreeMap::new(), 1);
    while pieces.len() < usize::from(total) {
        let bytes = station.datagram(PORTS.0);
        assert!(bytes.len() > 8, "a header and something");
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        assert_eq!((word(0), word(6)), (number, 0));
        total = word(4);
        assert!(word(2) < total, "{} of {total}", word(2));
        assert!(pieces.insert(word(2), bytes[8..].to_vec()).is_none(), "once each");
    }
    (pieces.into_values().flatten().collect(), total)
}

/// Requests in datagrams are answered, and what makes no sense is not.
fn datagrams(station: &Station, port: u16) {
    send(station, [1, 0, 1, 0], b"set small 5 0 3\r\nabc\r\n");
    assert_eq!(answer(station, 1), (b"STORED\r\n".to_vec(), 1));
    send(station, [2, 0, 1, 0], b"get small\r\n");
    assert_eq!(answer(station, 2), (b"VALUE small 5 3\r\nabc\r\nEND\r\n".to_vec(), 1));
    let value: Vec<u8> = (0..LARGE).map(|at| b'a' + (at % 23) as u8).collect();
    let mut stream = Client::connect(port);
    let set = [format!("set large 0 0 {LARGE}\r\n").as_bytes(), &value, b"\r\n"].concat();
    assert_eq!(stream.ask(&set), "STORED\r\n");
    send(station, [0xfffe, 0, 1, 0], b"get large\r\n");
    let expected = [format!("VALUE large 0 {LARGE}\r\n").as_bytes(), &value, b"\r\nEND\r\n"].concat();
    assert_eq!(answer(station, 0xfffe), (expected, 3));
    // Too short, several datagrams, nothing, half a command, garbage: what may be answered is, under its own number.
    station.send_datagram(SERVER, PORTS, &[0, 3, 0]);
    send(station, [4, 0, 2, 0], b"get small\r\n");
    let (refusal, _) = answer(station, 4);
    assert!(refusal.starts_with(b"SERVER_ERROR"), "{refusal:?}");
    send(station, [5, 0, 1, 0], b"");
    send(station, [6, 0, 1, 0], b"set small 5 0 3\r\nxy");
    send(station, [7, 0, 1, 0], &[0xff; 1400]);
    send(station, [8, 0, 1, 0], b"nonsense\r\n");
    assert_eq!(answer(station, 8), (b"ERROR\r\n".to_vec(), 1));
    assert_eq!(stream.get("large").as_deref(), Some(&value[..]));
}

/// Clients that are slow, broken or greedy. Those that are still connected are returned.
fn misbehave(port: u16) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..6).map(|_| Client::connect(port)).collect();
    let [half, line, greedy, oversized, wrong, leaves] = &mut clients[..] else { unreachable!("six") };
    // The one stops in the middle of a value, the other in the middle of a line.
    half.say(b"set half 0 0 100\r\nonly so much");
    line.say(b"get ");
    // Asks for much more than fits into all buffers, and reads nothing.
    greedy.say(&b"get large large large large\r\n".repeat(200));
    // Too large, in every way.
    let key = "k".repeat(251);
    assert!(oversized.ask(format!("get {key}\r\n").as_bytes()).starts_with("CLIENT_ERROR"));
    assert!(oversized.ask(format!("set {key} 0 0 1\r\n").as_bytes()).starts_with("CLIENT_ERROR"));
    assert!(oversized.ask(b"x\r\n").starts_with("ERROR"));
    assert_eq!(oversized.ask(b"set k 0 0 2000000\r\n"), "SERVER_ERROR object too large for cache\r\n");
    oversized.say(&[b'x'; 20_000]);
    // Cut off, or not what they say.
    assert!(wrong.ask(b"set k 0 0 -1\r\n").starts_with("CLIENT_ERROR"));
    assert!(wrong.ask(b"set k 0 0 3\r\nabcdef\r\n").starts_with("CLIENT_ERROR"));
    assert!(wrong.line().starts_with("ERROR"));
    assert_eq!(wrong.ask(b"set k 0 0\r\n"), "ERROR\r\n");
    leaves.say(b"set k 0 0 1000\r\nabc");
    drop(clients.pop());
    // Too long a line ends the connection.
    let mut long = Client::connect(port);
    long.say(&[b'x'; 5000]);
    assert_eq!(long.line(), "");
    clients
}

/// Stores and reads until told to stop; each answer is checked.
fn victim(port: u16, done: &AtomicU64, is_over: &AtomicBool) {
    let mut client = Client::connect(port);
    while !is_over.load(Ordering::Relaxed) {
        let number = done.fetch_add(1, Ordering::Relaxed);
        let (key, value) = (number % 50, format!("value {number}"));
        let set = format!("set v{key} 0 0 {}\r\n{value}\r\n", value.len());
        assert_eq!(client.ask(set.as_bytes()), "STORED\r\n");
        assert_eq!(client.get(&format!("v{key}")), Some(value.into_bytes()));
    }
}

#[test]
fn a_client_is_served_while_others_misbehave() {
    let scenario = e2e::scenario(SCENARIO, &Change::none()).expect("a scenario");
    let station = Station::new();
    let (mut machine, ports) = Machine::start_serving_beside(&scenario, &station).expect("a machine");
    machine.wait_line("serving at 10.0.2.101, port 11211").expect("it serves");
    let port = ports[0];
    let (done, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let for_victim = (done.clone(), is_over.clone());
    let served = std::thread::spawn(move || victim(port, &for_victim.0, &for_victim.1));
    datagrams(&station, port);
    let before = done.load(Ordering::Relaxed);
    let clients = misbehave(port);
    let (during, before) = (done.load(Ordering::Relaxed) - before, done.load(Ordering::Relaxed));
    machine.send(&Command::Start { app: 1 }).expect("sent");
    machine.wait_line("3000 malformed frames sent").expect("the neighbour has done its worst");
    // It was served meanwhile, and who comes new is, too.
    let beside = done.load(Ordering::Relaxed) - before;
    println!("served beside clients: {during}, beside frames: {beside}");
    assert!(during > 20 && beside > 10, "too little was served meanwhile");
    let mut new = Client::connect(port);
    assert_eq!(new.ask(b"set new 0 0 3\r\nabc\r\n"), "STORED\r\n");
    assert_eq!(new.get("new").as_deref(), Some(&b"abc"[..]));
    datagrams(&station, port);
    drop(clients);
    is_over.store(true, Ordering::Relaxed);
    served.join().expect("every answer was right");
    let run = machine.stop();
    run.expect_shares();
    assert_eq!(run.end("neighbour"), &End::Exit { status: 0 });
}

/// A connection that stores and reads in turn; each answer is checked.
struct LeftAlone {
    connection: SocketHandle,
    key: &'static str,
    came: Vec<u8>,
    /// A request is not answered yet.
    asked: bool,
    /// Answers that have come.
    answered: u32,
}

impl LeftAlone {
    fn begin(host: &mut Host<'_>, key: &'static str) -> LeftAlone {
        let connection = host.connect((SERVER.1.into(), PORTS.1));
        LeftAlone { connection, key, came: Vec::new(), asked: false, answered: 0 }
    }

    fn go_on(&mut self, host: &mut Host<'_>) {
        let (socket, key) = (host.socket(self.connection), self.key);
        if socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), self.came.extend_from_slice(bytes))).expect("it can");
        }
        let value = format!("value {}", self.answered / 2);
        let stores = self.answered.is_multiple_of(2);
        if self.asked {
            let expected = match stores {
                true => "STORED\r\n".to_string(),
                false => format!("VALUE {key} 0 {}\r\n{value}\r\nEND\r\n", value.len()),
            };
            assert!(expected.as_bytes().starts_with(&self.came), "{:?}", String::from_utf8_lossy(&self.came));
            if self.came.len() == expected.len() {
                self.came.clear();
                (self.asked, self.answered) = (false, self.answered + 1);
            }
        } else if socket.can_send() {
            let request = match stores {
                true => format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()),
                false => format!("get {key}\r\n"),
            };
            socket.send_slice(request.as_bytes()).expect("it can");
            self.asked = true;
        }
    }
}

/// Somebody sees connections and forges segments into them: they get what he likes, or break, and then another one begins. One
/// beside them is served all the while, and so is who comes later.
#[test]
fn segments_forged_into_connections_break_no_other_one() {
    const FORGERIES: u64 = 1500;
    /// Looks at which nothing has come in, after which a connection is given up.
    const STILL: u32 = 300;
    let scenario = e2e::scenario(SCENARIO, &Change::none()).expect("a scenario");
    let station = Station::new();
    let mut machine = Machine::start_serving_only(&scenario, &station).expect("a machine");
    machine.wait_line("serving at 10.0.2.101, port 11211").expect("it serves");
    let forged = Rc::new(Cell::new(0));
    let mut random = Box::new(device::fake::random(5)) as Random;
    let count = forged.clone();
    let mut host = station.host(Box::new(move |frame| {
        if !goes_to(frame, PORTS.1) || comes_from(frame, FIRST_PORT) || begins(frame) || count.get() >= FORGERIES {
            return Vec::new();
        }
        let forgeries: Vec<_> = (0..random(3)).map(|_| forge(frame, &mut random)).collect();
        count.set(count.get() + forgeries.len() as u64);
        forgeries
    }));
    let to = (SERVER.1.into(), PORTS.1);
    let mut alone = LeftAlone::begin(&mut host, "alone");
    let mut victim = host.connect(to);
    let (mut begun, mut still, mut answers) = (1, 0, 0);
    while forged.get() < FORGERIES {
        host.go_on();
        alone.go_on(&mut host);
        let socket = host.socket(victim);
        still += 1;
        if socket.can_recv() {
            let all = |bytes: &mut [u8]| (bytes.len(), bytes.split(|&byte| byte == b'\n').count());
            answers += socket.recv(all).expect("it can");
            still = 0;
        }
        if socket.can_send() && socket.send_queue() == 0 {
            socket.send_slice(b"get forged\r\nset forged 0 0 3\r\nabc\r\n").expect("it can");
        }
        let is_over = !matches!(socket.state(), State::SynSent | State::Established);
        if is_over || still > STILL {
            host.give_up(victim);
            victim = host.connect(to);
            (begun, still) = (begun + 1, 0);
        }
    }
    let answered = alone.answered;
    println!("{begun} connections, {answers} lines, {answered} answers beside them");
    assert!(begun > 50 && answers > 100 && answered > 100, "they must come into connections, and one be served");
    // Nobody forges any more.
    host.give_up(victim);
    let mut new = LeftAlone::begin(&mut host, "new");
    while new.answered < 10 {
        host.go_on();
        new.go_on(&mut host);
    }
    while alone.answered < answered + 10 {
        host.go_on();
        alone.go_on(&mut host);
    }
    let run = machine.stop();
    run.expect_shares();
}
