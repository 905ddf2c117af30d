//! Each rule of a scenario, broken once.

use super::*;
use crate::report::json;
use market_mechanism::Credits;
use proto::host::Command;

const GOOD: &str = r#"
title = "two"
limit = "20 s"

[machine]
cores = 2
memory = "128 MiB"

[page]
reserve = 1.0
penalty = 2

[cpu]
reserve = 1
[cpu.1]
reserve = "2"
supply = 50

[[app]]
name = "one"
image = "digest"
budget = 5
valuation = 1e-9
core = 1
deadline = "10 s"
args = ["--fast", 3]

[[app]]
name = "two"
image = "cache"
budget = 0.5
income = 3600
starts = false

[[event]]
at = "5 s"
do = "shock:two:3:2 s"
"#;

fn images() -> Vec<String> {
    ["cache", "digest"].map(String::from).into()
}

fn read(text: &str, overrides: &Overrides) -> Result<Scenario, Refused> {
    parse(Path::new("scenarios/test.toml"), text, overrides, &images())
}

#[test]
fn a_good_scenario_becomes_a_plan() {
    let scenario = read(GOOD, &Overrides::default()).unwrap();
    let plan = &scenario.plan;
    assert_eq!((scenario.cores, scenario.memory_mib, plan.limit_ms), (2, 128, Some(20_000)));
    let goods: Vec<&str> = plan.goods.iter().map(|good| good.name.as_str()).collect();
    assert_eq!(goods, ["page", "cpu.0", "cpu.1"]);
    // One credit per GiB-hour and per core-hour, as the mechanism converts them.
    assert_eq!((plan.goods[0].reserve, plan.goods[1].reserve), (105_963, 27_777_777));
    assert_eq!(plan.goods[2].reserve, 55_555_555);
    assert_eq!((plan.goods[1].supply_limit, plan.goods[2].supply_limit), (None, Some(50)));
    assert_eq!((plan.goods[0].penalty, plan.goods[1].penalty), (2 * 105_963 + 1, 27_777_777), "else it is the reserve");
    let one = &plan.apps[0];
    assert_eq!((one.budget, one.valuation, one.core), (5 * Credits::ONE.0, 1_000_000, 1));
    assert_eq!(one.args, ["--fast", "3"]);
    assert!(one.starts && one.awaited);
    let two = &plan.apps[1];
    assert_eq!((two.income_per_second, two.starts, two.awaited), (Credits::ONE.0, false, false));
    assert_eq!(plan.events[0].command, Command::Shock { app: 1, ppm: 3_000_000, for_ms: 2000 });
}

#[test]
fn the_least_amount_that_is_named_is_the_least_that_is_accepted() {
    // An interval that does not divide the hour, and one that does.
    for interval in ["7 ms", "100 ms"] {
        let with = |reserve: &str| {
            let sets = vec![format!("page.interval={interval}"), format!("page.reserve={reserve}")];
            read(GOOD, &Overrides { sets, ..Overrides::default() })
        };
        let refused = with("1e-15").unwrap_err().to_string();
        let (_, least) = refused.rsplit_once(' ').expect("words");
        assert_eq!(with(least).expect("it is accepted").plan.goods[0].reserve, 1);
        let below = Credits(least.parse::<Credits>().expect("an amount").0 - 1).to_string();
        assert!(with(&below).unwrap_err().to_string().ends_with(least), "{below}");
    }
    let nothing = Overrides { sets: vec!["page.reserve=0".into()], ..Overrides::default() };
    assert_eq!(read(GOOD, &nothing).expect("nothing was asked for").plan.goods[0].reserve, 0);
}

#[test]
fn converted_amounts_are_told() {
    let scenario = read(GOOD, &Overrides::default()).unwrap();
    assert_eq!(
        scenario.terms(),
        "terms: page reserve 105963 fee 0 penalty 211927 base 529, \
         cpu.0 reserve 27777777 fee 0 penalty 27777777 base 1111111, \
         cpu.1 reserve 55555555 fee 0 penalty 55555555 base 1111111; \
         two income 1000000000000000 a second (1e-15 credits per unit and interval, rounded down)"
    );
    let page = &json::terms(&scenario.plan)["goods"]["page"];
    assert_eq!(
        (&page["reserve"], &page["penalty"], &page["base_price"]),
        (&105_963.into(), &211_927.into(), &529.into())
    );
    let alike = Overrides { sets: vec!["cpu.1.reserve=1".into(), "app.two.income=0".into()], ..Overrides::default() };
    let line = read(GOOD, &alike).unwrap().terms();
    assert!(
        line.contains(" base 529, cpu.0 cpu.1 reserve 27777777 fee 0 penalty 27777777 base 1111111 (1e-15 "),
        "{line}"
    );
}

#[test]
fn the_command_line_changes_it() {
    let overrides = Overrides {
        sets: vec!["app.one.valuation=0.001".into(), "page.reserve=2".into(), "app.two.image=digest".into()],
        inputs: vec!["two=@sources".into()],
        events: vec!["1s=value+:one".into(), "2s=value+:one".into()],
        seed: Some(9),
    };
    let scenario = read(GOOD, &overrides).unwrap();
    assert_eq!(scenario.plan.apps[0].valuation, 1_000_000_000_000);
    assert_eq!(scenario.plan.apps[1].image, "digest");
    assert!(scenario.plan.apps[1].has_input && !scenario.plan.apps[0].has_input);
    assert!(scenario.inputs[1].as_ref().is_some_and(|input| input.len() > 1000));
    assert_eq!(scenario.plan.seed, 9);
    let at: Vec<u64> = scenario.plan.events.iter().map(|event| event.at_ms).collect();
    assert_eq!(at, [1000, 2000, 5000]);
    assert_eq!(scenario.events, ["1s=value+:one", "2s=value+:one", "5s=shock:two:3:2 s"]);
    assert_eq!(scenario.plan.events[1].command, Command::Valuation { app: 0, ppm: 2_250_000 });
}

/// Replaces one line of the good scenario and expects the complaint at that line.
fn refuses(old: &str, new: &str, reason: &str) {
    assert!(GOOD.contains(old), "{old}");
    let text = GOOD.replacen(old, new, 1);
    let shown = read(&text, &Overrides::default()).expect_err(new).to_string();
    let line = 1 + text[..GOOD.find(old).unwrap()].matches('\n').count();
    let expected = format!("scenarios/test.toml:{line}: ");
    assert!(shown.lines().any(|found| found.starts_with(&expected) && found.contains(reason)), "{new}: {shown}");
}

#[test]
fn every_rule_is_checked_with_its_line() {
    refuses("image = \"cache\"", "image = \"cash\"", "unknown application `cash`; there are: cache, digest");
    refuses("budget = 5", "budget = -5", "negative");
    refuses("budget = 5", "budget = \"much\"", "no amount");
    refuses("budget = 5", "budget = 1e-16", "no amount");
    refuses("core = 1", "core = 2", "has 2 cores");
    refuses("core = 1", "core = -1", "not from 0");
    refuses("core = 1", "kore = 1", "unknown key `kore`");
    refuses("income = 3600", "input = \"no-such-file\"", "cannot be read");
    refuses("income = 3600", "base_pages = 40000", "base memory");
    refuses("income = 3600", "base_cpu = 79", "core 0 has 78 units of CPU time left for this base, not 79");
    refuses("deadline = \"10 s\"", "base_cpu = 95", "core 1 has 94 units");
    refuses("income = 3600", "base_cpu = 93\ncore = 1", "core 1 has 92 units");
    refuses("income = 3600", "base_cpu = 0", "not from 1");
    refuses("name = \"two\"", "name = \"one\"", "another");
    refuses("name = \"two\"", "name = \"Two!\"", "lower-case");
    refuses("deadline = \"10 s\"", "deadline = \"30 s\"", "after the run's limit");
    refuses("deadline = \"10 s\"", "deadline = 10", "duration");
    refuses("memory = \"128 MiB\"", "memory = \"8 MiB\"", "64 MiB");
    refuses("cores = 2", "cores = 0", "not from 1");
    refuses("cores = 2", "cores = 9", "not from 1 to 8");
    refuses("reserve = \"2\"", "interval = \"15 ms\"", "multiple of 10 ms");
    refuses("reserve = \"2\"", "interval = \"0 s\"", "multiple of");
    refuses("reserve = \"2\"", "interval = \"61 s\"", "at most a minute");
    refuses("reserve = \"2\"", "reserve = 999999999999", "too much");
    refuses("reserve = \"2\"", "fee = 1e-12", "`fee` of cpu.1: 0.000000000001 credits an hour is nothing");
    refuses("penalty = 2", "base_price = 0.000005", "`base_price` of page: 0.000005 credits an hour is nothing");
    refuses("income = 3600", "income = 3.599e-12", "the least that is not is 0.0000000000036");
    refuses("do = \"shock:two:3:2 s\"", "do = \"shock:three\"", "unknown application `three`");
    refuses("args = [\"--fast\", 3]", "args = \"--fast\"", "array");
}

#[test]
fn what_is_missing_is_named() {
    let shown = read("[[app]]\nimage = \"cache\"\n", &Overrides::default()).unwrap_err().to_string();
    assert!(shown.contains("test.toml:1: [[app]] has no `name`"), "{shown}");
    assert!(shown.contains("test.toml:1: [[app]] has no `budget`"), "{shown}");
    let shown = read("title = \"none\"\n", &Overrides::default()).unwrap_err().to_string();
    assert!(shown.contains("there is no [[app]]"), "{shown}");
}

#[test]
fn what_nothing_starts_is_not_awaited() {
    let text = GOOD.replace("starts = false", "starts = false\nawaited = true");
    let shown = read(&text, &Overrides::default()).unwrap_err().to_string();
    assert_eq!(shown, "scenarios/test.toml:28: `two` is awaited, but nothing starts it");
    let start = Overrides { events: vec!["1s=start:two".into()], ..Overrides::default() };
    assert!(read(&text, &start).is_ok());
}

#[test]
fn a_late_event_and_a_core_that_is_not_there_are_refused() {
    let late = Overrides { events: vec!["30s=kill:one".into()], ..Overrides::default() };
    let shown = read(GOOD, &late).unwrap_err().to_string();
    assert!(shown.starts_with("--event 30s=kill:one: ") && shown.contains("limit"), "{shown}");
    let text = GOOD.replace("[cpu.1]", "[cpu.7]");
    let shown = read(&text, &Overrides::default()).unwrap_err().to_string();
    assert!(shown.contains("test.toml:15: [cpu.7]"), "{shown}");
}

#[test]
fn wrong_arguments_are_named_as_typed() {
    for (overrides, expected) in [
        (Overrides { sets: vec!["app.one.core=9".into()], ..Overrides::default() }, "--set app.one.core=9: core 9"),
        (
            Overrides { sets: vec!["app.x.core=0".into()], ..Overrides::default() },
            "--set app.x.core=0: there is no `x`",
        ),
        (Overrides { inputs: vec!["x=y".into()], ..Overrides::default() }, "--input x=y: unknown application"),
        (Overrides { events: vec!["soon=stop".into()], ..Overrides::default() }, "--event soon=stop: "),
    ] {
        let shown = read(GOOD, &overrides).unwrap_err().to_string();
        assert!(shown.contains(expected), "{shown}");
    }
}

/// A virtual function takes a device, which the machine then has; its server, which takes CPU time of core 0; and pages.
#[test]
fn an_application_with_a_virtual_function_is_told_from_others() {
    assert!(!read(GOOD, &Overrides::default()).unwrap().has_nic());
    let with = |sets: &[&str]| {
        let sets = sets.iter().map(ToString::to_string).collect();
        read(GOOD, &Overrides { sets, ..Overrides::default() })
    };
    let scenario = with(&["app.two.nic=true", "app.two.base_pages=32"]).unwrap();
    assert!(scenario.has_nic() && scenario.plan.apps[1].nic && !scenario.plan.apps[0].nic);
    let refused = with(&["app.two.nic=true", "app.two.base_pages=31"]).unwrap_err().to_string();
    assert!(refused.contains("needs at least 32"), "{refused}");
    // 78 units are the largest base of core 0 beside the market and the console server.
    assert!(with(&["app.two.base_cpu=78"]).is_ok());
    let refused = with(&["app.two.base_cpu=78", "app.two.nic=true"]).unwrap_err().to_string();
    assert!(refused.contains("core 0 has 73 units of CPU time left"), "{refused}");
}

/// Bandwidth is a good where an application has a virtual function, with terms of its own and a base for each.
#[test]
fn bandwidth_is_sold_where_there_is_a_virtual_function() {
    assert!(read(GOOD, &Overrides::default()).unwrap().plan.goods.iter().all(|good| good.name != "bandwidth"));
    let with = |sets: &[&str]| {
        let sets =
            ["app.one.nic=true", "bandwidth.reserve=0.036"].iter().chain(sets).map(ToString::to_string).collect();
        read(GOOD, &Overrides { sets, ..Overrides::default() })
    };
    let plan = with(&["bandwidth.supply=7"]).unwrap().plan;
    let [.., good, functions] = &plan.goods[..] else { unreachable!() };
    // A function has a price for itself, by the second.
    assert_eq!((functions.name.as_str(), functions.interval_ms, functions.reserve), ("vf.nic", 1_000, 2_777_777_777));
    // 1e-6 credits a second for 1,000 units: 1e-10 for one in 100 ms.
    assert_eq!((good.name.as_str(), good.interval_ms, good.reserve), ("bandwidth", 100, 1_000_000));
    assert_eq!((good.supply_limit, plan.apps[0].base_bandwidth), (Some(7), network::BASE_BANDWIDTH));
    assert_eq!(with(&["app.one.base_bandwidth=0"]).unwrap().plan.apps[0].base_bandwidth, 0);
    let plan = with(&["app.one.vlan=4094", "app.two.nic=true", "app.two.base_pages=32"]).unwrap().plan;
    assert_eq!([plan.apps[0].vlan, plan.apps[1].vlan], [Some(4094), None]);
    for (sets, expected) in [
        (&["app.two.base_bandwidth=1"][..], "only an application with `nic = true` has some"),
        (&["app.one.base_vf=2"], "2 is not from 0 to 1"),
        (&["app.two.base_vf=0"], "only an application with `nic = true` has one"),
        (&["app.two.vlan=7"], "`vlan`: only an application with `nic = true` is in one"),
        (&["app.one.vlan=0"], "0 is not from 1 to 4094"),
        (&["app.one.vlan=4095"], "4095 is not from 1 to 4094"),
        (&["app.one.vlan=7", "app.one.port=7"], "`vlan`: the host, for which `port` is, is in no VLAN"),
        (&["app.one.base_bandwidth=951"], "951 is not from 0 to 950"),
        (
            &["app.one.base_bandwidth=900", "app.two.nic=true", "app.two.base_bandwidth=51"],
            "the network device has 50 Mb/s left for this base, not 51",
        ),
    ] {
        let refused = with(sets).unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
}

/// A namespace takes a controller, which has what the scenario says, its server, and pages.
#[test]
fn an_application_with_a_namespace_is_told_from_others() {
    use crate::storage::Medium;
    let with = |sets: &[&str]| {
        let sets = sets.iter().map(ToString::to_string).collect();
        read(GOOD, &Overrides { sets, ..Overrides::default() })
    };
    let none = with(&[]).unwrap();
    assert!(!none.has_storage() && none.storage.namespaces.is_empty());
    let pages = "app.two.base_pages=80";
    let scenario = with(&["app.two.storage=\"8 MiB\"", pages]).unwrap();
    assert!(scenario.has_storage() && scenario.plan.apps[1].storage_bytes == 8 << 20);
    assert_eq!((scenario.storage.medium, &scenario.storage.namespaces[..]), (Medium::File, &[8 << 20][..]));
    let good = scenario.plan.goods.last().unwrap();
    // 0.00011 credits per GiB-hour.
    assert_eq!((good.name.as_str(), good.interval_ms, good.base_price), ("storage", 1_000, 29_839));
    let priced = with(&["app.two.storage=\"8 MiB\"", pages, "storage.base_price=0.036", "storage.interval=\"100 ms\""]);
    let good = priced.unwrap().plan.goods.pop().unwrap();
    assert_eq!((good.interval_ms, good.base_price, good.supply_limit), (100, 976_562, Some(0)));
    let sizes = "storage.namespaces=[\"4 MiB\", \"16 MiB\"]";
    let scenario = with(&["app.two.storage=\"8 MiB\"", pages, sizes, "storage.medium=\"null\""]).unwrap();
    assert_eq!((scenario.storage.medium, &scenario.storage.namespaces[..]), (Medium::Null, &[4 << 20, 16 << 20][..]));
    for (sets, reason) in [
        (&["app.two.storage=\"8 MiB\"", "app.two.base_pages=79"][..], "`storage` needs at least 80"),
        (&["app.two.storage=\"8 MiB\"", "app.two.nic=true", "app.two.base_pages=111"], "needs at least 112"),
        (&["app.two.storage=\"1 KiB\"", pages], "must be whole pages"),
        (&["app.two.base_storage=0"], "only an application with `storage` has one"),
        (&["app.two.storage=\"17 MiB\"", pages, sizes], "no namespace is as large"),
        (&["app.two.storage=\"1 MiB\"", pages, "storage.medium=\"tape\""], "must be \"file\" or \"null\""),
        (&["app.two.storage=\"1 MiB\"", pages, "storage.namespaces=[\"0 KiB\"]"], "is no size"),
        (&["app.two.storage=\"1 MiB\"", pages, "app.two.base_cpu=78"], "core 0 has 73 units of CPU time left"),
    ] {
        let refused = with(sets).unwrap_err().to_string();
        assert!(refused.contains(reason), "{refused}");
    }
}

/// What namespaces have besides bases is for sale, if anybody is to buy one.
#[test]
fn namespaces_are_sold_to_who_has_none_in_its_base() {
    let with = |sets: &[&str]| {
        let first = ["app.one.storage=\"1 MiB\"", "app.one.base_pages=96", "app.two.base_pages=96"];
        let two = ["app.two.storage=\"5 MiB\"", "app.two.base_storage=0"];
        let sets = first.iter().chain(&two).chain(sets).map(ToString::to_string).collect();
        read(GOOD, &Overrides { sets, ..Overrides::default() })
    };
    let supply = |sets: &[&str]| {
        let plan = with(sets).unwrap().plan;
        assert_eq!(plan.apps.iter().map(|app| app.base_storage).collect::<Vec<_>>(), [true, false]);
        plan.goods.last().unwrap().supply_limit
    };
    assert_eq!(supply(&[]), Some(5));
    let three = "storage.namespaces=[\"1 MiB\", \"5 MiB\", \"7 MiB\"]";
    assert_eq!((supply(&[three]), supply(&[three, "storage.supply=5"])), (Some(12), Some(5)));
    for (sets, problem) in [
        (&[three, "storage.supply=13"][..], "the namespaces have 12 MiB besides bases, not 13"),
        (&["app.one.base_storage=2"], "2 is not from 0 to 1"),
    ] {
        let refused = with(sets).unwrap_err().to_string();
        assert!(refused.contains(problem), "{refused}");
    }
}

/// Operations are a good where somebody's are limited, with terms of their own.
#[test]
fn operations_are_sold_where_they_are_limited() {
    let with = |sets: &[&str]| {
        let first = ["app.one.storage=\"1 MiB\"", "app.one.base_pages=96", "iops.reserve=0.036"];
        let sets = first.iter().chain(sets).map(ToString::to_string).collect();
        read(GOOD, &Overrides { sets, ..Overrides::default() })
    };
    let free = with(&[]).unwrap().plan;
    assert_eq!((free.apps[0].base_iops, free.goods.last().unwrap().name.as_str()), (None, "storage"));
    let plan = with(&["app.one.base_iops=20", "iops.supply=7"]).unwrap().plan;
    let good = &plan.goods[plan.goods.len() - 2];
    // A thousand a second are ten units.
    assert_eq!((good.name.as_str(), good.interval_ms, good.reserve), ("iops", 100, 100_000_000));
    assert_eq!((good.supply_limit, plan.apps[0].base_iops, plan.apps[1].base_iops), (Some(7), Some(20), None));
    for (sets, problem) in [
        (&["app.two.base_iops=1"][..], "only an application with `storage` has some"),
        (&["app.one.base_iops=10001"], "10001 is not from 0 to 10000"),
        (
            &["app.one.base_iops=9000", "app.two.storage=\"1 MiB\"", "app.two.base_pages=96", "app.two.base_iops=1001"],
            "has 1000 units of operations left for this base",
        ),
    ] {
        let problems = with(sets).unwrap_err().to_string();
        assert!(problems.contains(problem), "{problems}");
    }
}
