//! Records and results as JSON. The schema is `docs/result.md`; amounts are decimal strings of credits, so that no
//! reader rounds them.

use crate::run_state::{AppState, GoodState, Phase, RunState, Sample};
use crate::view::ending;
use market_mechanism::Credits;
use proto::host::{End, Record};
use proto::nic::Counts;
use proto::plan::{Good, Plan};
use serde_json::{Map, Value, json};

fn credits(amount: i128) -> String {
    Credits(amount).to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn good(state: &RunState, good: u16) -> &str {
    state.goods.get(usize::from(good)).map_or("?", |good| good.name.as_str())
}

/// Holdings by application, only those that hold something.
fn holdings(state: &RunState, units: &[u32]) -> Value {
    let held = state.apps.iter().zip(units).filter(|(_, units)| **units > 0);
    Value::Object(held.map(|(app, units)| (app.name.clone(), json!(units))).collect::<Map<_, _>>())
}

/// The terms of a run as the market counts them.
pub fn terms(plan: &Plan) -> Value {
    let good = |good: &Good| {
        let terms = json!({ "interval_ms": good.interval_ms, "reserve": good.reserve, "fee": good.fee,
            "penalty": good.penalty, "base_price": good.base_price });
        (good.name.clone(), terms)
    };
    let goods: Map<_, _> = plan.goods.iter().map(good).collect();
    let income = plan.apps.iter().map(|app| (app.name.clone(), json!(credits(app.income_per_second))));
    json!({ "kind": "terms", "goods": goods, "income_per_second": income.collect::<Map<_, _>>() })
}

/// A record as an object, or `None` for the contents of files, which are written to files.
pub fn record(state: &RunState, record: &Record) -> Option<Value> {
    let name = |app: &u16| state.sender(*app).to_string();
    Some(match record {
        Record::Begin { version, tsc_hz, cores, restarts, supply, bases } => {
            let by_good = |units: &[u32]| {
                let named = state.goods.iter().zip(units).map(|(good, units)| (good.name.clone(), json!(units)));
                Value::Object(named.collect())
            };
            json!({ "kind": "begin", "version": version, "tsc_hz": tsc_hz, "cores": cores, "restarts": restarts,
                "supply": by_good(supply), "bases": by_good(bases) })
        }
        Record::Round { t, good: number, round, ask, clearing, supply, sold, holdings: units, paid } => {
            let per_hour = |price: u64| {
                state.goods.get(usize::from(*number)).map(|good| good.per_hour(price_of(price)).to_string())
            };
            json!({ "kind": "round", "t_us": t, "good": good(state, *number), "round": round,
                "ask": ask, "clearing": clearing, "ask_per_hour": per_hour(*ask),
                "clearing_per_hour": per_hour(*clearing), "supply": supply, "sold": sold,
                "holdings": holdings(state, units), "paid": credits(*paid) })
        }
        Record::Account { t, app, balance, escrow, paid } => {
            json!({ "kind": "account", "t_us": t, "app": name(app), "balance": credits(*balance),
                "escrow": credits(*escrow), "paid": credits(*paid) })
        }
        Record::Progress { t, app, done, total } => {
            json!({ "kind": "progress", "t_us": t, "app": name(app), "done": done, "total": total })
        }
        Record::Hits { t, app, hits, accesses } => {
            json!({ "kind": "hits", "t_us": t, "app": name(app), "hits": hits, "accesses": accesses })
        }
        Record::Line { t, app, text } => json!({ "kind": "line", "t_us": t, "app": name(app), "text": text }),
        Record::FileBegin { .. } | Record::FileData { .. } => return None,
        Record::FileEnd { app, file, bytes, sha256 } => {
            let files = state.apps.get(usize::from(*app)).map(|app| app.files.as_slice()).unwrap_or_default();
            let file = files.iter().find(|known| known.number == *file).map(|known| known.name.clone());
            json!({ "kind": "file", "app": name(app), "name": file, "bytes": bytes, "sha256": hex(sha256) })
        }
        Record::Started { t, app, base_pages } => {
            json!({ "kind": "started", "t_us": t, "app": name(app), "base_pages": base_pages })
        }
        Record::Ended { t, app, end, paid, .. } => {
            json!({ "kind": "ended", "t_us": t, "app": name(app), "end": end_object(end), "work": state.done(*app),
                "paid": credits(*paid) })
        }
        Record::Used { t, app, ticks } => json!({ "kind": "used", "t_us": t, "app": name(app), "ticks": ticks }),
        Record::Network { t, app, counts } => {
            let mut network = network(counts);
            network["kind"] = json!("network");
            network["t_us"] = json!(t);
            network["app"] = json!(name(app));
            network
        }
        Record::Totals { t, .. } => {
            let mut totals = totals(state);
            totals["kind"] = json!("totals");
            totals["t_us"] = json!(t);
            totals
        }
        Record::End { t, status, reason } => {
            json!({ "kind": "end", "t_us": t, "status": status, "reason": reason })
        }
        Record::Bench { operation, instructions, kernel, exits, writes, interrupts } => {
            json!({ "kind": "bench", "operation": operation, "instructions": instructions,
                "kernel_instructions": kernel, "exits": exits, "writes_per_1000": writes, "interrupts_per_1000": interrupts })
        }
    })
}

/// What an application has sent and received.
fn network(counts: &Counts) -> Value {
    json!({
        "sent_frames": counts.sent_frames, "sent_octets": counts.sent_octets,
        "received_frames": counts.received_frames, "received_octets": counts.received_octets,
        "received_multicasts": counts.received_multicasts,
        "dropped_frames": counts.dropped_frames, "forged_frames": counts.forged_frames,
    })
}

fn price_of(price: u64) -> market_mechanism::Price {
    market_mechanism::Price(price)
}

fn end_object(end: &End) -> Value {
    let kind = match end {
        End::Exit { .. } => "exit",
        End::Fault { .. } => "fault",
        End::Killed => "killed",
        End::Unpaid => "unpaid",
        End::RunOver => "run_over",
        End::Destroyed => "destroyed",
        End::Stopped => "stopped",
    };
    let mut object = json!({ "kind": kind, "text": ending(end) });
    match end {
        End::Exit { status } => object["status"] = json!(status),
        End::Fault { reason, detail, registers } => {
            object["reason"] = json!(reason);
            object["detail"] = json!(detail);
            let named = crate::view::REGISTER_NAMES.iter().zip(registers);
            let named = named.map(|(name, value)| (name.to_string(), json!(format!("{value:#x}"))));
            object["registers"] = Value::Object(named.collect());
        }
        End::Killed | End::Unpaid | End::RunOver | End::Destroyed | End::Stopped => {}
    }
    object
}

fn totals(state: &RunState) -> Value {
    match &state.verified {
        None => json!({}),
        Some(verified) => json!({
            "intervals": verified.intervals, "sum": verified.sum.to_string(), "expected": verified.expected.to_string(),
            "leased": verified.leased, "existing": verified.existing, "mismatches": verified.mismatches,
            "skipped": verified.skipped,
            "worst_shortfall_ticks": verified.worst_shortfall, "longest_hold_ticks": verified.longest_hold,
            "slowest_notice_ticks": verified.slowest_notice, "slowest_cut_ticks": verified.slowest_cut,
            "agree": verified.agree(),
        }),
    }
}

/// The whole run: what `target/run/result.json` holds.
pub fn result(state: &RunState, scenario: &str, seed: u64, wall_seconds: f64, failure: Option<&str>) -> Value {
    json!({
        "scenario": scenario,
        "seed": seed,
        "status": if failure.is_none() { "ok" } else { "failed" },
        "failure": failure,
        "virtual_ms": state.now / 1000,
        "wall_seconds": (wall_seconds * 1000.0).round() / 1000.0,
        "tsc_hz": state.tsc_hz,
        "restarts": state.restarts,
        "rounds": state.rounds,
        "missed_events": state.missed_events(),
        "apps": state.apps.iter().map(|app| app_object(state, app)).collect::<Vec<_>>(),
        "goods": state.goods.iter().map(|good| good_object(state, good)).collect::<Vec<_>>(),
        "totals": totals(state),
        "bench": state.bench.iter().map(|row| json!({ "operation": row.operation, "instructions": row.instructions,
            "kernel_instructions": row.kernel, "writes_per_1000": row.writes, "interrupts_per_1000": row.interrupts,
            "exits": row.exits })).collect::<Vec<_>>(),
    })
}

fn app_object(state: &RunState, app: &AppState) -> Value {
    let end = match &app.phase {
        Phase::Waiting => json!({ "kind": "not_started", "text": "not started" }),
        Phase::Running => json!({ "kind": "running", "text": "running when the machine went off" }),
        Phase::Ended(end) => end_object(end),
    };
    let exits = app.totals.exits.iter().enumerate().filter(|(_, count)| **count > 0);
    let exits: Map<String, Value> =
        exits.map(|(kind, count)| (super::exit_kind(kind).to_string(), json!(count))).collect();
    let files = app.files.iter().map(
        |file| json!({ "name": file.name, "bytes": file.data.len(), "sha256": file.sha256.map(|hash| hex(&hash)) }),
    );
    let rounded = |(t, ratio): (u64, f64)| json!([t, (ratio * 1e4).round() / 1e4]);
    json!({
        "name": app.name, "core": app.core, "awaited": app.awaited, "end": end,
        "started_ms": app.started.map(|t| t / 1000), "ended_ms": app.ended.map(|t| t / 1000),
        "work": app.done, "work_total": app.total, "paid": app.paid.to_string(), "balance": app.balance.to_string(),
        "work_per_credit": super::work_per_credit(app),
        "page_ms": app.totals.page_ms, "cpu_ticks_bought": app.totals.cpu_ticks_bought, "kilobits_bought": app.totals.kilobits_bought,
        "operations_bought": app.totals.operations_bought, "network": app.network.as_ref().map(network),
        "used_ticks": app.totals.used_ticks, "reclaim_us": app.totals.reclaim_us, "exits": exits,
        "files": files.collect::<Vec<_>>(), "lines": app.lines[..], "cpu_share": app.shares(state.tsc_hz).into_iter().map(rounded).collect::<Vec<_>>(),
        "hits": app.hits.last().map(|report| report.1), "accesses": app.hits.last().map(|report| report.2),
        "hit_ratio": app.hit_ratios().into_iter().map(rounded).collect::<Vec<_>>(),
    })
}

fn good_object(state: &RunState, good: &GoodState) -> Value {
    let sample = |sample: &Sample| {
        json!({ "t_ms": sample.t / 1000, "ask": sample.ask.0, "clearing": sample.clearing.0, "sold": sample.sold,
            "holdings": holdings(state, &sample.holdings) })
    };
    json!({
        "name": good.name, "interval_ms": good.interval_ms, "supply": good.supply, "unit": good.price_unit(),
        "paid": good.paid.to_string(), "clearing_per_hour": summary(good), "rounds": super::page_interval_samples(good)
            .into_iter().map(sample).collect::<Vec<_>>(),
    })
}

/// Lowest, mean and highest clearing price of the run.
fn summary(good: &GoodState) -> Value {
    let prices: Vec<f64> = good.history.iter().map(|sample| good.per_hour_f64(sample.clearing)).collect();
    if prices.is_empty() {
        return json!(null);
    }
    let mean = prices.iter().sum::<f64>() / prices.len() as f64;
    let least = prices.iter().copied().fold(f64::INFINITY, f64::min);
    let most = prices.iter().copied().fold(0.0, f64::max);
    json!({ "min": least, "mean": mean, "max": most })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_state::tests::two;

    #[test]
    fn what_was_sent_and_received_is_there_for_who_has_had_a_function() {
        let mut state = two();
        let counts = Counts { sent_frames: 3, sent_octets: 780, dropped_frames: 1, ..Counts::default() };
        let told = Record::Network { t: 5, app: 1, counts };
        state.apply(&told);
        let object = record(&state, &told).unwrap();
        assert_eq!(
            (&object["kind"], &object["sent_octets"], &object["t_us"]),
            (&json!("network"), &json!(780), &json!(5))
        );
        let result = result(&state, "two", 1, 1.0, None);
        assert_eq!(result["apps"][0]["network"], json!(null));
        let network = &result["apps"][1]["network"];
        assert_eq!((&network["sent_frames"], &network["dropped_frames"]), (&json!(3), &json!(1)));
        assert_eq!((&network["received_frames"], &network["forged_frames"]), (&json!(0), &json!(0)));
    }

    #[test]
    fn work_of_one_who_could_not_tell_is_that_of_its_last_report() {
        let mut state = two();
        state.apply(&Record::Progress { t: 1, app: 0, done: 469, total: 1000 });
        for (app, end, told, known) in [(0, End::Killed, 0, 469), (1, End::Exit { status: 0 }, 7, 7)] {
            let ended = Record::Ended {
                t: 2,
                app,
                end,
                work: told,
                paid: 0,
                exits: Vec::new(),
                used_ticks: 0,
                page_ms: 0,
                cpu_ticks_bought: 0,
                kilobits_bought: 0,
                operations_bought: 0,
                reclaim_us: 0,
            };
            state.apply(&ended);
            let object = record(&state, &ended).unwrap();
            assert_eq!((&object["kind"], &object["work"]), (&json!("ended"), &json!(known)));
        }
    }
}
