//! `cargo xtask bench`: boots the bench guest under the instruction clock, compares its rows with the targets and with
//! the committed baseline, and fails when a row has become more than 2 % worse.
//!
//! The figures are instructions, the same on every host, so that a change of one shows in the change that caused it:
//! `cargo xtask bench --update` writes the baseline anew, and README's table. What VMs execute and what the kernel does is
//! told apart by a plugin of the emulator ([`crate::counter`]).

use crate::boot::{self, Guest};
use crate::build::{self, Built};
use crate::counter::Counter;
use crate::emulator::Acceleration;
use crate::run_state::{BenchRow, RunState};
use crate::session::Session;
use crate::shared_memory::SharedMemory;
use crate::tcb::write_json;
use crate::{interrupt, paths, readme, report, setup};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Images of the bench: the kernel's operations, and those with devices.
const IMAGES: [&str; 2] = ["bench", "bench_devices"];
/// One machine of the bench takes at most this long.
const TIMEOUT: Duration = Duration::from_secs(240);
/// A row may get worse by this many per cent without a new baseline.
const TOLERANCE_PERCENT: u64 = 2;
/// How much better a row may be than the baseline, in per cent, before that is out of date.
const STALE_PERCENT: u64 = 10;

/// A machine of the bench.
struct Machine {
    name: &'static str,
    image: &'static str,
    cores: u16,
    memory_mib: u32,
    command_line: &'static str,
    devices: &'static [&'static str],
}

impl Machine {
    const fn new(name: &'static str, cores: u16, memory_mib: u32, command_line: &'static str) -> Machine {
        Machine { name, image: IMAGES[0], cores, memory_mib, command_line, devices: &[] }
    }
}

/// An IOMMU, and an 82576 whose network nobody else is on.
pub const NETWORK: &[&str] = &[
    "-device",
    "intel-iommu,intremap=on,eim=on",
    "-device",
    "pcie-root-port,id=rp0,chassis=1,slot=1",
    "-netdev",
    "user,id=n0,restrict=on",
    "-device",
    "igb,bus=rp0,netdev=n0",
];

/// An IOMMU, and an NVMe controller with virtual functions and a namespace of zeros, which takes no time to read.
const BLOCKS: &[&str] = &[
    "-device",
    "intel-iommu,intremap=on,eim=on",
    "-device",
    "pcie-root-port,id=rp0,chassis=1,slot=1",
    "-device",
    "nvme-subsys,id=ss0",
    "-device",
    "nvme,id=nv0,bus=rp0,serial=n,subsys=ss0,sriov_max_vfs=2,sriov_vq_flexible=6,sriov_vi_flexible=4,max_ioqpairs=8,\
     msix_qsize=6",
    "-blockdev",
    "driver=null-co,node-name=d1,size=67108864,read-zeroes=on",
    "-device",
    "nvme-ns,drive=d1,bus=nv0,nsid=1,shared=on,detached=on",
];

/// What is measured on machines of its own: one VM that has nearly the whole core, several VMs on one core, two cores,
/// how many VMs fit into 1 GiB, and devices.
const MACHINES: [Machine; 6] = [
    Machine::new("single", 1, 512, "root_budget_us=9000 bench=single"),
    Machine::new("vms", 1, 512, "root_budget_us=4000 bench=vms"),
    Machine::new("cores", 2, 512, "bench=cores"),
    Machine::new("many", 1, 1024, "root_budget_us=4000 bench=many"),
    Machine {
        image: IMAGES[1],
        devices: NETWORK,
        ..Machine::new("network", 1, 512, "root_budget_us=9000 bench=network")
    },
    Machine { image: IMAGES[1], devices: BLOCKS, ..Machine::new("nvme", 1, 256, "root_budget_us=9000 bench=nvme") },
];

/// A target: at most so many instructions and, where it is said, exits.
struct Target {
    /// The operation's name, or its end if it starts with `*`.
    operation: &'static str,
    instructions: u64,
    exits: Option<u64>,
}

const fn target(operation: &'static str, instructions: u64) -> Target {
    Target { operation, instructions, exits: None }
}

const fn without_exits(operation: &'static str, instructions: u64) -> Target {
    Target { operation, instructions, exits: Some(0) }
}

/// What the nonkernel must reach.
const TARGETS: [Target; 37] = [
    target("null invoke", 150),
    without_exits("read a price", 5),
    without_exits("message round trip, both awake on two cores", 120),
    target("message round trip, one core, sleeping receivers", 450),
    target("buy one page of memory, map it, touch it, give it back", 2_000),
    without_exits("page fault handled by the application itself", 200),
    target("nested fault, upcall, retry", 700),
    target("switch between two VMs", 350),
    without_exits("interrupt: device raises to first instruction of the handler", 60),
    without_exits("interrupt: virtual function raises to first instruction of the handler", 60),
    without_exits("UDP echo of 64 bytes, 1 outstanding", 1_500),
    without_exits("UDP echo of 64 bytes, 16 outstanding", 1_000),
    without_exits("kv GET of 100 bytes, 1 connection", 5_000),
    without_exits("kv SET of 100 bytes, 1 connection", 5_000),
    without_exits("kv GET of 100 bytes, 16 connections, 32 pipelined", 2_500),
    without_exits("kv SET of 100 bytes, 16 connections, 32 pipelined", 2_500),
    without_exits("NVMe read of 4 KiB, queue depth 1, polled", 120),
    without_exits("NVMe read of 4 KiB, queue depth 1, by interrupt", 120),
    without_exits("NVMe read of 4 KiB, queue depth 32, polled", 50),
    without_exits("NVMe read of 4 KiB, queue depth 32, by interrupt", 50),
    target("device wakes a waiting VM, to its handler", 1_500),
    target("longest hold of the kernel lock, hostile load", 20_000),
    target("longest hold of the kernel lock, virtual functions", 20_000),
    target("scrub of a 4 KiB page", 530),
    target("retype 1 frame", 400),
    target("retype 64 frames, each", 50),
    target("copy", 350),
    target("mint", 350),
    target("move", 350),
    target("delete", 350),
    target("*, per child", 150),
    target("*, per frame", 200),
    target("*, per mapped frame", 300),
    target("new VM with one vCPU to its first instruction", 25_000),
    target("destroy a VM", 8_000),
    target("memory of a VM besides its own pages, in bytes", 65_536),
    // 1,000 VMs.
    target("1 GiB divided by the VMs of 17 pages that fit, in bytes", 1_073_741),
];

/// The boot, which is counted in millions.
const BOOT: Target = target("reset to first application instruction", 12_000_000);

fn target_of(operation: &str) -> Option<&'static Target> {
    let matches = |target: &&Target| match target.operation.strip_prefix('*') {
        Some(end) => operation.ends_with(end),
        None => operation == target.operation,
    };
    TARGETS.iter().chain(std::iter::once(&BOOT)).find(matches)
}

/// A row of the table, as `--json` writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What was measured.
    pub operation: String,
    /// Instructions.
    pub instructions: u64,
    /// How many of them VMs executed, if the figure is one of instructions.
    pub vm_instructions: Option<u64>,
    /// How many of them the kernel executed, likewise.
    pub kernel_instructions: Option<u64>,
    /// Exits.
    pub exits: u64,
    /// Writes to registers of devices, in thousandths, if they were counted.
    pub writes_per_1000: Option<u64>,
    /// Interrupts of devices, in thousandths, if they were counted.
    pub interrupts_per_1000: Option<u64>,
    /// At most so many instructions, if there is a target.
    pub target: Option<u64>,
    /// True if the target is met, exits included.
    pub met: Option<bool>,
}

/// A row of the baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BaselineRow {
    operation: String,
    instructions: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kernel_instructions: Option<u64>,
    exits: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    writes_per_1000: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interrupts_per_1000: Option<u64>,
}

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The machines to measure on, by their names; none: all.
    pub machines: Vec<String>,
    /// Where to write JSON.
    pub json: Option<PathBuf>,
    /// Write the baseline instead of comparing with it.
    pub update: bool,
}

/// Runs the bench.
///
/// # Errors
/// When a machine fails or a row is worse than the baseline allows.
pub fn bench(options: &Options) -> Result<()> {
    interrupt::catch()?;
    let tools = setup::ensure()?;
    let built = build::build(&IMAGES)?;
    let rows = measure(&tools, &built, &options.machines)?;
    say!("{}", table(&rows).trim_end());
    if let Some(path) = &options.json {
        write_json(path, &serde_json::to_string_pretty(&rows).context("cannot encode the rows")?)?;
    }
    if options.update {
        write_baseline(&rows)?;
        return readme::bring_up_to_date("bench", &format!("```\n{}```\n", table(&rows)));
    }
    let mut baseline = read_baseline()?;
    if !options.machines.is_empty() {
        baseline.retain(|before| rows.iter().any(|row| row.operation == before.operation));
    }
    let worse = compare(&rows, &baseline);
    if !worse.is_empty() {
        bail!("{}\n(a worse figure that is meant: cargo xtask bench --update)", worse.join("\n"));
    }
    Ok(())
}

/// Measures the rows of these machines, or all.
///
/// # Errors
/// When a machine fails, or there is none of a name.
pub fn measure(tools: &setup::Tools, built: &Built, only: &[String]) -> Result<Vec<Row>> {
    if let Some(name) = only.iter().find(|name| MACHINES.iter().all(|machine| machine.name != **name)) {
        bail!("the bench has no machine {name}; it has {}", MACHINES.map(|machine| machine.name).join(", "));
    }
    let folder = paths::target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let counter = Counter::build(tools, &built.kernel)?;
    let mut rows: Vec<BenchRow> = Vec::new();
    for Machine { name, image, cores, memory_mib, command_line, devices } in MACHINES {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let memory = SharedMemory::new(&folder.join(format!("{name}.memory")), memory_mib)?;
        let mut extra = counter.arguments(&memory);
        extra.extend(devices.iter().map(|&text| text.into()));
        let guest = Guest { cores, memory_mib, command_line: command_line.into(), extra, ..Guest::new(image) };
        let config = guest.config(built, &folder.join(format!("{name}.module")))?;
        debug_assert_eq!(config.acceleration, Acceleration::InstructionClock);
        let log = folder.join(format!("{name}.log"));
        let mut session = Session::start(tools, &config, RunState::bare(), Some(&log))?;
        boot::to_end(&mut session, TIMEOUT, |_| ()).with_context(|| format!("the bench `{name}` failed"))?;
        let new = session.state.bench.drain(..);
        rows.extend(new.filter(|row| !row.operation.is_empty()));
    }
    if rows.is_empty() {
        bail!("the bench measured nothing");
    }
    let impossible: Vec<String> =
        rows.iter().filter(|row| !is_possible(row)).map(|row| format!("this cannot be: {row:?}")).collect();
    if !impossible.is_empty() {
        bail!("{}", impossible.join("\n"));
    }
    Ok(rows.into_iter().map(judged).collect())
}

/// Whether the kernel's part of a row is one of it, and there is none without an exit. Rows without an exit in which the
/// kernel does everything are those of what it does between a VM's instructions.
fn is_possible(row: &BenchRow) -> bool {
    match row.kernel {
        None => true,
        Some(kernel) if row.exits == 0 => kernel == 0 || kernel == row.instructions,
        Some(kernel) => (1..=row.instructions).contains(&kernel),
    }
}

fn judged(row: BenchRow) -> Row {
    let target = target_of(&row.operation);
    let met = target
        .map(|target| row.instructions <= target.instructions && target.exits.is_none_or(|most| row.exits <= most));
    Row {
        operation: row.operation,
        instructions: row.instructions,
        vm_instructions: row.kernel.map(|kernel| row.instructions.saturating_sub(kernel)),
        kernel_instructions: row.kernel,
        exits: row.exits,
        writes_per_1000: row.writes,
        interrupts_per_1000: row.interrupts,
        target: target.map(|target| target.instructions),
        met,
    }
}

/// The table of the terminal.
pub fn table(rows: &[Row]) -> String {
    let titles =
        ["operation", "instructions", "VM", "kernel", "exits", "register writes", "interrupts", "target", "met"];
    let part = |count: Option<u64>| count.map_or("-".into(), report::grouped);
    let mut cells = vec![titles.map(String::from).to_vec()];
    for row in rows {
        let met = match row.met {
            None => "",
            Some(true) => "yes",
            Some(false) => "NO",
        };
        cells.push(vec![
            row.operation.clone(),
            report::grouped(row.instructions),
            part(row.vm_instructions),
            part(row.kernel_instructions),
            row.exits.to_string(),
            thousandths(row.writes_per_1000),
            thousandths(row.interrupts_per_1000),
            row.target.map_or("-".into(), |target| format!("<= {}", report::grouped(target))),
            met.into(),
        ]);
    }
    report::aligned(&cells, 1)
}

/// A number in thousandths, with as many digits behind the point as it needs; a dash for what was not counted.
fn thousandths(count: Option<u64>) -> String {
    let Some(count) = count else { return "-".into() };
    let text = format!("{}.{:03}", count / 1000, count % 1000);
    text.trim_end_matches('0').trim_end_matches('.').into()
}

fn baseline_file() -> PathBuf {
    paths::root().join("bench/baseline.json")
}

fn read_baseline() -> Result<Vec<BaselineRow>> {
    let path = baseline_file();
    let text = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}; type: cargo xtask bench --update", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is malformed", path.display()))
}

/// The table of the committed baseline.
///
/// # Errors
/// When there is none.
pub fn baseline_table() -> Result<String> {
    let rows = read_baseline()?.into_iter();
    let rows: Vec<Row> = rows
        .map(|row| {
            let BaselineRow { operation, instructions, kernel_instructions: kernel, exits, .. } = row;
            let (writes, interrupts) = (row.writes_per_1000, row.interrupts_per_1000);
            judged(BenchRow { operation, instructions, kernel, exits, writes, interrupts })
        })
        .collect();
    Ok(table(&rows))
}

fn write_baseline(rows: &[Row]) -> Result<()> {
    let rows: Vec<BaselineRow> = rows
        .iter()
        .map(|row| BaselineRow {
            operation: row.operation.clone(),
            instructions: row.instructions,
            kernel_instructions: row.kernel_instructions,
            exits: row.exits,
            writes_per_1000: row.writes_per_1000,
            interrupts_per_1000: row.interrupts_per_1000,
        })
        .collect();
    let path = baseline_file();
    fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).context("cannot make bench/")?;
    write_json(&path, &serde_json::to_string_pretty(&rows).context("cannot encode the baseline")?)?;
    say!("{} is written", paths::shown(&path));
    Ok(())
}

/// What is worse than the baseline allows, or gone; and what is so much better that the baseline would no longer notice a
/// loss.
fn compare(rows: &[Row], baseline: &[BaselineRow]) -> Vec<String> {
    let now: BTreeMap<&str, &Row> = rows.iter().map(|row| (row.operation.as_str(), row)).collect();
    let mut worse = Vec::new();
    for before in baseline {
        match now.get(before.operation.as_str()) {
            None => worse.push(format!("`{}` is in the baseline and was not measured", before.operation)),
            Some(row) => {
                let tolerance = before.instructions * TOLERANCE_PERCENT / 100;
                let allowed = before.instructions + tolerance;
                match (row.kernel_instructions, before.kernel_instructions) {
                    (Some(now), Some(before)) if now > before + tolerance => worse.push(format!(
                        "`{}` got worse: {now} instructions of the kernel, baseline {before}",
                        row.operation
                    )),
                    (None, Some(before)) => worse.push(format!(
                        "`{}`: the kernel's instructions are no longer counted, baseline {before}",
                        row.operation
                    )),
                    _ => {}
                }
                let devices = [
                    (row.writes_per_1000, before.writes_per_1000, "thousandths of a register write"),
                    (row.interrupts_per_1000, before.interrupts_per_1000, "thousandths of an interrupt"),
                ];
                for (now, before, what) in devices {
                    match (now, before) {
                        (Some(now), Some(before)) if now > before => {
                            worse.push(format!("`{}` got worse: {now} {what}, baseline {before}", row.operation));
                        }
                        (None, Some(before)) => {
                            worse.push(format!("`{}`: {what} is no longer counted, baseline {before}", row.operation));
                        }
                        _ => {}
                    }
                }
                if row.instructions > allowed || row.exits > before.exits {
                    worse.push(format!(
                        "`{}` got worse: {} instructions and {} exits, baseline {} and {}",
                        row.operation, row.instructions, row.exits, before.instructions, before.exits
                    ));
                } else if row.instructions < before.instructions - before.instructions * STALE_PERCENT / 100 {
                    worse.push(format!(
                        "`{}` got better, and the baseline of {} guards nothing: {} instructions",
                        row.operation, before.instructions, row.instructions
                    ));
                }
            }
        }
    }
    worse
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(operation: &str, instructions: u64, exits: u64) -> Row {
        let (kernel, writes, interrupts) = (None, None, None);
        judged(BenchRow { operation: operation.into(), instructions, kernel, exits, writes, interrupts })
    }

    #[test]
    fn targets_are_found_by_name_and_by_end() {
        assert_eq!(row("null invoke", 150, 1).met, Some(true));
        assert_eq!(row("null invoke", 151, 1).met, Some(false));
        assert_eq!(row("read a price", 3, 1).met, Some(false), "exits count where the target names them");
        assert_eq!(row("revoke 10, per mapped frame", 300, 9).target, Some(300));
        assert_eq!(row("revoke 1000, per frame", 1, 9).target, Some(200));
        assert_eq!(row("something else", 1, 1).met, None);
    }

    #[test]
    fn more_than_two_per_cent_or_an_exit_more_is_worse() {
        let baseline = [BaselineRow {
            operation: "copy".into(),
            instructions: 200,
            kernel_instructions: Some(150),
            exits: 1,
            writes_per_1000: Some(2000),
            interrupts_per_1000: Some(0),
        }];
        let row = |operation: &str, instructions, exits| Row {
            kernel_instructions: Some(154),
            writes_per_1000: Some(2000),
            interrupts_per_1000: Some(0),
            ..row(operation, instructions, exits)
        };
        for writes_per_1000 in [Some(2001), None] {
            assert_eq!(compare(&[Row { writes_per_1000, ..row("copy", 200, 1) }], &baseline).len(), 1);
        }
        assert_eq!(compare(&[Row { interrupts_per_1000: Some(1), ..row("copy", 200, 1) }], &baseline).len(), 1);
        for kernel_instructions in [Some(155), None] {
            assert_eq!(compare(&[Row { kernel_instructions, ..row("copy", 200, 1) }], &baseline).len(), 1);
        }
        assert!(compare(&[row("copy", 204, 1)], &baseline).is_empty());
        assert_eq!(compare(&[row("copy", 205, 1)], &baseline).len(), 1);
        assert_eq!(compare(&[row("copy", 100, 2)], &baseline).len(), 1);
        assert_eq!(compare(&[], &baseline).len(), 1, "a row may not vanish");
        assert!(compare(&[row("copy", 180, 1), row("new", 9, 9)], &baseline).is_empty());
        assert_eq!(compare(&[row("copy", 179, 1)], &baseline).len(), 1, "a baseline may not be out of date");
    }

    #[test]
    fn rows_are_written_with_these_names() {
        let (kernel, writes, interrupts) = (Some(147), Some(2000), Some(0));
        let operation = "null invoke".into();
        let counted = judged(BenchRow { operation, instructions: 151, kernel, exits: 1, writes, interrupts });
        let rows = serde_json::to_value([counted, row("other", 5, 0)]).expect("they are encoded");
        let expected = serde_json::json!([
            { "operation": "null invoke", "instructions": 151, "vm_instructions": 4, "kernel_instructions": 147,
                "exits": 1, "writes_per_1000": 2000, "interrupts_per_1000": 0, "target": 150, "met": false },
            { "operation": "other", "instructions": 5, "vm_instructions": null, "kernel_instructions": null,
                "exits": 0, "writes_per_1000": null, "interrupts_per_1000": null, "target": null, "met": null },
        ]);
        assert_eq!(rows, expected);
    }

    #[test]
    fn the_kernels_part_is_one_of_the_row() {
        let row = |instructions, kernel, exits| BenchRow {
            operation: String::new(),
            instructions,
            kernel,
            exits,
            writes: None,
            interrupts: None,
        };
        for (kernel, exits) in [(Some(1), 1), (Some(9), 1), (Some(0), 0), (Some(9), 0), (None, 0), (None, 1)] {
            assert!(is_possible(&row(9, kernel, exits)), "{kernel:?} with {exits}");
        }
        for (kernel, exits) in [(Some(0), 1), (Some(10), 1), (Some(1), 0), (Some(10), 0)] {
            assert!(!is_possible(&row(9, kernel, exits)), "{kernel:?} with {exits}");
        }
    }

    #[test]
    fn thousandths_have_the_digits_that_they_need() {
        assert_eq!([0, 1000, 31, 2500].map(|count| thousandths(Some(count))), ["0", "1", "0.031", "2.5"]);
    }

    #[test]
    fn the_table_shows_what_is_missed() {
        let text = table(&[row("null invoke", 1000, 1), row("other", 5, 0)]);
        assert!(text.contains("1,000") && text.contains("NO") && text.contains("<= 150"), "{text}");
    }
}
