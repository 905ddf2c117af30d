//! A machine whose kernel records what it does, followed by the replay while it runs.
//!
//! The machine's memory is a file that this process maps. The kernel stops the machine (by QEMU's `pvpanic`) when a ring is
//! full or memory is to be looked at; the machine's clock stands still until the replay has gone as far and lets it go on.

use super::mistakes::{Mistake, is_found};
use crate::emulator::Config;
use crate::interrupt;
use crate::monitor::{Monitor, Sockets};
use crate::run_state::RunState;
use crate::session::{Seen, Session};
use crate::setup::Tools;
use crate::shared_memory::SharedMemory;
use anyhow::{Context, Result, bail, ensure};
use conform::{Memory, Replay, Snapshot};
use object::read::elf::ElfFile64;
use object::{LittleEndian, Object, ObjectSymbol};
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

/// What the kernel's command line says so that it records.
const OPTION: &str = "trace=on";
/// How long a machine whose monitor has closed has for going off.
const OFF_GRACE: Duration = Duration::from_secs(2);
/// The event by which the emulator says that the machine has stopped.
const STOPPED: &str = "STOP";

/// Where the kernel's trace is.
fn trace_of(kernel: &Path) -> Result<u64> {
    let bytes = fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    let elf = ElfFile64::<LittleEndian>::parse(&bytes[..]).context("the kernel is no ELF64 file")?;
    let symbol = elf.symbols().find(|symbol| symbol.name() == Ok(kernel::trace::SYMBOL));
    Ok(symbol.context("the kernel has no trace; build it anew: cargo xtask build")?.address())
}

/// Runs a machine to its end, and its trace through the specification. With a mistake put in, if one is given.
///
/// # Errors
/// When the machine does not end well, or the machine and the specification part: then the error is a
/// [`conform::Divergence`]. So it is with a mistake that was found where it stands, and only then.
pub fn run(
    tools: &Tools,
    (mut config, state): (Config, RunState),
    folder: &Path,
    timeout: Duration,
    mistake: Option<Mistake>,
) -> Result<Replay> {
    let trace_at = trace_of(&config.kernel)?;
    let memory = SharedMemory::new(&folder.join("conform.memory"), config.memory_mib)?;
    let sockets = Sockets::new()?;
    config.extra.extend(memory.arguments());
    config.extra.extend(sockets.monitor_arguments());
    config.extra.extend(["-device", "pvpanic", "-action", "panic=pause"].map(String::from));
    config.command_line = format!("{OPTION} {}", config.command_line);
    let mut session = Session::start(tools, &config, state, Some(&folder.join("console.log")))?;
    let (file, monitor) = (memory.file().to_path_buf(), Monitor::connect(&sockets)?);
    let follower = std::thread::spawn(move || follow(monitor, &file, trace_at, mistake));
    let mut ended_at = None;
    let ended = loop {
        match session.next(Instant::now() + Duration::from_millis(100))? {
            Seen::Off => break session.failure().map_or(Ok(()), Err),
            // It ends with the machine, unless it can follow no further: then the machine stands still.
            _ if follower.is_finished() && *ended_at.get_or_insert_with(Instant::now) + OFF_GRACE < Instant::now() => {
                break Err("the trace can be followed no further".into());
            }
            _ if interrupt::count() > 0 => break Err("interrupted".into()),
            _ if session.elapsed() > timeout => break Err(format!("timed out after {} s", timeout.as_secs())),
            _ if session.is_stuck() => break Err("the machine sent its last record and did not go off".into()),
            _ => {}
        }
    };
    session.stop();
    // It ends with the emulator, at the latest.
    let Ok(followed) = follower.join() else { bail!("the replay has panicked") };
    let replay = followed?;
    match ended {
        Ok(()) => Ok(replay),
        Err(failure) => bail!("{failure}\n{}", session.last_lines()),
    }
}

/// Follows a machine with this memory from stop to stop until it is off.
fn follow(mut monitor: Monitor, file: &Path, trace_at: u64, mistake: Option<Mistake>) -> Result<Replay> {
    let memory = &Memory::open(file)?;
    let opened = File::options().read(true).write(true).open(file).context("the machine's memory is gone")?;
    let trace = memory.trace(trace_at)?;
    let mut replay: Option<Replay> = None;
    while monitor.wait_for(STOPPED)? {
        let mut records = trace.take();
        let mut snapshot = Snapshot::new(memory, trace.kernel())?;
        match &mut replay {
            None => replay = Some(Replay::begin(&records, &snapshot)?),
            Some(replay) => {
                let put = match mistake {
                    Some(mistake) => mistake.put(replay, &mut records, (memory, &opened))?,
                    None => None,
                };
                let found = replay.take(&records).and_then(|()| replay.compare(&mut snapshot));
                if let Some(at) = put {
                    ensure!(is_found(&found, at), "a mistake that shows at record {at} is not found there: {found:?}");
                }
                found?;
            }
        }
        trace.answer();
        // The machine may have been ended meanwhile, which the next wait tells.
        let _ = monitor.go();
    }
    let mut replay = replay.context("the machine has ended before its kernel has recorded anything")?;
    replay.take(&trace.take())?;
    // The emulator is gone; what it has left in the file stays.
    replay.end(&mut Snapshot::new(memory, trace.kernel())?)?;
    Ok(replay)
}
