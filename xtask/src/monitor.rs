//! A machine seen from outside: QEMU's monitor, to stop it and to read what no guest can see, and its debugger's stub, to
//! write what only firmware could have written.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the emulator has for opening its sockets and for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the emulator shall open the two sockets.
pub struct Sockets {
    folder: PathBuf,
}

impl Sockets {
    /// A place for them, short enough for a socket's name.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn new() -> Result<Sockets> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("nonkernel-monitor-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Sockets { folder })
    }

    fn monitor(&self) -> PathBuf {
        self.folder.join("qmp")
    }

    fn debugger(&self) -> PathBuf {
        self.folder.join("gdb")
    }

    /// QEMU's arguments: the monitor alone.
    pub fn monitor_arguments(&self) -> Vec<String> {
        ["-qmp".into(), socket_argument(&self.monitor())].into()
    }

    /// QEMU's arguments: both sockets, and not a single instruction before [`Monitor::go`].
    pub fn arguments(&self) -> Vec<String> {
        let gdb = ["-S".into(), "-gdb".into(), socket_argument(&self.debugger())];
        self.monitor_arguments().into_iter().chain(gdb).collect()
    }
}

fn socket_argument(path: &Path) -> String {
    format!("unix:{},server=on,wait=off", path.display())
}

impl Drop for Sockets {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Connects as soon as the emulator listens.
fn connect(path: &Path) -> Result<UnixStream> {
    let start = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) if start.elapsed() > PATIENCE => return Err(error).context("the emulator opens no socket"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// QEMU's monitor (QMP).
pub struct Monitor {
    lines: BufReader<UnixStream>,
    /// Events that came before the answer to a command.
    events: VecDeque<String>,
}

impl Monitor {
    /// Connects to a machine that was started with these sockets.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn connect(sockets: &Sockets) -> Result<Monitor> {
        let mut monitor = Monitor { lines: BufReader::new(connect(&sockets.monitor())?), events: VecDeque::new() };
        monitor.read()?.context("no greeting")?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// The next message; `None` if the emulator has ended.
    fn read(&mut self) -> Result<Option<Value>> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => Ok(None),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
            read => read.map(|_| Ok(Some(serde_json::from_str(&line)?)))?,
        }
    }

    /// Waits for an event of this name, however long that takes. False if the emulator has ended.
    ///
    /// # Errors
    /// When what it says makes no sense.
    pub fn wait_for(&mut self, event: &str) -> Result<bool> {
        self.lines.get_ref().set_read_timeout(None)?;
        loop {
            while let Some(name) = self.events.pop_front() {
                if name == event {
                    return Ok(true);
                }
            }
            let Some(message) = self.read()? else { return Ok(false) };
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        self.events.extend(message.get("event").and_then(Value::as_str).map(String::from));
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.lines.get_mut().write_all(line.as_bytes())?;
        loop {
            // Events come in between.
            let mut answer = self.read()?.context("the monitor was closed")?;
            self.note(&answer);
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    /// Lets the machine run.
    ///
    /// # Errors
    /// When the emulator is gone.
    pub fn go(&mut self) -> Result<()> {
        self.execute("cont", &json!({})).map(drop)
    }

    /// Stops the machine.
    ///
    /// # Errors
    /// As [`Monitor::go`].
    pub fn stop(&mut self) -> Result<()> {
        self.execute("stop", &json!({})).map(drop)
    }

    /// Gives every core an NMI.
    ///
    /// # Errors
    /// As [`Monitor::go`].
    pub fn nmi(&mut self) -> Result<()> {
        self.execute("inject-nmi", &json!({})).map(drop)
    }

    /// A command of the human monitor.
    ///
    /// # Errors
    /// As [`Monitor::go`].
    pub fn human(&mut self, command: &str) -> Result<String> {
        let answer = self.execute("human-monitor-command", &json!({ "command-line": command }))?;
        answer.as_str().map(str::to_string).context("no text")
    }

    /// A 32-bit word at a physical address, devices included.
    ///
    /// # Errors
    /// When the emulator is gone or nothing is there.
    pub fn word(&mut self, address: u64) -> Result<u32> {
        let text = self.human(&format!("xp /1wx {address:#x}"))?;
        let word = text.rsplit(':').next().and_then(|word| word.trim().strip_prefix("0x"));
        let word = word.with_context(|| format!("{address:#x}: {text}"))?;
        Ok(u32::from_str_radix(word, 16)?)
    }

    /// Whether each core is halted.
    ///
    /// # Errors
    /// As [`Monitor::go`].
    pub fn halted(&mut self) -> Result<Vec<bool>> {
        let text = self.human("info registers -a")?;
        Ok(text.split("HLT=").skip(1).map(|rest| rest.starts_with('1')).collect())
    }
}

/// Writes 32-bit words at physical addresses, devices included, as firmware might have, or a device; through the debugger's
/// stub, as the monitor cannot. The machine must be stopped.
///
/// # Errors
/// When the stub refuses.
pub fn poke(sockets: &Sockets, words: &[(u64, u32)]) -> Result<()> {
    let mut stream = connect(&sockets.debugger())?;
    let write = |&(address, word): &(u64, u32)| {
        let bytes: String = word.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("M{address:x},4:{bytes}")
    };
    for packet in core::iter::once("Qqemu.PhyMemMode:1".to_string()).chain(words.iter().map(write)) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        stream.write_all(format!("${packet}#{sum:02x}").as_bytes())?;
        let mut answer = Vec::new();
        let mut byte = [0];
        // An acknowledgement, the answer, two digits of its sum.
        while !answer.contains(&b'#') {
            stream.read_exact(&mut byte)?;
            answer.push(byte[0]);
        }
        stream.read_exact(&mut [0; 2])?;
        stream.write_all(b"+")?;
        ensure!(answer.ends_with(b"$OK#"), "{packet}: {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}
