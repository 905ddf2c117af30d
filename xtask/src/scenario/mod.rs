//! Scenarios: one TOML file says what machine runs which applications under which terms. Reading one checks all of it
//! and makes the plan that the market server gets; every complaint names its line.
//!
//! The keys are documented in `docs/scenario.md`. Reading order: [`tree`] (values with places), [`reader`] (tables key
//! by key), [`units`], [`terms`], [`events`], [`core_time`], then [`load`] here.

mod core_time;
pub mod events;
mod network;
mod reader;
mod storage;
mod terms;
mod tree;
pub mod units;

use crate::sources;
use crate::storage::Storage;
use cap_spec::abi::ROOT_ARCHIVE_BYTES;
use core_time::{CoreTime, Servers};
use events::{Action, ONE_PPM};
use kernel::vm::MAX_CORES;
use market_mechanism::types::UNITS_PER_CORE;
use proto::nic::BASE_PAGES;
use proto::plan::{App, Event, Good, Plan};
use reader::{Placed, Problem, Problems, Section};
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use tree::{Node, Place};

/// Memory that no base can have: kernel, servers and their tables.
const RESERVED_BYTES: u64 = 32 << 20;
/// Bytes of all inputs together: what the market sees of the boot archive, less what the programs in it take.
const INPUTS_MAX: u64 = ROOT_ARCHIVE_BYTES - (64 << 20);
/// What a VM costs besides its own pages.
const VM_BYTES: u64 = 64 << 10;
/// The page's size.
const PAGE_BYTES: u64 = 4096;
/// The input that means the repository's own sources.
const SOURCES: &str = "@sources";
/// Applications and the market server are the console server's clients.
const MAX_APPS: usize = proto::start::MAX_CLIENTS - 1;

/// What changes a scenario from the command line.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `APP=FILE`.
    pub inputs: Vec<String>,
    /// `KEY=VALUE`.
    pub sets: Vec<String>,
    /// `T=KEY`.
    pub events: Vec<String>,
    /// Seed.
    pub seed: Option<u64>,
}

impl Overrides {
    fn arguments(&self) -> Vec<String> {
        let named = |name: &'static str| move |argument: &String| format!("--{name} {argument}");
        let sets = self.sets.iter().map(named("set"));
        sets.chain(self.inputs.iter().map(named("input"))).chain(self.events.iter().map(named("event"))).collect()
    }
}

/// A port of an application that clients on the host can reach, by TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The application's number in the plan.
    pub app: usize,
    /// Its address in the emulator's network, which its argument `address` tells it.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
}

impl Service {
    /// The service of an application, at its address: the host's part of it is the number in the plan, counted from 101 on.
    fn new(app: usize, port: u16) -> Service {
        Service { app, address: Ipv4Addr::new(10, 0, 2, 101 + app as u8), port }
    }

    /// What the application is told of its address.
    fn argument(&self) -> String {
        format!("address={}/24", self.address)
    }
}

/// A checked scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The file it was read from.
    pub file: PathBuf,
    /// What it is about.
    pub title: String,
    /// Cores of the machine.
    pub cores: u16,
    /// Memory of the machine in MiB.
    pub memory_mib: u32,
    /// The plan for the market server.
    pub plan: Plan,
    /// The plan's events as `--event` takes them.
    pub events: Vec<String>,
    /// The applications' inputs, in the plan's order.
    pub inputs: Vec<Option<Vec<u8>>>,
    /// What clients on the host can reach.
    pub services: Vec<Service>,
    /// The NVMe controller, if an application has a namespace.
    pub storage: Storage,
    /// Where the machine's memory, and the base of each application, are said.
    memory_place: Place,
    base_places: Vec<Place>,
    /// The arguments that changed it.
    arguments: Vec<String>,
}

impl Scenario {
    /// True if an application has a virtual function of the network device, so that the machine must have one.
    pub fn has_nic(&self) -> bool {
        self.plan.apps.iter().any(|app| app.nic)
    }

    /// Lets the run last until the user ends it: what serves clients is awaited, told what time it
    /// is, and given at least the income that its base costs.
    ///
    /// # Errors
    /// When nothing of it serves clients.
    pub fn serve(&mut self) -> Result<(), Refused> {
        if self.services.is_empty() {
            let problems =
                vec![Problem { place: Place::File, reason: "nothing has a `port`, so nothing is served".into() }];
            let file = self.file.display().to_string();
            return Err(Refused { file, arguments: self.arguments.clone(), problems });
        }
        let epoch = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        for service in &self.services {
            let app = &mut self.plan.apps[service.app];
            (app.awaited, app.income_covers_base) = (true, true);
            app.args.push(format!("epoch={epoch}"));
        }
        self.plan.limit_ms = None;
        Ok(())
    }

    /// True if an application has a namespace of the NVMe controller, so that the machine must have one.
    pub fn has_storage(&self) -> bool {
        self.plan.apps.iter().any(|app| app.storage_bytes > 0)
    }

    /// What became of all amounts that were converted to what the market counts, in one line.
    pub fn terms(&self) -> String {
        terms::line(&self.plan)
    }

    /// The refusal of a scenario whose machine has no room for `what`, which is an application's or everybody's.
    pub fn no_room(&self, app: Option<usize>, what: &str) -> Refused {
        let memory = self.memory_mib;
        let (place, whose) = match app.and_then(|app| Some((self.base_places.get(app)?, self.plan.apps.get(app)?))) {
            Some((place, app)) => (*place, format!(" for `{}`", app.name)),
            None => (self.memory_place, String::new()),
        };
        let reason = format!("a machine of {memory} MiB has no room{whose}: {what}");
        let file = self.file.display().to_string();
        Refused { file, arguments: self.arguments.clone(), problems: vec![Problem { place, reason }] }
    }
}

/// Everything that is wrong with a scenario.
#[derive(Debug)]
pub struct Refused {
    file: String,
    arguments: Vec<String>,
    problems: Vec<Problem>,
}

impl Refused {
    /// A scenario of which there is nothing to read.
    pub fn unknown(name: &Path, known: &[String]) -> Refused {
        let reason = format!("there is no such scenario; there are: {}", known.join(", "));
        let problems = vec![Problem { place: Place::File, reason }];
        Refused { file: name.display().to_string(), arguments: Vec::new(), problems }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            if number > 0 {
                writeln!(out)?;
            }
            match problem.place {
                Place::File => write!(out, "{}: {}", self.file, problem.reason)?,
                Place::Line(line) => write!(out, "{}:{line}: {}", self.file, problem.reason)?,
                Place::Argument(number) => {
                    let argument = self.arguments.get(number).map_or("command line", String::as_str);
                    write!(out, "{argument}: {}", problem.reason)?;
                }
            }
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// Reads and checks a scenario file. `images` are the images that applications may name.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(file: &Path, overrides: &Overrides, images: &[String]) -> Result<Scenario, Refused> {
    match std::fs::read_to_string(file) {
        Ok(text) => parse(file, &text, overrides, images),
        Err(error) => Err(Refused {
            file: file.display().to_string(),
            arguments: Vec::new(),
            problems: vec![Problem { place: Place::File, reason: format!("cannot be read: {error}") }],
        }),
    }
}

/// As [`load`], of a text; `file` is for messages and for relative input paths.
///
/// # Errors
/// As [`load`].
pub fn parse(file: &Path, text: &str, overrides: &Overrides, images: &[String]) -> Result<Scenario, Refused> {
    let refused = |problems| Refused { file: file.display().to_string(), arguments: overrides.arguments(), problems };
    let mut tree =
        tree::parse(text).map_err(|(line, reason)| refused(vec![Problem { place: Place::Line(line), reason }]))?;
    let problems = Problems::default();
    for (number, argument) in overrides.sets.iter().enumerate() {
        if let Err(reason) = tree::set(&mut tree, number, argument) {
            problems.add(Place::Argument(number), reason);
        }
    }
    let scenario = check(file, tree, overrides, images, &problems);
    let problems = problems.into_vec();
    match scenario {
        Some(scenario) if problems.is_empty() => Ok(scenario),
        _ => Err(refused(problems)),
    }
}

fn check(file: &Path, tree: Node, overrides: &Overrides, images: &[String], problems: &Problems) -> Option<Scenario> {
    let mut top = Section::new("the scenario", Some(tree), problems);
    let title = top.text("title").map_or_else(String::new, |title| title.value);
    let limit_ms = top.milliseconds("limit").map_or(60_000, |limit| limit.value);
    let seed = top.integer("seed", 0..=i64::MAX).map_or(1, |seed| seed.value as u64);

    let mut machine = Section::new("[machine]", top.node("machine"), problems);
    let cores = machine.integer("cores", 1..=MAX_CORES as i64).map_or(2, |cores| cores.value as u16);
    let memory = machine.bytes("memory").unwrap_or(Placed { value: 512 << 20, place: machine.place() });
    if memory.value < 64 << 20 || memory.value > 64 << 30 || !memory.value.is_multiple_of(1 << 20) {
        problems.add(memory.place, "`memory`: must be whole MiB, from 64 MiB to 64 GiB");
    }
    machine.finish();

    let mut operator = Section::new("[operator]", top.node("operator"), problems);
    let common_pool = operator.integer("common_pool_percent", 0..=0).map_or(0, |percent| percent.value as u8);
    operator.finish();

    let mut storage = Section::new("[storage]", top.node("storage"), problems);
    let apps: Vec<ReadApp> = top.tables("app").into_iter().map(|node| app(node, cores, images, problems)).collect();
    let has = Servers {
        nic: apps.iter().any(|app| app.network.nic),
        storage: apps.iter().any(|app| app.storage.bytes.is_some()),
        limits: apps.iter().any(|app| app.storage.base_iops.is_some()),
    };
    let mut goods = terms::goods(&mut top, &mut storage, cores, has, problems);
    let events: Vec<Node> = top.tables("event");
    top.finish();
    let storage_place = storage.place();
    let storage = storage::read(storage, &apps, problems);
    storage::supply(&storage, &apps, &mut goods, storage_place, problems);

    check_apps(&apps, limit_ms, problems);
    check_core_time(&apps, &goods, has, problems);
    network::check_bandwidth(&apps, problems);
    storage::check_operations(&apps, problems);
    let inputs = inputs(file, &apps, overrides, problems);
    check_memory(&apps, &inputs, &memory, problems);
    let (events, written_events) = read_events(events, &apps, overrides, limit_ms, problems);
    check_starts(&apps, &events, problems);

    let base_places = apps.iter().map(|app| app.base_pages.place).collect();
    let mut plan_apps = Vec::new();
    let mut services = Vec::new();
    for (number, (app, input)) in apps.into_iter().zip(&inputs).enumerate() {
        let mut plan = App { has_input: input.is_some(), ..app.plan? };
        if let Some(port) = app.network.port {
            let service = Service::new(number, port);
            plan.args.push(service.argument());
            services.push(service);
        }
        plan_apps.push(plan);
    }
    let plan = Plan {
        version: proto::VERSION,
        seed: overrides.seed.unwrap_or(seed),
        goods,
        apps: plan_apps,
        events,
        limit_ms: Some(limit_ms),
        common_pool_percent: common_pool,
    };
    let memory_mib = u32::try_from(memory.value >> 20).ok()?;
    let (memory_place, arguments) = (memory.place, overrides.arguments());
    let file = file.to_path_buf();
    let events = written_events;
    Some(Scenario {
        file,
        title,
        cores,
        memory_mib,
        plan,
        events,
        inputs,
        services,
        storage,
        memory_place,
        base_places,
        arguments,
    })
}

/// An application as far as it could be read, with the places that later checks name.
struct ReadApp {
    plan: Option<App>,
    name: Option<Placed<String>>,
    input: Option<Placed<String>>,
    base_pages: Placed<u32>,
    base_cpu: Placed<u32>,
    deadline: Placed<u64>,
    core: u8,
    network: network::Wanted,
    storage: storage::Wanted,
    place: Place,
}

fn app(node: Node, cores: u16, images: &[String], problems: &Problems) -> ReadApp {
    let mut section = Section::new("[[app]]", Some(node), problems);
    let place = section.place();
    let name = section.text("name");
    if name.is_none() {
        section.missing("name");
    }
    let image = section.text("image").or_else(|| name.clone());
    if let Some(image) = &image
        && !images.contains(&image.value)
    {
        let known = images.join(", ");
        problems.add(image.place, format!("unknown application `{}`; there are: {known}", image.value));
    }
    let core = section.integer("core", 0..=63).unwrap_or(Placed { value: 0, place });
    if core.value >= i64::from(cores) {
        problems.add(core.place, format!("core {}: the machine has {cores} cores, counted from 0", core.value));
    }
    let valuation = section.credits("valuation");
    let valuation_atto = match valuation.as_ref().map(|value| (u64::try_from(value.value.0), value.place)) {
        None => 0,
        Some((Ok(value), _)) => value,
        Some((Err(_), place)) => {
            problems.add(place, "`valuation`: more than 18,446 credits per unit of work");
            0
        }
    };
    let placed_u32 = |placed: Option<Placed<i64>>, default: u32| match placed {
        Some(placed) => Placed { value: u32::try_from(placed.value).unwrap_or(u32::MAX), place: placed.place },
        None => Placed { value: default, place },
    };
    let base_cpu = placed_u32(section.integer("base_cpu", 1..=i64::from(UNITS_PER_CORE)), 2);
    let base_pages = placed_u32(section.integer("base_pages", 0..=i64::from(u32::MAX)), 64);
    let deadline = section.milliseconds("deadline").unwrap_or(Placed { value: 0, place });
    let income = section.credits("income").map_or(0, |income| terms::income(income, problems));
    let starts = section.boolean("starts").unwrap_or(true);
    let budget = section.credits("budget");
    if budget.is_none() {
        section.missing("budget");
    }
    let awaited = section.boolean("awaited").unwrap_or(starts);
    let network = network::Wanted::read(&mut section, problems);
    let storage = storage::Wanted::read(&mut section, problems);
    let needs =
        [(network.nic, "`nic = true`", BASE_PAGES), (storage.bytes.is_some(), "`storage`", proto::storage::BASE_PAGES)];
    let needs: Vec<_> = needs.into_iter().filter(|(is_wanted, ..)| *is_wanted).collect();
    let pages = needs.iter().map(|(.., pages)| pages).sum();
    if base_pages.value < pages {
        let what = needs.iter().map(|(_, what, _)| *what).collect::<Vec<_>>().join(" and ");
        problems.add(base_pages.place, format!("`base_pages`: an application with {what} needs at least {pages}"));
    }
    let args = section.texts("args").unwrap_or_default();
    let input = section.text("input");
    section.finish();
    let plan = match (&name, image, budget) {
        (Some(name), Some(image), Some(budget)) => Some(App {
            name: name.value.clone(),
            image: image.value,
            has_input: false,
            args,
            budget: budget.value.0,
            income_per_second: income,
            income_covers_base: false,
            valuation: valuation_atto,
            core: u8::try_from(core.value).unwrap_or(0),
            base_cpu: base_cpu.value,
            base_pages: base_pages.value,
            deadline_ms: deadline.value,
            starts,
            awaited,
            nic: false,
            base_vf: 0,
            base_bandwidth: 0,
            vlan: None,
            storage_bytes: 0,
            base_storage: false,
            base_iops: None,
        }),
        _ => None,
    };
    let plan = plan.map(|plan| storage.plan(network.plan(plan)));
    let core = u8::try_from(core.value).unwrap_or(0);
    ReadApp { plan, name, input, base_pages, base_cpu, deadline, core, network, storage, place }
}

/// Names and deadlines.
fn check_apps(apps: &[ReadApp], limit_ms: u64, problems: &Problems) {
    if apps.is_empty() {
        problems.add(Place::Line(1), "there is no [[app]]");
    }
    if apps.len() > MAX_APPS {
        problems.add(apps[MAX_APPS].place, format!("more than {MAX_APPS} applications"));
    }
    for (number, app) in apps.iter().enumerate() {
        if let Some(name) = &app.name {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if name.value.is_empty() || name.value.len() > 24 || !name.value.chars().all(plain) {
                problems.add(name.place, "`name`: must be 1 to 24 lower-case letters, digits or hyphens");
            }
            let before = &apps[..number];
            if before.iter().any(|other| other.name.as_ref().is_some_and(|other| other.value == name.value)) {
                problems.add(name.place, format!("there is another application `{}`", name.value));
            }
        }
        if app.deadline.value > limit_ms {
            let reason = format!("`deadline`: {} ms is after the run's limit of {limit_ms} ms", app.deadline.value);
            problems.add(app.deadline.place, reason);
        }
    }
}

/// All bases of a core must fit beside what the servers have of it.
fn check_core_time(apps: &[ReadApp], goods: &[Good], servers: Servers, problems: &Problems) {
    // The first good is memory; the CPU time of each core follows, in order.
    for (core, good) in (0u8..).zip(goods.iter().skip(1)) {
        let mut time = CoreTime::new(core, servers);
        for app in apps.iter().filter(|app| app.core == core) {
            let Placed { value: wanted, place } = app.base_cpu;
            let most = time.promise(wanted, good.interval_ms);
            if wanted > most {
                let reason = format!(
                    "core {core} has {most} units of CPU time left for this base, not {wanted}: the kernel, the servers, \
                     switches and the bases before it have the rest"
                );
                problems.add(place, reason);
                break;
            }
        }
    }
}

/// Reads each application's input: the scenario's, or `--input`'s. Paths in a scenario are relative to its folder.
fn inputs(file: &Path, apps: &[ReadApp], overrides: &Overrides, problems: &Problems) -> Vec<Option<Vec<u8>>> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut wanted: Vec<Option<(PathBuf, Place)>> = apps
        .iter()
        .map(|app| {
            let input = app.input.as_ref()?;
            let path = if input.value == SOURCES { SOURCES.into() } else { folder.join(&input.value) };
            Some((path, input.place))
        })
        .collect();
    for (number, argument) in overrides.inputs.iter().enumerate() {
        let place = Place::Argument(overrides.sets.len() + number);
        let Some((name, path)) = argument.split_once('=') else {
            problems.add(place, "it must be APP=FILE");
            continue;
        };
        match apps.iter().position(|app| app.name.as_ref().is_some_and(|known| known.value == name)) {
            Some(app) => wanted[app] = Some((path.into(), place)),
            None => problems.add(place, format!("unknown application `{name}`; there are: {}", names(apps).join(", "))),
        }
    }
    let read = |(path, place): (PathBuf, Place)| {
        let read = if path == Path::new(SOURCES) {
            sources::archive().map_err(|error| format!("{error:#}"))
        } else {
            std::fs::read(&path).map_err(|error| format!("input {} cannot be read: {error}", path.display()))
        };
        read.map_err(|reason| problems.add(place, reason)).ok()
    };
    wanted.into_iter().map(|wanted| wanted.and_then(read)).collect()
}

fn names(apps: &[ReadApp]) -> Vec<&str> {
    apps.iter().filter_map(|app| app.name.as_ref()).map(|name| name.value.as_str()).collect()
}

/// All bases and inputs together must fit. An input counts twice: in the boot archive, and mapped into its VM. This is
/// what can be said before anything is built; with the images, [`crate::room`] takes everything into account.
fn check_memory(apps: &[ReadApp], inputs: &[Option<Vec<u8>>], memory: &Placed<u64>, problems: &Problems) {
    let room = memory.value.saturating_sub(RESERVED_BYTES);
    let (mut sum, mut archive) = (0u64, 0u64);
    for (app, input) in apps.iter().zip(inputs) {
        let bytes = input.as_ref().map_or(0, |data| data.len() as u64);
        archive += bytes.next_multiple_of(PAGE_BYTES);
        if let (Some(placed), true) = (&app.input, archive > INPUTS_MAX) {
            let reason = format!("the inputs up to this one come to more than {} MiB", INPUTS_MAX >> 20);
            problems.add(placed.place, reason);
            return;
        }
        let base = u64::from(app.base_pages.value) * PAGE_BYTES;
        sum += base + VM_BYTES + 2 * bytes.next_multiple_of(PAGE_BYTES);
        if sum > room {
            let reason = format!(
                "base memory up to this application comes to {} MiB with inputs, but a machine of {} MiB has {} MiB for \
                 bases",
                sum.div_ceil(1 << 20),
                memory.value >> 20,
                room >> 20
            );
            problems.add(app.base_pages.place, reason);
            return;
        }
    }
}

/// The events in their order, for the plan and as they are written.
fn read_events(
    nodes: Vec<Node>,
    apps: &[ReadApp],
    overrides: &Overrides,
    limit_ms: u64,
    problems: &Problems,
) -> (Vec<Event>, Vec<String>) {
    let names = names(apps);
    let mut actions: Vec<(u64, Action, String)> = Vec::new();
    let mut add = |at: u64, text: &str, place: Place| match Action::parse(text, &names) {
        Ok(_) if at > limit_ms => {
            problems.add(place, format!("the event at {at} ms is after the run's limit of {limit_ms} ms"));
        }
        Ok(action) => actions.push((at, action, format!("{}={}", units::duration(at), text.trim()))),
        Err(reason) => problems.add(place, reason),
    };
    for node in nodes {
        let mut section = Section::new("[[event]]", Some(node), problems);
        let (at, what) = (section.milliseconds("at"), section.text("do"));
        match (at, what) {
            (Some(at), Some(what)) => add(at.value, &what.value, what.place),
            (at, what) => {
                if at.is_none() {
                    section.missing("at");
                }
                if what.is_none() {
                    section.missing("do");
                }
            }
        }
        section.finish();
    }
    for (number, argument) in overrides.events.iter().enumerate() {
        let place = Place::Argument(overrides.sets.len() + overrides.inputs.len() + number);
        match argument.split_once('=') {
            None => problems.add(place, "it must be T=KEY, for instance 1s=shock:cache"),
            Some((at, what)) => match units::milliseconds(at) {
                Ok(at) => add(at, what, place),
                Err(reason) => problems.add(place, reason),
            },
        }
    }
    actions.sort_by_key(|(at, ..)| *at);
    let mut ppm = vec![ONE_PPM; names.len()];
    let event =
        |(at_ms, action, written): (u64, Action, String)| (Event { at_ms, command: action.command(&mut ppm) }, written);
    actions.into_iter().map(event).unzip()
}

/// What is awaited must start some time, else the run can only end at its limit.
fn check_starts(apps: &[ReadApp], events: &[Event], problems: &Problems) {
    for (number, app) in apps.iter().enumerate() {
        let Some(plan) = &app.plan else { continue };
        let started =
            |event: &Event| matches!(event.command, proto::host::Command::Start { app } if usize::from(app) == number);
        if plan.awaited && !plan.starts && !events.iter().any(started) {
            problems.add(app.place, format!("`{}` is awaited, but nothing starts it", plan.name));
        }
    }
}

#[cfg(test)]
mod tests;
