//! Between the machine and the host: records over the second serial port, commands over the first one.

use crate::nic::Counts;
use crate::plan::Atto15;
use alloc::{string::String, vec::Vec};
use cap_spec::abi::StopReason;
use serde::{Deserialize, Serialize};

/// What a guest of the bench stores, by one instruction, to have in its place how many instructions were executed so far
/// that were no VM's, and above [`COUNT_BITS`] how often these have written to registers of devices; both wrap. Where nobody counts
/// it stays as it is.
pub const COUNT_MARK: u32 = 0x4e4b_4331;
/// See [`COUNT_MARK`].
pub const COUNT_BITS: u32 = 48;

/// From the host to the market server, through the console server; also the events of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Sets an application's valuation to this many millionths of the plan's.
    Valuation {
        /// Index of the application.
        app: u16,
        /// Millionths: 1_000_000 is the plan's valuation.
        ppm: u64,
    },
    /// Demand shock: the application's valuation is multiplied for a while.
    Shock {
        /// Index of the application.
        app: u16,
        /// Millionths by which its present valuation is multiplied.
        ppm: u64,
        /// How long, in milliseconds of virtual time.
        for_ms: u64,
    },
    /// Starts an application that does not start by itself (a hostile neighbour, for instance).
    Start {
        /// Index of the application.
        app: u16,
    },
    /// Kills an application and takes everything back.
    Kill {
        /// Index of the application.
        app: u16,
    },
    /// Adds to an application's balance.
    TopUp {
        /// Index of the application.
        app: u16,
        /// 1e-15 credit.
        amount: Atto15,
    },
    /// Ends the run as if its limit were reached, in good order.
    Stop,
    /// Makes the market server panic, so that a test sees what follows.
    Crash,
    /// Makes the network server panic, if there is one, so that a test sees what follows.
    CrashNic,
    /// Let the storage server panic, so that a test sees what follows.
    CrashStorage,
    /// The same, after it has switched its controller off, so that all queues are gone.
    FailStorage,
    /// Takes an application's namespace and queues after a notice, and gives it others.
    RevokeStorage {
        /// Index of the application.
        app: u16,
    },
}

/// From the machine to the host. Times `t` are microseconds of virtual time since the start of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// First record of a run.
    Begin {
        /// [`crate::VERSION`].
        version: u32,
        /// TSC frequency.
        tsc_hz: u64,
        /// Cores.
        cores: u16,
        /// Times the root VM was restarted before.
        restarts: u32,
        /// Supply per good, in the plan's order.
        supply: Vec<u32>,
        /// How much of it is in bases, per good.
        bases: Vec<u32>,
    },
    /// A round was cleared.
    Round {
        /// When.
        t: u64,
        /// Good.
        good: u16,
        /// Round number k; it sold interval k + 1.
        round: u64,
        /// 1e-15 credit per unit and interval.
        ask: u64,
        /// 1e-15 credit per unit and interval.
        clearing: u64,
        /// Units on offer.
        supply: u32,
        /// Units sold, base included.
        sold: u32,
        /// Holding per application in units, base excluded, in the plan's order.
        holdings: Vec<u32>,
        /// Summed payments of this round, 1e-15 credit.
        paid: Atto15,
    },
    /// State of an account; sent once a page interval for each application that changed.
    Account {
        /// When.
        t: u64,
        /// Application.
        app: u16,
        /// Free balance.
        balance: Atto15,
        /// In escrow.
        escrow: Atto15,
        /// Paid so far.
        paid: Atto15,
    },
    /// An application's own report of its work.
    Progress {
        /// When.
        t: u64,
        /// Application.
        app: u16,
        /// Units done.
        done: u64,
        /// Units in all, 0 if unknown.
        total: u64,
    },
    /// A line that an application printed (the console shows the same).
    Line {
        /// When.
        t: u64,
        /// Application; 0xffff for the market server, 0xfffe for the console server.
        app: u16,
        /// Text without line end.
        text: String,
    },
    /// A file begins.
    FileBegin {
        /// Application.
        app: u16,
        /// Number of the file, unique per application.
        file: u16,
        /// Its name, a plain file name.
        name: String,
    },
    /// The next bytes of a file.
    FileData {
        /// Application.
        app: u16,
        /// Number of the file.
        file: u16,
        /// At most 1,024 bytes.
        data: Vec<u8>,
    },
    /// A file is complete.
    FileEnd {
        /// Application.
        app: u16,
        /// Number of the file.
        file: u16,
        /// Its length.
        bytes: u64,
        /// SHA-256 of its contents.
        sha256: [u8; 32],
    },
    /// An application started.
    Started {
        /// When.
        t: u64,
        /// Application.
        app: u16,
        /// Pages in its base region.
        base_pages: u32,
    },
    /// An application ended, and everything it had has been taken back.
    Ended {
        /// When.
        t: u64,
        /// Application.
        app: u16,
        /// How.
        end: End,
        /// Useful work done, as it told the market at its end; 0 if it told nothing: then its last `Progress` counts.
        work: u64,
        /// Paid in all, 1e-15 credit.
        paid: Atto15,
        /// Exits of its VM by kind (`cap_spec::abi::ExitKind`).
        exits: Vec<u64>,
        /// Ticks it was current on its core.
        used_ticks: u64,
        /// Page-milliseconds held beyond its base.
        page_ms: u64,
        /// CPU time bought beyond its base, in ticks delivered by right.
        cpu_ticks_bought: u64,
        /// Kilobits that it might send beyond its base: Mb/s held times milliseconds.
        kilobits_bought: u64,
        /// Reads and writes of its namespace that it might do beyond its base.
        operations_bought: u64,
        /// Microseconds from the order to stop until nothing of it was reachable.
        reclaim_us: u64,
    },
    /// Totals that were verified at an interval's reconciliation; the last one counts for the run.
    Totals {
        /// When.
        t: u64,
        /// Intervals reconciled.
        intervals: u64,
        /// Sum of all accounts, 1e-15 credit.
        sum: Atto15,
        /// What that sum must be.
        expected: Atto15,
        /// Units leased by the ledger, summed over goods and intervals.
        leased: u64,
        /// Units that the kernel says exist as capabilities, likewise.
        existing: u64,
        /// Mismatches seen in the run; 0 or the run fails.
        mismatches: u64,
        /// Intervals that passed without a round because the market was late, summed over goods.
        skipped: u64,
        /// Worst shortfall of CPU time in any period, ticks.
        worst_shortfall: u64,
        /// Longest hold of the kernel lock, ticks.
        longest_hold: u64,
        /// Most ticks from a round's result to the last of its notices.
        slowest_notice: u64,
        /// Most ticks from the start of an interval of pages until all that was lost was out of reach.
        slowest_cut: u64,
    },
    /// Last record: the machine powers off now.
    End {
        /// When.
        t: u64,
        /// 0 if every awaited application ended well and all totals agreed; [`TOLD_TO_END`] if nothing else is the matter than that
        /// it was told to end before; else 1.
        status: u8,
        /// Why not, if not.
        reason: String,
    },
    /// A measured row of the bench.
    Bench {
        /// Name of the operation.
        operation: String,
        /// Instructions (TSC ticks under the instruction clock).
        instructions: u64,
        /// How many of them the kernel executed, if they were counted.
        kernel: Option<u64>,
        /// Exits.
        exits: u64,
        /// Writes to registers of devices, in thousandths, if they were counted.
        writes: Option<u64>,
        /// Interrupts of devices, in thousandths, if they were counted.
        interrupts: Option<u64>,
    },
    /// CPU time that an application has really had: sent once a page interval for each that runs (from the statistics
    /// page of its VM), so that its share over time can be shown.
    Used {
        /// When.
        t: u64,
        /// Application.
        app: u16,
        /// Ticks it was current on its core so far.
        ticks: u64,
    },
    /// How well an application's cache does, by its own report, since its start.
    Hits {
        /// When.
        t: u64,
        /// Application.
        app: u16,
        /// Accesses that found something.
        hits: u64,
        /// All accesses.
        accesses: u64,
    },
    /// What an application has sent and received by its virtual functions of the network device, in the whole run; sent at
    /// the end for each that has had one.
    Network {
        /// When.
        t: u64,
        /// Application.
        app: u16,
        /// How much.
        counts: Counts,
    },
}

/// Status of a run that was good up to where it was told to end.
pub const TOLD_TO_END: u8 = 2;

/// How an application ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It exited by itself.
    Exit {
        /// 0 for success.
        status: u32,
    },
    /// It stopped at a fault that nobody settles.
    Fault {
        /// `cap_spec::abi::StopReason`.
        reason: u8,
        /// Detail words of the handler page.
        detail: [u64; 2],
        /// Registers of the handler page.
        registers: Vec<u64>,
    },
    /// It was killed by a command.
    Killed,
    /// It could not pay its base.
    Unpaid,
    /// The run ended while it ran.
    RunOver,
    /// It destroyed its own VM.
    Destroyed,
    /// It does not run any more by its own doing: it stopped its Vcpu, or revoked what it is made of.
    Stopped,
}

/// The reason of a fault, in words.
pub fn stop_reason(reason: u8) -> &'static str {
    let reasons = [
        (StopReason::NestedFault, "access to memory that it does not have"),
        (StopReason::Shutdown, "triple fault"),
        (StopReason::Instruction, "an exit that the kernel did not ask for"),
        (StopReason::InvalidState, "state that the hardware refuses"),
    ];
    reasons.into_iter().find(|(known, _)| *known as u8 == reason).map_or("stopped", |(_, words)| words)
}
