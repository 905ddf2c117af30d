//! Virtual functions of the network device, leased by the market: brought up by their holders, taken back, leased again.

use e2e::xtask::network;
use e2e::{Change, Machine, run};
use proto::host::End;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Two tenants that exchange frames; the one that answers is killed, and its virtual function goes to a third, which the
/// first does not know of.
const SCENARIO: &str = r#"
    title = "frames"
    limit = "20 s"
    [machine]
    cores = 1
    memory = "128 MiB"
    [[app]]
    name = "echo"
    image = "netbench"
    nic = true
    budget = 1
    base_cpu = 10
    args = ["role=echo", "for=10000"]
    [[app]]
    name = "ping"
    image = "netbench"
    nic = true
    budget = 1
    base_cpu = 10
    args = ["role=ping", "peer=02:6e:6b:00:00:01", "for=1700"]
    [[app]]
    name = "third"
    image = "netbench"
    nic = true
    budget = 1
    base_cpu = 10
    starts = false
    awaited = true
    args = ["role=listen", "for=300"]
    [[event]]
    at = "1 s"
    do = "kill:echo"
    [[event]]
    at = "1200 ms"
    do = "start:third"
"#;

#[test]
fn virtual_functions_are_handed_out_taken_back_and_handed_out_again() {
    let run = run(SCENARIO, &Change::none());
    run.expect_good();
    assert_eq!(run.end("echo"), &End::Killed);
    // Who is what, by the number in the plan, and a device that came up.
    for line in [
        "[market] virtual function 0 goes to echo, with address 02:6e:6b:00:00:01",
        "[market] virtual function 1 goes to ping, with address 02:6e:6b:00:00:02",
        "[market] network device: link up",
        "[market] virtual function 0 is back from echo",
        "[market] virtual function 0 goes to third, with address 02:6e:6b:00:00:03",
    ] {
        assert!(run.console_has(line), "{line}: {:#?}", run.console);
    }
    let [back, lost, wrong, faults] = run.numbers("frames came back");
    assert!(back > 500 && lost > 10, "{back} frames came back, and {lost} did not when nobody was there any more");
    assert_eq!((wrong, faults), (0, 0));
    // What is sent to the last holder of the function is not for this one.
    let [heard] = run.numbers("frames heard");
    assert_eq!(heard, 0);
    // The run's result says the same: each frame has 256 bytes and a checksum.
    let frames = |name: &str| {
        let counts = run.app(name).network.expect("it had a function");
        assert_eq!(counts.sent_octets, 260 * counts.sent_frames);
        assert_eq!(counts.received_octets, 260 * counts.received_frames);
        assert_eq!((counts.received_multicasts, counts.forged_frames), (0, 0));
        (counts.sent_frames, counts.received_frames)
    };
    let ((sent, received), (echoed, taken)) = (frames("ping"), frames("echo"));
    assert_eq!((sent, received), (back + lost, echoed));
    // One may have been on its way when the other one was killed.
    assert!((back..=back + 1).contains(&echoed) && (echoed..=echoed + 1).contains(&taken), "{back}, {echoed}, {taken}");
    assert_eq!(frames("third"), (0, 0));
}

/// The network server crashes while two tenants exchange frames: it is started again, they hear of it, and go on.
#[test]
fn a_network_server_that_crashes_is_started_again_and_tenants_go_on() {
    let change = Change::set("app.echo.args=[\"role=echo\", \"for=2600\"]")
        .and_set("app.ping.args=[\"role=ping\", \"peer=02:6e:6b:00:00:01\", \"for=2500\"]")
        .event("1 s=crash-nic");
    let run = run(SCENARIO.split("    [[app]]\n    name = \"third\"").next().expect("a part of it"), &change);
    run.expect_good();
    for line in [
        "[market] the network server stopped: triple fault",
        "[market] the network server was started again",
        "[echo] the function was reset and is up again",
        "[ping] the function was reset and is up again",
    ] {
        assert!(run.console_has(line), "{line}: {:#?}", run.console);
    }
    let [echoed] = run.numbers("frames echoed");
    let [back, _, wrong, faults] = run.numbers("frames came back");
    assert!(back > 2_000 && echoed >= back, "{back} of {echoed}");
    assert_eq!((wrong, faults), (0, 0));
}

/// Who is in the same VLAN is heard, and nobody else is, also after the network server and the device were started anew: not
/// by another VLAN, and not by untagged frames.
#[test]
fn tenants_hear_those_in_their_own_vlan_only() {
    let pinger = |name: &str, vlan: &str| {
        format!(
            "[[app]]\nname = \"{name}\"\nimage = \"netbench\"\nnic = true\n{vlan}\nbudget = 1\nbase_cpu = 10\n\
             args = [\"role=ping\", \"peer=02:6e:6b:00:00:01\", \"for=2000\"]\n"
        )
    };
    let text = format!(
        "title = \"VLANs\"\nlimit = \"20 s\"\n[machine]\ncores = 1\nmemory = \"128 MiB\"\n\
         [[app]]\nname = \"echo\"\nimage = \"netbench\"\nnic = true\nvlan = 7\nbudget = 1\nbase_cpu = 10\n\
         args = [\"role=echo\", \"for=2100\"]\n{}{}{}",
        pinger("inside", "vlan = 7"),
        pinger("other", "vlan = 8"),
        pinger("untagged", "")
    );
    let run = run(&text, &Change::none().event("1200 ms=crash-nic"));
    run.expect_good();
    let heard = |name: &str| {
        let line = run.console.iter().find(|line| line.starts_with(&format!("[{name}]")) && line.contains("came back"));
        let line = line.unwrap_or_else(|| panic!("{name} says nothing: {:#?}", run.console));
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [back, lost, wrong, 0] = numbers[..] else { panic!("{line}") };
        assert_eq!(wrong, 0);
        (back, lost)
    };
    for name in ["echo", "inside", "other", "untagged"] {
        assert!(run.console_has(&format!("[{name}] the function was reset and is up again")), "{:#?}", run.console);
    }
    let [echoed] = run.numbers("frames echoed");
    let back = heard("inside").0;
    assert!(back > 500 && echoed >= back, "{back} of {echoed}");
    for name in ["other", "untagged"] {
        let (back, lost) = heard(name);
        let counts = run.app(name).network.expect("it had a function");
        assert!(lost > 50 && counts.sent_frames > lost / 2, "{name} was heard nowhere else either: {lost}, {counts:?}");
        assert_eq!((back, counts.received_frames), (0, 0), "{name}");
    }
    // After the crash it was heard, too: what was counted before it, and after it, is one sum, of which only what nobody had
    // told of before the crash lacks. A frame has a tag on its way.
    let counts = run.app("echo").network.expect("it had a function");
    let told = |frames: u64, all: u64| frames <= all && frames >= all / 4 * 3;
    assert!(told(counts.sent_frames, echoed) && told(counts.received_frames, echoed), "{counts:?} of {echoed}");
    assert!(back > run.app("inside").network.expect("it had a function").received_frames / 2);
    assert_eq!(counts.sent_octets, 264 * counts.sent_frames);
}

/// One virtual function and two tenants that bid for it; the price of their work changes twice, and with it who has the
/// function. Whoever has it drives it, and gets answers from outside, after the notice too.
#[test]
fn a_virtual_function_goes_to_who_pays_most_and_comes_back() {
    let app = |name: &str, valuation: &str| {
        format!(
            "[[app]]\nname = \"{name}\"\nimage = \"netbench\"\nnic = true\nbase_vf = 0\nbudget = 1\nvaluation = \
             {valuation}\nbase_cpu = 10\nargs = [\"role=hold\", \"for=2450\"]\n"
        )
    };
    let text = format!(
        "title = \"one function\"\nlimit = \"20 s\"\n[machine]\ncores = 1\nmemory = \"128 MiB\"\n[vf]\nsupply = 1\n\
         interval = \"400 ms\"\n{}{}",
        app("rich", "2e-5"),
        app("poor", "1e-5")
    );
    let change = Change::none().event("1000 ms=value:poor:4").event("1300 ms=value:poor:1");
    let run = run(&text, &change);
    run.expect_good();
    // Notice, then loss, then the other one's gain; in that order, and each of them uses what it has until shortly before.
    // Who has it for one interval has notice of its end before it comes.
    let told: Vec<String> = run.console.iter().filter_map(|line| about_functions(line)).collect();
    let expected = [
        "goes to rich",
        "[rich] a function has come",
        "[rich] notice",
        "[rich] let go",
        "is back from rich",
        "goes to poor",
        "[rich] the function is gone",
        "[poor] notice",
        "[poor] a function has come",
        "[poor] let go",
        "is back from poor",
        "goes to rich",
        "[poor] the function is gone",
        "[rich] a function has come",
    ];
    for (name, expected) in [("rich", &expected[..]), ("poor", &expected[..]), ("", &expected[..])] {
        let of = |line: &&str| line.starts_with('[') != name.is_empty() && (line.contains(name));
        let told: Vec<&str> = told.iter().map(String::as_str).filter(of).collect();
        let expected: Vec<&str> = expected.iter().copied().filter(of).collect();
        assert_eq!(told[..expected.len()], expected, "{:#?}", run.console);
    }
    let answers = run.console.iter().filter(|line| line.starts_with("[rich]") || line.starts_with("[poor]"));
    let answers: Vec<u64> =
        answers.filter_map(|line| line.split_once("] ")?.1.split_once(" answers")?.0.parse().ok()).collect();
    let [first, second, third, ..] = answers[..] else { panic!("{:#?}", run.console) };
    assert!(first > 100 && second > 40 && third > 40, "who has it is answered: {answers:?}");
    // The ledger says the same, at the value of who lost.
    let good = e2e::rounds::good(&run.state, "vf.nic");
    assert_eq!(e2e::rounds::holders_of_one(good), [0, 1, 0]);
    let prices: Vec<u64> = good.history.iter().map(|round| round.clearing.0).collect();
    assert!(prices.starts_with(&[10_000_000_000; 3]) && prices[3] == 20_000_000_000, "{prices:?}");
    let totals = run.state.verified.clone().expect("totals");
    assert!(totals.agree() && totals.mismatches == 0, "{totals:?}");
}

/// What a console line says about functions that change hands, without the function's number and what was counted.
fn about_functions(line: &str) -> Option<String> {
    if let Some(moved) = line.strip_prefix("[market] virtual function ") {
        let moved = moved.split_once(' ')?.1.split(',').next()?;
        return (moved.starts_with("goes to") || moved.starts_with("is back")).then(|| moved.into());
    }
    let (name, said) = line.strip_prefix('[')?.split_once("] ")?;
    let said = match said {
        _ if said.starts_with("notice after") => "notice",
        _ if said.ends_with("let go of") => "let go",
        "a function has come" | "the function is gone" => said,
        _ => return None,
    };
    (name == "rich" || name == "poor").then(|| format!("[{name}] {said}"))
}

/// A tenant whose function is told of addresses outside of its domain hears of every one that was stopped, as the market
/// does, and of how many there was no room for.
#[test]
fn a_tenant_hears_what_its_own_function_was_stopped_from() {
    let alone = SCENARIO.split("    [[app]]\n    name = \"ping\"").next().expect("a part of it");
    let run = run(alone, &Change::set("app.echo.args=[\"role=stray\"]"));
    run.expect_good();
    assert_eq!(run.end("echo"), &End::Exit { status: 0 });
    for line in [
        "[echo] before: None; after a frame at 0x40000000: Some(Stray { what: Read(40000000), reason: ",
        "[market] the IOMMU stopped a read at I/O address 0x40000000 by the function of echo",
        "[echo] of 12 more 8 kept, 4 lost",
    ] {
        assert!(run.console_has(line), "{line}: {:#?}", run.console);
    }
}

/// The same scenario on machines that lack what it needs: a refusal that says so, before any tenant runs.
#[test]
fn without_device_or_iommu_the_run_is_refused() {
    for devices in [&[][..], &["-netdev", "user,id=n0", "-device", "igb,netdev=n0"]] {
        let scenario = e2e::scenario(SCENARIO, &Change::none()).expect("a scenario");
        let devices = devices.iter().map(ToString::to_string).collect();
        let run = Machine::start_with_devices(&scenario, devices).and_then(Machine::finish).expect("a run");
        let failure = run.failure.as_deref().expect("such a run is no success");
        assert!(
            failure.contains("this scenario needs an Intel 82576 with virtual functions, behind an IOMMU"),
            "{failure}"
        );
        assert!(!run.console_has("[echo]"), "{:#?}", run.console);
    }
}

/// A peer outside of the machine, on the network that the device's cable leads to, sends frames to a tenant, and gets them
/// back.
#[test]
fn a_peer_outside_gets_its_frames_back() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(5))).expect("a time limit");
    let port = |socket: &UdpSocket| socket.local_addr().expect("an address").port();
    // The emulator takes a port that was free a moment ago.
    let theirs = port(&UdpSocket::bind("127.0.0.1:0").expect("a socket"));
    let cable = format!(
        "dgram,id=n0,local.type=inet,local.host=127.0.0.1,local.port={theirs},\
         remote.type=inet,remote.host=127.0.0.1,remote.port={}",
        port(&socket)
    );
    let alone = SCENARIO.split("    [[app]]\n    name = \"ping\"").next().expect("a part of it");
    let change = Change::set("app.echo.args=[\"role=echo\", \"for=1500\"]");
    let scenario = e2e::scenario(alone, &change).expect("a scenario");
    let machine = Machine::start_with_devices(&scenario, network::devices(&cable)).expect("a machine");
    let (echo, own) = ([2, 0x6e, 0x6b, 0, 0, 1], [2, 0, 0, 0, 0, 0x99]);
    let is_over = Arc::new(AtomicBool::new(false));
    let over = is_over.clone();
    let peer = std::thread::spawn(move || {
        let sent = [&echo[..], &own, &[0x88, 0xb5], &[0x5a; 50]].concat();
        let expected = [&own[..], &echo, &sent[12..]].concat();
        let mut answer = [0; 2048];
        let mut answers = 0;
        while !over.load(Ordering::Relaxed) {
            let _ = socket.send_to(&sent, ("127.0.0.1", theirs));
            if let Ok(length) = socket.recv(&mut answer) {
                assert_eq!(&answer[..length], &expected[..], "only what was sent to it comes back");
                answers += 1;
            }
        }
        answers
    });
    let run = machine.finish();
    is_over.store(true, Ordering::Relaxed);
    let answers: u64 = peer.join().expect("what comes back is right");
    let run = run.expect("a run");
    run.expect_good();
    let [echoed] = run.numbers("frames echoed");
    assert!(answers > 0 && echoed >= answers, "{answers} of {echoed} came back");
}
