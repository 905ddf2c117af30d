//! What a run leaves: tables and a chart on the terminal, and the files in `target/run/`.

pub mod chart;
pub mod json;

use crate::run_state::{AppState, GoodState, Phase, RunState, Sample, to_f64};
use crate::view::ending;
use anyhow::{Context, Result};
use market_mechanism::Credits;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Samples of a good in the result file and in charts are at least this far apart, in microseconds.
const SAMPLE_US: u64 = 100_000;

/// Name of a class of exits (`cap_spec::abi::ExitKind`).
pub fn exit_kind(kind: usize) -> &'static str {
    const NAMES: [&str; 13] = [
        "invoke",
        "nested_fault",
        "nmi",
        "cpuid",
        "msr",
        "port",
        "exception",
        "instruction",
        "xsetbv",
        "shutdown",
        "invalid",
        "register",
        "other",
    ];
    NAMES.get(kind).copied().unwrap_or("unknown")
}

/// Units of work per credit paid; `None` when nothing was paid.
pub fn work_per_credit(app: &AppState) -> Option<f64> {
    (app.paid > Credits::ZERO).then(|| app.done as f64 / to_f64(app.paid))
}

/// How long before its interval a round closes at most (`servers/market`), in microseconds.
const LEAD_US: u64 = 5_000;

/// The history of a good, thinned to one sample per page interval: the last one of each.
pub fn page_interval_samples(good: &GoodState) -> Vec<&Sample> {
    let mut samples: Vec<&Sample> = Vec::new();
    let interval = |sample: &Sample| (sample.t + LEAD_US) / SAMPLE_US;
    for sample in &good.history {
        match samples.last_mut() {
            Some(last) if interval(last) == interval(sample) => *last = sample,
            _ => samples.push(sample),
        }
    }
    samples
}

/// The table of applications.
pub fn table(state: &RunState) -> String {
    let header = [
        "application",
        "end",
        "work",
        "paid",
        "work/credit",
        "page-s",
        "cpu-s",
        "bought cpu-s",
        "bought Mb",
        "bought ops",
        "exits",
    ];
    let mut rows: Vec<Vec<String>> = vec![header.map(str::to_string).into()];
    let seconds = |ticks: u64| if state.tsc_hz == 0 { 0.0 } else { ticks as f64 / state.tsc_hz as f64 };
    for app in &state.apps {
        let end = match &app.phase {
            Phase::Waiting => "not started".into(),
            Phase::Running => "running".into(),
            Phase::Ended(end) => ending(end),
        };
        rows.push(vec![
            app.name.clone(),
            end,
            grouped(app.done),
            format!("{:.9}", to_f64(app.paid)),
            work_per_credit(app).map_or("-".into(), |work| format!("{work:.3e}")),
            format!("{:.1}", app.totals.page_ms as f64 / 1000.0),
            format!("{:.3}", seconds(app.totals.used_ticks)),
            format!("{:.3}", seconds(app.totals.cpu_ticks_bought)),
            format!("{:.1}", app.totals.kilobits_bought as f64 / 1000.0),
            grouped(app.totals.operations_bought),
            grouped(app.totals.exits.iter().sum()),
        ]);
    }
    aligned(&rows, 2)
}

/// Pages, CPU time, bandwidth and operations held over time: one line of bars per application and good.
pub fn holdings(state: &RunState) -> String {
    let mut text = String::new();
    let Some(last) = state.goods.iter().filter_map(|good| good.history.last()).map(|sample| sample.t).max() else {
        return text;
    };
    for (number, app) in state.apps.iter().enumerate() {
        for good in &state.goods {
            let takes_part = good.is_page()
                || good.name == format!("cpu.{}", app.core)
                || good.is_of_nic() && app.base_bandwidth.is_some()
                || good.is_iops() && app.base_iops.is_some();
            let points: Vec<(u64, f64)> = good
                .history
                .iter()
                .map(|sample| (sample.t, f64::from(sample.holdings.get(number).copied().unwrap_or(0))))
                .collect();
            let most = points.iter().map(|point| point.1).fold(0.0, f64::max);
            if takes_part && !points.is_empty() {
                let bars = chart::bars(&points, last, 60, most.max(1.0));
                let _ = writeln!(text, "{:>12} {:>9} {bars} most {most:.0}", app.name, good.name);
            }
        }
    }
    text
}

/// One line: what was verified.
pub fn verified(state: &RunState) -> String {
    match &state.verified {
        None => "verified: nothing, as the machine sent no totals".into(),
        Some(totals) => {
            let (sum, leases) = (totals.sum == totals.expected, totals.leased == totals.existing);
            let word = |same: bool| if same { "=" } else { "IS NOT" };
            let skipped = match totals.skipped {
                0 => String::new(),
                skipped => format!("{skipped} more passed without a round; "),
            };
            format!(
                "verified: {} intervals, {} mismatches; {skipped}accounts sum to {} {} {} credits; {} units leased {} {} existing; \
                 worst CPU shortfall {} ticks; longest kernel hold {} ticks",
                totals.intervals,
                totals.mismatches,
                totals.sum,
                word(sum),
                totals.expected,
                totals.leased,
                word(leases),
                totals.existing,
                totals.worst_shortfall,
                totals.longest_hold
            )
        }
    }
}

/// Everything that is shown at the end of a run.
pub fn closing(state: &RunState) -> String {
    format!("{}\n{}\n{}\n{}", table(state), holdings(state), chart::prices(state), verified(state))
}

/// Writes `result.json`, `prices.svg` and the applications' output files (`APP/NAME`) into a folder.
///
/// # Errors
/// When a file can't be written.
pub fn write(state: &RunState, result: &serde_json::Value, folder: &Path) -> Result<()> {
    for app in &state.apps {
        for file in app.files.iter().filter(|file| file.sha256.is_some()) {
            let own = folder.join(&app.name);
            fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
            let path = own.join(&file.name);
            fs::write(&path, &file.data).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    let path = folder.join("result.json");
    let text = serde_json::to_string_pretty(result).context("cannot encode the result")?;
    fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    chart::svg(state, &folder.join("prices.svg"))
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Rows in columns: the first `left` columns flush left, the others flush right.
pub fn aligned(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = if column < left { write!(line, "{cell:<width$}  ") } else { write!(line, "{cell:>width$}  ") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_columns_aligned() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        let rows = [vec!["a".into(), "b".into()], vec!["long".into(), "1,000".into()]];
        assert_eq!(aligned(&rows, 1), "a         b\nlong  1,000\n");
    }

    #[test]
    fn exit_kinds_are_those_of_the_abi() {
        use cap_spec::abi::ExitKind;
        assert_eq!(exit_kind(ExitKind::Invoke as usize), "invoke");
        assert_eq!(exit_kind(ExitKind::Shutdown as usize), "shutdown");
        assert_eq!(exit_kind(ExitKind::Other as usize), "other");
        assert_eq!(exit_kind(99), "unknown");
    }
}
