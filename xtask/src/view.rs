//! What a run shows while it runs. Three ways: the live display, plain lines, one JSON object a line.

use crate::report::json;
use crate::run_state::{Phase, RunState, to_f64};
use crate::scenario::events::Action;
use proto::host::{End, Record, stop_reason};

/// What the user wants of a running machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Do this.
    Act(Action),
    /// End the run in good order.
    Quit,
    /// The same, as an interrupt: where the terminal makes Ctrl-C a key, no signal comes.
    Interrupt,
}

/// Shows a run.
pub trait View {
    /// A message of this program itself.
    fn note(&mut self, text: &str);
    /// A line of the console.
    fn line(&mut self, line: &str);
    /// A record, which the state has already.
    fn record(&mut self, state: &RunState, record: &Record);
    /// Called at least every 50 ms; returns what the user wants.
    fn tick(&mut self, state: &RunState) -> Vec<Wish>;
    /// The run is over: gives the terminal back.
    fn close(&mut self);
}

/// How an application ended, in words.
pub fn ending(end: &End) -> String {
    match end {
        End::Exit { status: 0 } => "done".into(),
        End::Exit { status } => format!("exit status {status}"),
        End::Fault { reason, detail, registers } => {
            let rip = registers.get(usize::from(cap_spec::abi::Register::Rip as u8)).copied().unwrap_or(0);
            format!("fault: {} ({:#x}, {:#x}) at rip {rip:#x}", stop_reason(*reason), detail[0], detail[1])
        }
        End::Killed => "killed".into(),
        End::Unpaid => "stopped: it could not pay its base".into(),
        End::RunOver => "running when the run ended".into(),
        End::Destroyed => "it destroyed its own VM".into(),
        End::Stopped => "it stopped itself".into(),
    }
}

/// Name of a register of the handler page, for fault reports.
pub const REGISTER_NAMES: [&str; 25] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    "rip", "rflags", "cr3", "fs", "gs", "cr0", "cr2", "cr4", "efer",
];

/// The registers of a fault, four on a line.
pub fn registers(values: &[u64]) -> Vec<String> {
    let named: Vec<String> =
        REGISTER_NAMES.iter().zip(values).map(|(name, value)| format!("{name:>6} {value:016x}")).collect();
    named.chunks(4).map(|row| row.join(" ")).collect()
}

/// What is for sale at the start, besides bases.
fn for_sale(state: &RunState, supply: &[u32], bases: &[u32]) -> String {
    let goods = state.goods.iter().zip(supply.iter().zip(bases));
    let words = goods.map(|(good, (supply, base))| {
        let more = if *base > 0 { format!(" (and {base} in bases)") } else { String::new() };
        format!("{} {}{more}", supply.saturating_sub(*base), good.name)
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Plain lines on standard output.
pub struct Plain {
    next_summary: u64,
    /// Events of the scenario that were told.
    told: usize,
}

impl Plain {
    /// A view that sums up once a second of virtual time.
    pub fn new() -> Plain {
        Plain { next_summary: 1_000_000, told: 0 }
    }

    fn say(&self, t: u64, who: &str, text: &str) {
        say!("[{:8.3} s] {who}: {text}", t as f64 / 1e6);
    }

    fn summary(&self, state: &RunState) {
        let mut text = String::new();
        for good in &state.goods {
            if let Some(last) = good.history.last() {
                text += &format!("{} {:.4}, ", good.name, good.per_hour_f64(last.clearing));
            }
        }
        for app in state.apps.iter().filter(|app| app.phase == Phase::Running) {
            let cpu = state.cpu(app);
            let bandwidth = state.bandwidth(app).map_or_else(String::new, |units| format!(" {units} Mb/s"));
            let operations = state.operations(app).map_or_else(String::new, |per_s| format!(" {per_s} ops/s"));
            let progress =
                if app.total > 0 { format!(" {}%", app.done * 100 / app.total.max(1)) } else { String::new() };
            let hits = app.hit_ratio().map_or(String::new(), |ratio| format!(" hits {:.0}%", 100.0 * ratio));
            text += &format!(
                "{} {} pages {cpu} cpu{bandwidth}{operations}{progress}{hits} {:.6} cr, ",
                app.name,
                app.holdings.first().copied().unwrap_or(0),
                to_f64(app.balance)
            );
        }
        self.say(state.now, "prices", text.trim_end_matches(", "));
    }
}

impl Default for Plain {
    fn default() -> Plain {
        Plain::new()
    }
}

impl View for Plain {
    fn note(&mut self, text: &str) {
        say!("{text}");
    }

    fn line(&mut self, line: &str) {
        say!("console: {line}");
    }

    fn record(&mut self, state: &RunState, record: &Record) {
        for (at_ms, event) in state.events.iter().skip(self.told).take_while(|(at_ms, _)| at_ms * 1_000 <= state.now) {
            self.say(at_ms * 1_000, "event", event.split_once('=').map_or(event.as_str(), |(_, what)| what));
            self.told += 1;
        }
        match record {
            Record::Begin { tsc_hz, cores, supply, bases, restarts, .. } => {
                let supply = for_sale(state, supply, bases);
                let again = if *restarts > 0 { format!(", restarted {restarts} times") } else { String::new() };
                self.say(
                    0,
                    "market",
                    &format!("{cores} cores, {} MHz; for sale: {}{again}", tsc_hz / 1_000_000, supply),
                );
            }
            Record::Line { .. } => {}
            Record::Started { t, app, base_pages } => {
                self.say(*t, state.sender(*app), &format!("started with {base_pages} base pages"));
            }
            Record::Ended { t, app, end, .. } => {
                self.say(*t, state.sender(*app), &format!("{}; work {}", ending(end), state.done(*app)));
                if let End::Fault { registers: values, .. } = end {
                    registers(values).iter().for_each(|row| self.say(*t, state.sender(*app), row));
                }
            }
            Record::FileEnd { app, file, bytes, .. } => {
                let name = state
                    .apps
                    .get(usize::from(*app))
                    .and_then(|app| app.files.iter().find(|open| open.number == *file).map(|open| open.name.as_str()));
                self.say(state.now, state.sender(*app), &format!("file {} ({bytes} bytes)", name.unwrap_or("?")));
            }
            Record::End { t, status, reason } => {
                let text = if *status == 0 { "all done".into() } else { format!("status {status}: {reason}") };
                self.say(*t, "market", &text);
            }
            _ => {}
        }
        if state.now >= self.next_summary {
            self.next_summary = state.now - state.now % 1_000_000 + 1_000_000;
            self.summary(state);
        }
    }

    fn tick(&mut self, _: &RunState) -> Vec<Wish> {
        Vec::new()
    }

    fn close(&mut self) {}
}

/// One JSON object a line on standard output; what they hold is in `docs/result.md`.
pub struct Json;

impl Json {
    fn print(value: &serde_json::Value) {
        say!("{value}");
    }
}

impl View for Json {
    fn note(&mut self, text: &str) {
        tell!("{text}");
    }

    fn line(&mut self, line: &str) {
        Json::print(&serde_json::json!({ "kind": "console", "text": line }));
    }

    fn record(&mut self, state: &RunState, record: &Record) {
        if let Some(value) = json::record(state, record) {
            Json::print(&value);
        }
    }

    fn tick(&mut self, _: &RunState) -> Vec<Wish> {
        Vec::new()
    }

    fn close(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_state::GoodState;
    use market_mechanism::Credits;

    #[test]
    fn what_is_in_bases_is_not_counted_as_for_sale() {
        let good = |name: &str| GoodState {
            name: name.into(),
            interval_ms: 10,
            supply: 0,
            history: crate::run_state::History::default(),
            paid: Credits::ZERO,
        };
        let state = RunState { goods: vec![good("page"), good("cpu.0")], ..RunState::bare() };
        assert_eq!(for_sale(&state, &[2560, 90], &[2432, 0]), "128 page (and 2432 in bases), 90 cpu.0");
    }
}
