//! Namespaces and virtual functions of an NVMe controller, handed out by the market: read and written by their holders with no
//! exit, taken back, erased, handed out again.

use cap_spec::abi::StopReason;
use e2e::{Change, Machine, run};
use proto::host::End;
use proto::start::DOORBELLS;
use std::collections::BTreeMap;

/// One application that checks every byte.
const CHECK: &str = r#"
    title = "blocks"
    limit = "5 s"
    [machine]
    cores = 1
    memory = "128 MiB"
    [[app]]
    name = "bench"
    image = "blkbench"
    storage = "1 MiB"
    budget = 1
    base_cpu = 40
    base_pages = 96
    args = ["role=check", "operations=96"]
"#;

#[test]
fn an_application_reads_and_writes_its_own_namespace_with_no_exit() {
    let run = run(CHECK, &Change::none());
    run.expect_good();
    assert_eq!(run.end("bench"), &End::Exit { status: 0 });
    assert!(run.console_has("storage function 0 is ready for bench: namespace 1, 1024 KiB"), "{:#?}", run.console);
    let [done, exits, _] = run.numbers("read or written and right");
    // Two orders, three modes, four depths, reads and writes; and all pages three times.
    assert_eq!((done, exits), (3 * 256 + 48 * 96, 0));
    assert_eq!(run.numbers("impossible ends"), [0]);
}

/// One namespace for two tenants. The first one is killed while it reads and writes; the second one, which has waited for it,
/// finds nothing but zeroes.
#[test]
fn a_namespace_is_erased_before_the_next_holder_gets_it() {
    let keep = CHECK.replace("args = [\"role=check\", \"operations=96\"]", "args = [\"role=keep\", \"for=10000\"]");
    let next = keep.split("[[app]]").nth(1).expect("an application").replace("\"bench\"", "\"next\"");
    let next = next.replace("10000", "100").replace("base_cpu = 40", "base_cpu = 20");
    let scenario = format!("{keep}    [[app]]{next}    [storage]\n    namespaces = [\"1 MiB\"]\n");
    let run = run(&scenario, &Change::set("app.next.base_cpu=10").event("700 ms=kill:bench"));
    run.expect_good();
    assert_eq!(run.end("bench"), &End::Killed);
    for line in [
        "[market] storage device: ready, 1 namespaces",
        "[market] storage function 0 is ready for bench: namespace 1, 1024 KiB",
        "[market] storage function 0 is back from bench",
        "[market] storage function 0: its namespace is erased",
        "[market] storage function 0 is ready for next: namespace 1, 1024 KiB",
        "[next] 256 pages are zero",
    ] {
        assert!(run.console_has(line), "{line}: {:#?}", run.console);
    }
    assert_eq!(run.end("next"), &End::Exit { status: 0 });
}

/// The storage server crashes while a tenant reads and writes: it is started again and adopts the controller, and the tenant
/// hears of it and goes on. What comes after is served as before.
#[test]
fn a_storage_server_that_crashes_is_started_again_and_tenants_go_on() {
    let keep = CHECK.replace("args = [\"role=check\", \"operations=96\"]", "args = [\"role=keep\", \"for=900\"]");
    let next = keep.split("[[app]]").nth(1).expect("an application").replace("\"bench\"", "\"next\"");
    let next = next.replace("for=900", "for=100").replace("base_cpu = 40", "base_cpu = 20");
    let scenario = format!("{keep}    [[app]]{next}    starts = false\n    awaited = true\n");
    let change = Change::none().event("600 ms=crash-storage").event("700 ms=start:next");
    let run = run(&scenario, &change);
    run.expect_good();
    for line in [
        "[market] the storage server stopped: triple fault",
        "[bench] the storage server was started again",
        "[market] storage function 1 is ready for next",
    ] {
        assert!(run.console_has(line), "{line}: {:#?}", run.console);
    }
    let ready = run.console.iter().filter(|line| line.contains("storage device: ready, 2 namespaces")).count();
    assert_eq!(ready, 2, "{:#?}", run.console);
    assert!(!run.console_has("storage device: it was reset"), "{:#?}", run.console);
    let [rounds, renewed] = run.numbers("times read and right");
    assert!(rounds > 5 && renewed == 0, "{rounds}, {renewed}");
    assert_eq!((run.end("bench"), run.end("next")), (&End::Exit { status: 0 }, &End::Exit { status: 0 }));
}

/// The same, but the controller is off: it has to be reset, and all queues are gone. The tenant hears of it, what was under
/// way fails, and new queues work as the old ones did, in a namespace with nothing but zeroes. So it goes twice.
#[test]
fn a_controller_that_was_lost_comes_back_with_new_queues_for_those_who_have_some() {
    let keep = CHECK.replace("args = [\"role=check\", \"operations=96\"]", "args = [\"role=keep\", \"for=1500\"]");
    let run = run(&keep, &Change::none().event("600 ms=fail-storage").event("1000 ms=fail-storage"));
    run.expect_good();
    let lines = |text: &str| run.console.iter().filter(|line| line.contains(text)).count();
    let counts =
        ["storage device: it was reset", "storage function 0 is ready for bench", "256 pages are zero"].map(lines);
    assert_eq!(counts, [2, 3, 3], "{:#?}", run.console);
    let [rounds, renewed] = run.numbers("times read and right");
    assert!(rounds > 5 && renewed == 2, "{rounds}, {renewed}");
    assert_eq!(run.end("bench"), &End::Exit { status: 0 });
}

/// One tenant loses its namespace with its queues while it reads, and gets another one, with nothing but zeroes; twice, of
/// which the second time the storage server crashes when it is to take it. The neighbour notices nothing.
#[test]
fn a_namespace_is_revoked_and_renewed_while_the_neighbour_goes_on() {
    let keep = CHECK.replace("args = [\"role=check\", \"operations=96\"]", "args = [\"role=keep\", \"for=1600\"]");
    let other = keep.split("[[app]]").nth(1).expect("an application").replace("\"bench\"", "\"other\"");
    let scenario = format!("{keep}    [[app]]{}", other.replace("base_cpu = 40", "base_cpu = 20"));
    let change = Change::none().event("600 ms=revoke-storage:bench").event("1000 ms=revoke-storage:bench");
    let run = run(&scenario, &change.event("1099 ms=crash-storage"));
    run.expect_good();
    let lines = |text: &str| run.console.iter().filter(|line| line.contains(text)).count();
    assert_eq!(lines("the namespace of bench is taken"), 2, "{:#?}", run.console);
    assert_eq!(lines("the storage server stopped"), 1);
    assert_eq!(["[bench] 256 pages are zero", "[other] 256 pages are zero"].map(lines), [3, 1], "{:#?}", run.console);
    let read = |app: &str| run.console.iter().find(|line| line.contains(app) && line.contains("times read and right"));
    let bench = read("[bench]").expect("it has read");
    assert!(bench.ends_with(", 2 times with new queues"), "{bench}");
    let other = read("[other]").expect("the other one has read");
    assert!(other.ends_with(", 0 times with new queues"), "{other}");
    assert_eq!((run.end("bench"), run.end("other")), (&End::Exit { status: 0 }, &End::Exit { status: 0 }));
}

/// A scenario of a tenant that checks its namespace all the time, and what makes further applications for it, of a name,
/// an image and arguments.
fn keeper() -> (String, impl Fn(&str, &str, &str) -> String) {
    let keep = CHECK.replace("args = [\"role=check\", \"operations=96\"]", "args = [\"role=keep\", \"for=1800\"]");
    let keep = keep.replace("base_cpu = 40", "base_cpu = 20");
    let one = keep.split("[[app]]").nth(1).expect("an application").to_owned();
    let app = move |name: &str, image: &str, args: &str| {
        let app = one.replace("\"bench\"", &format!("\"{name}\""));
        app.replace("blkbench", image).replace("role=keep\", \"for=1800", args)
    };
    (keep, app)
}

/// An attacker with a namespace beside a tenant that checks its own one all the time: data outside of what its function
/// reaches, others' namespaces, commands of all kinds, the admin doorbell, and the end of everything that it is made of
/// while commands are under way. Its function and its namespace then go to a third one, which finds nothing but zeroes.
/// Others touch the pages beside the doorbells: registers and the table of messages.
#[test]
fn hostile_commands_reach_nothing_and_the_neighbour_goes_on() {
    let (keep, app) = keeper();
    let attacker = app("attacker", "hostile_storage", "rings=100") + "    awaited = false\n";
    // One after the other, as there are functions.
    let touchers = ["registers", "table-read", "table-write"].map(|touch| {
        let app = app(touch, "hostile_storage", &format!("touch={touch}")).replace("base_cpu = 20", "base_cpu = 3");
        format!("    [[app]]{app}    awaited = false\n")
    });
    let touchers = touchers.concat();
    let next = app("next", "blkbench", "role=keep\", \"for=100") + "    starts = false\n    awaited = true\n";
    let scenario = format!(
        "{keep}    [[app]]{attacker}{touchers}    [[app]]{next}    [storage]\n    \
         namespaces = [\"1 MiB\", \"1 MiB\", \"1 MiB\"]\n"
    );
    let run = run(&scenario, &Change::none().event("1500 ms=start:next"));
    run.expect_good().expect_shares();
    for line in [
        "0 ended wrongly, data whole: true",
        "the admin doorbell was rung 100 times",
        "the IOMMU stopped a write at I/O address 0x0 by the function of attacker",
        "storage function 1 is back from attacker",
        "storage function 1: its namespace is erased",
        "[next] 256 pages are zero",
    ] {
        assert!(run.console_has(line), "{line}: {:#?}", run.console);
    }
    assert_eq!(run.end("attacker"), &End::Stopped);
    for (toucher, page) in
        [("registers", DOORBELLS - 4096), ("table-read", DOORBELLS + 4096), ("table-write", DOORBELLS + 4096)]
    {
        let End::Fault { reason, detail, .. } = run.end(toucher) else { panic!("{:?}", run.end(toucher)) };
        assert_eq!((*reason, detail[0]), (StopReason::NestedFault as u8, page), "{toucher}: {detail:x?}");
        assert_eq!(detail[1] & 2 != 0, toucher == "table-write", "{toucher}: {detail:x?}");
    }
    assert_eq!((run.end("bench"), run.end("next")), (&End::Exit { status: 0 }, &End::Exit { status: 0 }));
    let [rounds, renewed] = run.numbers("times read and right");
    assert!(rounds > 5 && renewed == 0, "{rounds}, {renewed}");
}

/// A tenant takes each part of what its function reaches back while the function reads and writes it and the admin
/// queue runs: data, rings, and the tables of its window. What is stopped is told, whoever has the memory next is not
/// written to, the neighbour's data are right, and the function goes to the next one.
#[test]
fn what_a_function_uses_is_revoked_part_by_part_and_nobody_is_harmed() {
    let (keep, app) = keeper();
    let revoker = app("revoker", "hostile_storage", "revoke=1");
    let next = app("next", "blkbench", "role=keep\", \"for=100") + "    starts = false\n    awaited = true\n";
    let scenario =
        format!("{keep}    [[app]]{revoker}    [[app]]{next}    [storage]\n    namespaces = [\"1 MiB\", \"1 MiB\"]\n");
    let run = run(&scenario, &Change::none().event("1200 ms=start:next"));
    run.expect_good().expect_shares();
    for part in ["data", "a table of pages", "a table of tables", "the rings"] {
        let line = format!("[revoker] {part} revoked in use: memory clean: true, then kept: true");
        assert!(run.console_has(&line), "{line}: {:#?}", run.console);
    }
    for line in [
        // The first page of data, which was taken first; then commands, which no table leads to any more.
        "the IOMMU stopped a write at I/O address 0x40004000 by the function of revoker",
        "the IOMMU stopped a read at I/O address 0x40000000 by the function of revoker",
        "storage function 1 is back from revoker",
        "storage function 1: its namespace is erased",
        "[next] 256 pages are zero",
    ] {
        assert!(run.console_has(line), "{line}: {:#?}", run.console);
    }
    for app in ["bench", "revoker", "next"] {
        assert_eq!(run.end(app), &End::Exit { status: 0 }, "{app}");
    }
    let [rounds, renewed] = run.numbers("times read and right");
    assert!(rounds > 5 && renewed == 0, "{rounds}, {renewed}");
}

/// On machines that lack what the scenario needs: a refusal that says so, before any tenant runs.
#[test]
fn without_device_or_iommu_the_run_is_refused() {
    let functions = "nvme,id=nv0,bus=rp1,serial=n,subsys=ss0,sriov_max_vfs=1,sriov_vq_flexible=3,sriov_vi_flexible=1,\
                     max_ioqpairs=5,msix_qsize=3";
    let port = "pcie-root-port,id=rp1,chassis=2,slot=2";
    for devices in
        [&[][..], &["-device", port, "-device", "nvme-subsys,id=ss0", "-device", functions]].map(|words| words.to_vec())
    {
        let scenario = e2e::scenario(CHECK, &Change::none()).expect("a scenario");
        let devices = devices.iter().map(ToString::to_string).collect();
        let run = Machine::start_with_devices(&scenario, devices).and_then(Machine::finish).expect("a run");
        let failure = run.failure.as_deref().expect("such a run is no success");
        let reason = "this scenario needs an NVMe controller with virtual functions, behind an IOMMU";
        assert!(failure.contains(reason), "{failure}");
        assert!(!run.console_has("[bench]"), "{:#?}", run.console);
    }
}

/// On a medium that takes no time: what an operation costs the application itself.
#[test]
fn an_operation_costs_the_application_few_instructions_and_no_exit() {
    let change =
        Change::set("app.bench.args=[\"role=measure\", \"operations=512\"]").and_set("storage.medium=\"null\"");
    let run = run(CHECK, &change);
    run.expect_good();
    let lines: Vec<&String> = run.console.iter().filter(|line| line.contains("instructions each")).collect();
    assert_eq!(lines.len(), 12, "{:#?}", run.console);
    let mut interrupts = BTreeMap::new();
    for line in lines {
        println!("{line}");
        let words: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let &[instructions, exits, _, taken, 512] = &words[..] else { panic!("{line}") };
        assert_eq!(exits, 0, "{line}");
        assert!(instructions < 330, "{line}");
        let mode = line.split_once(" by ").and_then(|(_, rest)| rest.split_once(',')).expect("a mode").0;
        *interrupts.entry(mode).or_insert(0) += taken;
    }
    // By how many interrupts it learns of ends is its choice. How soon the emulator ends a command is the host's affair, so that
    // of who adapts nothing can be said but that it works.
    assert_eq!(interrupts["poll"], 0);
    assert!(interrupts["interrupt"] > 0, "{interrupts:?}");
}
