//! `kv` on a virtual function of its own, as a client on the host sees it: the root image `kv_alone` serves, and the test
//! talks memcached to it through the emulator's network.

use e2e::Machine;
use e2e::memcached::Client;
use e2e::xtask::boot::Guest;
use e2e::xtask::emulator::Acceleration;
use std::net::TcpListener;
use std::time::Duration;

/// A port of the host that is free.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    listener.local_addr().expect("it has an address").port()
}

/// The machine, when it serves, and the port.
fn start(command_line: &str) -> (Machine, u16) {
    let port = free_port();
    let network = format!("user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:11211");
    let extra = [
        "-device",
        "intel-iommu,intremap=on,eim=on",
        "-device",
        "pcie-root-port,id=rp0,chassis=1,slot=1",
        "-netdev",
        &network,
        "-device",
        "igb,bus=rp0,netdev=n0",
    ];
    let guest = Guest {
        memory_mib: 256,
        acceleration: Acceleration::RealClock,
        command_line: format!("root_budget_us=10000 {command_line}"),
        extra: extra.map(String::from).into(),
        ..Guest::new("kv_alone")
    };
    let mut machine = Machine::start_guest(&guest).expect("it starts");
    machine.wait_line("kv_alone: serving Some(10.0.2.15)").expect("it serves");
    (machine, port)
}

/// The numbers of the line that tells what serving took: bytes of commands, exits, exits at MSRs,
/// preemptions, interrupts.
fn work(machine: &mut Machine) -> [u64; 5] {
    let line = machine.wait_line("bytes of commands").expect("it tells");
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    [(); 5].map(|()| numbers.next().expect("five numbers"))
}

#[test]
fn a_client_is_served_by_interrupts_with_no_exit() {
    const COUNT: u64 = 200;
    let (mut machine, port) = start("");
    // The first client finds everything for the first time, such as the timer, which is calibrated.
    let mut client = Client::connect(port);
    assert_eq!(client.ask(b"set k 0 0 5\r\nvalue\r\n"), "STORED\r\n");
    drop(client);
    work(&mut machine);
    let mut client = Client::connect(port);
    for n in 0..COUNT {
        // Now and then it is idle, and sleeps.
        if n % 20 == 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(client.ask(format!("set k{n} 0 0 3\r\n{n:03}\r\n").as_bytes()), "STORED\r\n");
        assert_eq!(client.get(&format!("k{n}")), Some(format!("{n:03}").into_bytes()));
    }
    drop(client);
    let [bytes, exits, at_msrs, preemptions, interrupts] = work(&mut machine);
    assert!(bytes >= 28 * COUNT, "{bytes} bytes");
    // The root VM has its whole core: no alarm of the kernel's interrupts it either, and its timer stays its own.
    assert_eq!((exits, at_msrs, preemptions), (0, 0, 0));
    assert!(interrupts >= 10, "{interrupts} interrupts");
}

#[test]
fn large_values_and_many_clients_are_served_at_an_address_from_dhcp() {
    let (mut machine, port) = start("address=dhcp");
    let value: Vec<u8> = (0..1_000_000u32).map(|at| (at ^ at >> 8 ^ at >> 13) as u8).collect();
    let mut client = Client::connect(port);
    let set = [b"set large 0 0 1000000\r\n", &value[..], b"\r\n"].concat();
    assert_eq!(client.ask(&set), "STORED\r\n");
    assert!(client.get("large").expect("it is there") == value);
    // One by one: the emulator accepts one connection at a time.
    let connect = |_| {
        let mut client = Client::connect(port);
        assert_eq!(client.ask(b"mn\r\n"), "MN\r\n");
        client
    };
    let mut clients: Vec<Client> = (0..256).map(connect).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.say(format!("set k{n} 0 0 1\r\nx\r\nget k{n}\r\n").as_bytes());
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let lines: Vec<String> = (0..4).map(|_| client.line()).collect();
        assert_eq!(lines.concat(), format!("STORED\r\nVALUE k{n} 0 1\r\nx\r\nEND\r\n"));
    }
    drop((client, clients));
    let [_, exits, ..] = work(&mut machine);
    assert_eq!(exits, 0);
}
