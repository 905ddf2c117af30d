//! The boot archive: the plan, the images and the inputs, all checked before anything is started.
//!
//! The archive comes from the host's tool, but nothing in it is believed: whatever is out of its range is an
//! [`ArchiveError`] that says where, and the run ends with it before a tenant exists.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use cap_spec::abi::{self, IMAGE_BASE, IMAGE_MAGIC, image_header};
use core::fmt;
use market_mechanism::{Credits, Price};
use proto::host::Command;
use proto::nic::{BANDWIDTH_GOOD, CABLE_UNITS, KEPT_UNITS, VF_GOOD};
use proto::plan::Plan;
use proto::start::{INPUT_BASE, LEASE_BASE, MAX_CLIENTS};
use proto::storage::{CONTROLLER_UNITS, IOPS_GOOD, STORAGE_GOOD};
use tar_no_std::TarArchiveRef;

/// File of the console server's image, in the folder `images`.
pub const CONSOLE_IMAGE: &str = "console-server";
/// File of the network server's image, likewise.
pub const NIC_IMAGE: &str = "nic-server";
/// Name of the storage server's image.
pub const STORAGE_IMAGE: &str = "nvme-server";
/// Most applications of a plan: the console server has room for them and the market.
pub const MAX_APPS: usize = MAX_CLIENTS - 1;
/// Bytes of image memory above which it gets frames of 2 MiB.
pub const LARGE_IMAGE: u64 = 1 << 20;
/// The good of index 0.
pub const PAGE_GOOD: &str = "page";

/// What is wrong with the archive, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveError {
    /// The file in the archive, or the part of the plan.
    pub place: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl ArchiveError {
    fn new(place: impl ToString, problem: &'static str) -> ArchiveError {
        ArchiveError { place: place.to_string(), problem }
    }
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.place, self.problem)
    }
}

/// An image whose header has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    /// What is copied to `IMAGE_BASE`.
    pub bytes: &'a [u8],
    /// First instruction.
    pub entry: u64,
    /// Initial top page table.
    pub cr3: u64,
    /// Bytes of memory from `IMAGE_BASE` on, a multiple of 4 KiB.
    pub memory_bytes: u64,
}

impl<'a> Image<'a> {
    /// Checks an image's header.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &'a [u8]) -> Result<Image<'a>, &'static str> {
        let word = |offset: usize| {
            let word = bytes.get(offset..offset + 8)?;
            Some(u64::from_le_bytes(word.try_into().ok()?))
        };
        let [magic, entry, cr3, memory_bytes, version] = [
            image_header::MAGIC,
            image_header::ENTRY,
            image_header::CR3,
            image_header::MEMORY_BYTES,
            image_header::ABI_VERSION,
        ]
        .map(|offset| word(offset).unwrap_or(0));
        if magic != IMAGE_MAGIC {
            return Err("is no image: the magic number is missing");
        }
        if version != u64::from(abi::VERSION) {
            return Err("was built for another version of the ABI");
        }
        if !memory_bytes.is_multiple_of(4096) || memory_bytes > INPUT_BASE - IMAGE_BASE {
            return Err("has an impossible memory size");
        }
        if bytes.len() as u64 > memory_bytes {
            return Err("is longer than its memory");
        }
        let inside = |address: u64| (IMAGE_BASE..IMAGE_BASE + memory_bytes).contains(&address);
        if !inside(entry) || !inside(cr3) || !cr3.is_multiple_of(4096) {
            return Err("has its entry or page table outside its memory");
        }
        Ok(Image { bytes, entry, cr3, memory_bytes })
    }
}

/// What a good is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoodKind {
    /// Pages of 4 KiB.
    Page,
    /// 1 % of this core.
    Cpu(u8),
    /// 1 Mb/s that a virtual function of the network device may send.
    Bandwidth,
    /// A virtual function of the network device.
    Vf,
    /// 1 MiB of a namespace of the NVMe controller. Bases have it, and nobody buys more.
    Storage,
    /// 100 reads and writes per second of such a namespace.
    Operations,
}

/// A checked archive.
#[derive(Clone, Debug)]
pub struct Archive<'a> {
    /// The plan.
    pub plan: Plan,
    /// Of each good of the plan.
    pub kinds: Vec<GoodKind>,
    /// Index of the CPU good of each application.
    pub cpu_goods: Vec<u16>,
    /// Image of each application.
    pub images: Vec<Image<'a>>,
    /// Input of each application; empty if it has none.
    pub inputs: Vec<&'a [u8]>,
    /// The console server's image.
    pub console: Image<'a>,
    /// The network server's, if an application is to have a virtual function.
    pub nic: Option<Image<'a>>,
    /// The storage server's, if an application is to have a namespace.
    pub storage: Option<Image<'a>>,
}

impl<'a> Archive<'a> {
    /// Opens and checks an archive for a machine with this many cores.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn open(bytes: &'a [u8], cores: u64) -> Result<Archive<'a>, ArchiveError> {
        let tar = TarArchiveRef::new(bytes).map_err(|_| ArchiveError::new("archive", "is no tar archive"))?;
        let file = |name: &str| {
            tar.entries()
                .find(|entry| entry.filename().as_str().is_ok_and(|found| found.trim_start_matches("./") == name))
                .map(|entry| entry.data())
                .ok_or_else(|| ArchiveError::new(name, "is not in the archive"))
        };
        let image = |name: &str| {
            let path = format!("images/{name}");
            Image::parse(file(&path)?).map_err(|problem| ArchiveError::new(path, problem))
        };
        let plan: Plan =
            postcard::from_bytes(file("plan")?).map_err(|_| ArchiveError::new("plan", "cannot be decoded"))?;
        let kinds = check_goods(&plan, cores)?;
        let cpu_goods = check_apps(&plan, &kinds)?;
        check_events(&plan)?;
        let images = plan.apps.iter().map(|app| image(&app.image)).collect::<Result<_, _>>()?;
        let input = |name: &str, has_input| {
            let bytes = if has_input { file(&format!("inputs/{name}"))? } else { &[] };
            if bytes.len() as u64 > LEASE_BASE - INPUT_BASE {
                return Err(ArchiveError::new(name, "input is longer than its place in memory"));
            }
            Ok(bytes)
        };
        let inputs = plan.apps.iter().map(|app| input(&app.name, app.has_input)).collect::<Result<_, _>>()?;
        let nic = if plan.apps.iter().any(|app| app.nic) { Some(image(NIC_IMAGE)?) } else { None };
        let storage =
            if plan.apps.iter().any(|app| app.storage_bytes > 0) { Some(image(STORAGE_IMAGE)?) } else { None };
        Ok(Archive { kinds, cpu_goods, images, inputs, console: image(CONSOLE_IMAGE)?, nic, storage, plan })
    }
}

fn check_goods(plan: &Plan, cores: u64) -> Result<Vec<GoodKind>, ArchiveError> {
    if plan.version != proto::VERSION {
        return Err(ArchiveError::new("plan", "has another version of the messages"));
    }
    if plan.common_pool_percent != 0 {
        return Err(ArchiveError::new("plan", "asks for a common pool, which this market does not offer"));
    }
    if plan.limit_ms == Some(0) {
        return Err(ArchiveError::new("plan", "limit is not at least 1 ms"));
    }
    let mut kinds = Vec::new();
    for good in &plan.goods {
        let wrong = |problem| ArchiveError::new(format!("good {}", good.name), problem);
        let kind = match good.name.strip_prefix("cpu.").map(str::parse::<u8>) {
            None if good.name == PAGE_GOOD => GoodKind::Page,
            None if good.name == BANDWIDTH_GOOD => GoodKind::Bandwidth,
            None if good.name == VF_GOOD => GoodKind::Vf,
            None if good.name == STORAGE_GOOD => GoodKind::Storage,
            None if good.name == IOPS_GOOD => GoodKind::Operations,
            Some(Ok(core)) if u64::from(core) < cores => GoodKind::Cpu(core),
            Some(Ok(_)) => return Err(wrong("the machine has no such core")),
            _ => return Err(wrong("is none of `page`, `cpu.N`, `bandwidth`, `vf.nic`, `iops` and `storage`")),
        };
        if (kind == GoodKind::Page) != kinds.is_empty() {
            return Err(wrong("the first good is `page`, and no other is"));
        }
        if kinds.contains(&kind) {
            return Err(wrong("is there twice"));
        }
        if good.interval_ms == 0 || good.interval_ms > 60_000 {
            return Err(wrong("interval is not within 1 ms and a minute"));
        }
        if matches!(kind, GoodKind::Cpu(_)) && !good.interval_ms.is_multiple_of(10) {
            return Err(wrong("interval is no multiple of 10 ms"));
        }
        if [good.reserve, good.fee, good.base_price].iter().any(|price| *price > Price::LIMIT.0) {
            return Err(wrong("a price is beyond the limit"));
        }
        kinds.push(kind);
    }
    if kinds.is_empty() {
        return Err(ArchiveError::new("plan", "has no goods"));
    }
    Ok(kinds)
}

fn check_apps(plan: &Plan, kinds: &[GoodKind]) -> Result<Vec<u16>, ArchiveError> {
    if plan.apps.len() > MAX_APPS {
        return Err(ArchiveError::new("plan", "has more than 15 applications"));
    }
    let mut cpu_goods = Vec::new();
    for (at, app) in plan.apps.iter().enumerate() {
        let wrong = |problem| ArchiveError::new(format!("application {}", app.name), problem);
        if app.name.is_empty() || plan.apps[..at].iter().any(|other| other.name == app.name) {
            return Err(wrong("the name is empty, or another one's"));
        }
        if app.budget < 0 || app.income_per_second < 0 {
            return Err(wrong("budget or income is negative"));
        }
        if app.budget > Credits::MAX.0 >> 8 || app.income_per_second > Credits::MAX.0 >> 24 {
            return Err(wrong("budget or income is beyond the limit"));
        }
        if app.base_cpu == 0 || app.base_cpu > 100 {
            return Err(wrong("base CPU time is not within 1 and 100 units"));
        }
        if app.base_vf > 1 {
            return Err(wrong("it can have one virtual function"));
        }
        let bases = plan.apps[..=at].iter().filter(|app| app.nic).map(|app| u64::from(app.base_bandwidth));
        if kinds.contains(&GoodKind::Bandwidth) && bases.sum::<u64>() > u64::from(CABLE_UNITS - KEPT_UNITS) {
            return Err(wrong("the network device has too little bandwidth for its base"));
        }
        let bases = plan.apps[..=at].iter().filter_map(|app| app.base_iops).map(u64::from);
        if kinds.contains(&GoodKind::Operations) && bases.sum::<u64>() > u64::from(CONTROLLER_UNITS) {
            return Err(wrong("the storage device does too few operations for its base"));
        }
        let good = kinds.iter().position(|kind| *kind == GoodKind::Cpu(app.core));
        let good = good.ok_or_else(|| wrong("CPU time of its core is not among the goods"))?;
        cpu_goods.push(good as u16);
    }
    Ok(cpu_goods)
}

fn check_events(plan: &Plan) -> Result<(), ArchiveError> {
    let mut last = 0;
    for event in &plan.events {
        let wrong = |problem| ArchiveError::new(format!("event at {} ms", event.at_ms), problem);
        if event.at_ms < last {
            return Err(wrong("is not in order of time"));
        }
        last = event.at_ms;
        if command_app(&event.command).is_some_and(|app| usize::from(app) >= plan.apps.len()) {
            return Err(wrong("names an application that does not exist"));
        }
    }
    Ok(())
}

/// The application that a command is about.
pub fn command_app(command: &Command) -> Option<u16> {
    match command {
        Command::Valuation { app, .. }
        | Command::Shock { app, .. }
        | Command::Start { app }
        | Command::Kill { app }
        | Command::TopUp { app, .. }
        | Command::RevokeStorage { app } => Some(*app),
        Command::Stop | Command::Crash | Command::CrashNic | Command::CrashStorage | Command::FailStorage => None,
    }
}
