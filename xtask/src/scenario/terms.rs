//! The operator's terms: read as people write them, per hour, and converted to what the market counts, 1e-15 credits per
//! unit and interval. The conversion rounds down, and nothing that was asked for becomes nothing unsaid.

use super::core_time::Servers;
use super::reader::{Placed, Problems, Section};
use super::tree::Place;
use market_mechanism::Credits;
use market_mechanism::types::{
    MIB_PER_GIB, PAGES_PER_GIB, Price, UNITS_PER_CORE, UNITS_PER_GIGABIT, UNITS_PER_THOUSAND,
};
use proto::nic::{BANDWIDTH_GOOD, VF_GOOD};
use proto::plan::{App, Good, Plan};
use proto::storage::{IOPS_GOOD, STORAGE_GOOD};

/// CPU time is sold by frames of this length, so that its intervals are multiples of it.
const CPU_FRAME_MS: u64 = 10;
/// Longest interval of a good.
const MAX_INTERVAL_MS: u64 = 60_000;
const SECONDS_PER_HOUR: i128 = 3600;

/// A good's terms as the scenario writes them.
#[derive(Clone, Copy)]
struct Terms {
    interval_ms: u32,
    reserve: Placed<Credits>,
    fee: Placed<Credits>,
    penalty: Option<Placed<Credits>>,
    base_price: Placed<Credits>,
    supply_limit: Option<u32>,
}

/// Reads `[page]`, `[cpu]`, with `[cpu.N]` for what is different on core N, `[bandwidth]` and `[vf]`, which are goods if the
/// machine has a network device, `[iops]`, which is one if reads and writes of an application are limited, and what `[storage]`
/// says of the price of namespaces, which are one if it has a controller.
pub fn goods(
    top: &mut Section<'_>,
    storage: &mut Section<'_>,
    cores: u16,
    has: Servers,
    problems: &Problems,
) -> Vec<Good> {
    let micro = |count: i128| Placed { value: Credits(count * Credits::ONE.0 / 1_000_000), place: Place::Line(1) };
    // About what clouds ask for a GiB-hour, a core-hour, a Gb/s-hour, a network card for an hour, a thousand reads and writes a
    // second for an hour and a GiB-hour on a disk; the reserve is half of it.
    let page = Terms {
        interval_ms: 100,
        reserve: micro(2_500),
        fee: micro(0),
        penalty: None,
        base_price: micro(5_000),
        supply_limit: None,
    };
    let cpu = Terms { interval_ms: 10, reserve: micro(20_000), base_price: micro(40_000), ..page };
    let bandwidth = Terms { reserve: micro(10_000), base_price: micro(20_000), ..page };
    let vf = Terms { interval_ms: 1_000, ..bandwidth };
    let page_terms = page;
    let mut section = Section::new("[page]", top.node("page"), problems);
    let page = terms(&mut section, page, 1, problems);
    section.finish();
    let mut goods = vec![good("page".into(), page, PAGES_PER_GIB, problems)];

    let mut section = Section::new("[cpu]", top.node("cpu"), problems);
    let own = section.take_where(|key| key.bytes().all(|byte| byte.is_ascii_digit()));
    let cpu = terms(&mut section, cpu, CPU_FRAME_MS, problems);
    section.finish();
    let mut each = vec![cpu; usize::from(cores)];
    for (key, node) in own {
        let name = format!("[cpu.{key}]");
        let place = node.place;
        let mut section = Section::new(&name, Some(node), problems);
        let terms = terms(&mut section, cpu, CPU_FRAME_MS, problems);
        section.finish();
        match key.parse::<usize>().ok().and_then(|core| each.get_mut(core)) {
            Some(slot) => *slot = terms,
            None => problems.add(place, format!("{name}: the machine has {cores} cores, counted from 0")),
        }
    }
    for (core, terms) in each.into_iter().enumerate() {
        goods.push(good(format!("cpu.{core}"), terms, UNITS_PER_CORE, problems));
    }
    let mut section = Section::new("[bandwidth]", top.node("bandwidth"), problems);
    let bandwidth = terms(&mut section, bandwidth, 1, problems);
    section.finish();
    let mut section = Section::new("[vf]", top.node("vf"), problems);
    let vf = terms(&mut section, vf, 1, problems);
    section.finish();
    let mut section = Section::new("[iops]", top.node("iops"), problems);
    let iops = Terms { reserve: micro(3_500), base_price: micro(7_000), ..page_terms };
    let iops = terms(&mut section, iops, 1, problems);
    section.finish();
    let space = Terms { reserve: micro(55), base_price: micro(110), ..page_terms };
    let space = terms(storage, Terms { interval_ms: 1_000, ..space }, 1, problems);
    if has.nic {
        goods.push(good(BANDWIDTH_GOOD.into(), bandwidth, UNITS_PER_GIGABIT, problems));
        goods.push(good(VF_GOOD.into(), vf, 1, problems));
    }
    if has.limits {
        goods.push(good(IOPS_GOOD.into(), iops, UNITS_PER_THOUSAND, problems));
    }
    if has.storage {
        goods.push(good(STORAGE_GOOD.into(), space, MIB_PER_GIB, problems));
    }
    goods
}

/// The length of an interval, a multiple of `step_ms`.
fn interval(section: &mut Section<'_>, default_ms: u32, step_ms: u64, problems: &Problems) -> u32 {
    let interval = section.milliseconds("interval").map_or(u64::from(default_ms), |interval| {
        if !(1..=MAX_INTERVAL_MS).contains(&interval.value) || !interval.value.is_multiple_of(step_ms) {
            let reason = format!("an interval is a multiple of {step_ms} ms, at most a minute");
            problems.add(interval.place, reason);
        }
        interval.value
    });
    interval.min(MAX_INTERVAL_MS) as u32
}

/// What the operator asks for a good whose interval is a multiple of `step_ms`.
fn terms(section: &mut Section<'_>, default: Terms, step_ms: u64, problems: &Problems) -> Terms {
    Terms {
        interval_ms: interval(section, default.interval_ms, step_ms, problems),
        reserve: section.credits("reserve").unwrap_or(default.reserve),
        fee: section.credits("fee").unwrap_or(default.fee),
        penalty: section.credits("penalty").or(default.penalty),
        base_price: section.credits("base_price").unwrap_or(default.base_price),
        supply_limit: section
            .integer("supply", 0..=i64::from(u32::MAX))
            .map_or(default.supply_limit, |units| u32::try_from(units.value).ok()),
    }
}

fn good(name: String, terms: Terms, units: u32, problems: &Problems) -> Good {
    let interval_ns = u64::from(terms.interval_ms) * 1_000_000;
    let convert = |per_hour: Credits| Price::from_per_hour(per_hour, units, interval_ns);
    let price = |what: &str, per_hour: Placed<Credits>| {
        let Placed { value, place } = per_hour;
        let price = convert(value);
        match price {
            None => problems.add(place, format!("`{what}` of {name}: {value} credits an hour is too much")),
            Some(Price::ZERO) if value > Credits::ZERO && interval_ns > 0 => {
                // Rounded down, unless the interval divides the hour.
                let about = Price(1).per_hour(units, interval_ns);
                let least = if convert(about) == Some(Price::ZERO) { Credits(about.0 + 1) } else { about };
                let reason = format!(
                    "`{what}` of {name}: {value} credits an hour is nothing when it is rounded down to 1e-15 credits \
                     per unit and interval; the least that is not is {least}"
                );
                problems.add(place, reason);
            }
            Some(_) => {}
        }
        price.map_or(0, |price| price.0)
    };
    let reserve = price("reserve", terms.reserve);
    Good {
        interval_ms: terms.interval_ms,
        reserve,
        fee: price("fee", terms.fee),
        penalty: terms.penalty.map_or(reserve, |penalty| price("penalty", penalty)),
        base_price: price("base_price", terms.base_price),
        supply_limit: terms.supply_limit,
        name,
    }
}

/// 1e-15 credits a second of an income, which is written per hour, like prices.
pub fn income(per_hour: Placed<Credits>, problems: &Problems) -> i128 {
    let Placed { value, place } = per_hour;
    let per_second = value.0 / SECONDS_PER_HOUR;
    if per_second == 0 && value > Credits::ZERO {
        let least = Credits(SECONDS_PER_HOUR);
        let reason = format!(
            "`income`: {value} credits an hour is nothing when it is rounded down to 1e-15 credits a second; the least \
             that is not is {least}"
        );
        problems.add(place, reason);
    }
    per_second
}

/// See [`super::Scenario::terms`]. Neighbours with the same terms share them.
pub fn line(plan: &Plan) -> String {
    let mut groups: Vec<(Vec<&str>, String)> = Vec::new();
    for good in &plan.goods {
        let Good { reserve, fee, penalty, base_price, .. } = good;
        let said = format!("reserve {reserve} fee {fee} penalty {penalty} base {base_price}");
        match groups.last_mut() {
            Some((names, same)) if *same == said => names.push(&good.name),
            _ => groups.push((vec![&good.name], said)),
        }
    }
    let groups: Vec<String> = groups.iter().map(|(names, said)| format!("{} {said}", names.join(" "))).collect();
    let income = |app: &App| match (app.income_per_second, app.income_covers_base) {
        (0, false) => String::new(),
        (0, true) => format!("; {} income what its base costs", app.name),
        (income, false) => format!("; {} income {income} a second", app.name),
        (income, true) => format!("; {} income {income} a second, or what its base costs if that is more", app.name),
    };
    let incomes: String = plan.apps.iter().map(income).collect();
    format!("terms: {}{incomes} (1e-15 credits per unit and interval, rounded down)", groups.join(", "))
}
