//! A plugin of the emulator, for the bench: counts the instructions that no VM executes, the kernel's and before it the
//! firmware's, and which of them write to registers of devices, and tells a guest how many there were so far when it asks.
//!
//! What is counted is told by its address: before the first world switch everything, from then on what lies in the
//! kernel's text, where no guest of the bench has code. A guest asks by storing [`COUNT_MARK`] with one instruction into a
//! word, in whose place both counts are at once. The word is written through the file that is the machine's memory. The
//! emulator's clock of instructions and what the machine executes stay as they are without the plugin.
//!
//! Arguments: `text=FIRST-END` (the kernel's text, hexadecimal) and `memory=FILE`.

mod emulator;

use emulator::{Instruction, Translated};
use proto::host::{COUNT_BITS, COUNT_MARK};
use std::ffi::{CStr, c_char, c_int};
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// VMRUN.
const WORLD_SWITCH: [u8; 3] = [0x0f, 0x01, 0xd8];
/// How a store of a sign-extended 32-bit number into a 64-bit word begins: REX.W, with which registers ever, and MOV.
const STORE: (u8, u8) = (0b0100_1000, 0xc7);

/// What the arguments say.
struct Plugin {
    text: Range<u64>,
    memory: File,
}

static PLUGIN: OnceLock<Plugin> = OnceLock::new();
/// Instructions so far that were no VM's.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Of these, how often they have written to registers of devices.
static REGISTER_WRITES: AtomicU64 = AtomicU64::new(0);
/// Whether there were VMs already.
static HAS_SWITCHED: AtomicBool = AtomicBool::new(false);

/// Called by the emulator as it loads the plugin; everything but 0 makes it give up.
#[unsafe(no_mangle)]
extern "C" fn qemu_plugin_install(id: u64, _: *const (), count: c_int, arguments: *const *const c_char) -> c_int {
    let arguments = (0..usize::try_from(count).unwrap_or(0)).filter_map(|index| {
        // SAFETY: the emulator passes so many strings, which end with a zero and live as long as this call.
        unsafe { CStr::from_ptr(*arguments.add(index)) }.to_str().ok()
    });
    match plugin(arguments) {
        Ok(plugin) => {
            let _ = PLUGIN.set(plugin);
            emulator::on_translation(id, translated);
            0
        }
        Err(error) => {
            eprintln!("counter: {error}");
            1
        }
    }
}

fn plugin<'a>(arguments: impl Iterator<Item = &'a str>) -> Result<Plugin, String> {
    let (mut text, mut memory) = (None, None);
    for argument in arguments {
        match argument.split_once('=') {
            Some(("text", range)) => text = range_of(range),
            Some(("memory", path)) => memory = Some(path),
            _ => return Err(format!("it has no argument `{argument}`")),
        }
    }
    let text = text.ok_or("it needs text=FIRST-END")?;
    let path = memory.ok_or("it needs memory=FILE")?;
    let memory = OpenOptions::new().write(true).open(path).map_err(|error| format!("cannot open {path}: {error}"))?;
    Ok(Plugin { text, memory })
}

fn range_of(text: &str) -> Option<Range<u64>> {
    let (first, end) = text.split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    Some(number(first)?..number(end)?)
}

/// A block was translated, and is about to be executed.
fn translated(block: &Translated<'_>) {
    let Some(plugin) = PLUGIN.get() else { return };
    for instruction in block.instructions() {
        if !HAS_SWITCHED.load(Ordering::Relaxed) || plugin.text.contains(&instruction.address()) {
            instruction.count(&COUNT);
            instruction.count_register_writes(&REGISTER_WRITES);
            if instruction.bytes().starts_with(&WORLD_SWITCH) {
                HAS_SWITCHED.store(true, Ordering::Relaxed);
            }
        } else if is_question(&instruction) {
            instruction.on_store(answer);
        }
    }
}

fn is_question(instruction: &Instruction<'_>) -> bool {
    let bytes = instruction.bytes();
    let [prefix, operation, ..] = bytes[..] else { return false };
    (prefix & !0b111, operation) == STORE && bytes.ends_with(&COUNT_MARK.to_le_bytes())
}

/// A question was stored at this address of the machine's memory.
fn answer(address: u64) {
    let Some(plugin) = PLUGIN.get() else { return };
    let [instructions, writes] = [&COUNT, &REGISTER_WRITES].map(|count| count.load(Ordering::Relaxed));
    let counts = writes << COUNT_BITS | instructions & ((1 << COUNT_BITS) - 1);
    if let Err(error) = plugin.memory.write_all_at(&counts.to_le_bytes(), address) {
        eprintln!("counter: cannot answer at {address:#x}: {error}");
    }
}
