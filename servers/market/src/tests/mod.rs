//! Whole markets on the host: the server against a model of the machine, with simulated tenants.

mod bandwidth;
mod books;
mod markets;
mod memory;
mod model;
mod nic;
mod refusals;
mod storage;
mod vf;

use crate::machine::{Peer, Slot};
use crate::server::{Phase, Server};
use crate::tenant::State;
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use cap_spec::abi::{IMAGE_BASE, IMAGE_MAGIC, image_header};
use model::Model;
use proto::console::ToConsole;
use proto::host::{Command, End, Record};
use proto::market::{Answer, FromMarket, Request, RequestBody, Segment};
use proto::plan::{App, Event, Good, Plan};

/// One credit.
pub const CREDIT: i128 = 1_000_000_000_000_000;
/// Reserve prices of pages and CPU time in the tests.
pub const RESERVE: u64 = 1_000;

/// A plan with pages and one core, for applications that `apps` describes.
pub fn plan(apps: Vec<App>, pages: Option<u32>) -> Plan {
    let good = |name: &str, interval_ms, supply_limit| Good {
        name: name.to_string(),
        interval_ms,
        reserve: RESERVE,
        fee: 10,
        penalty: 300,
        base_price: 100,
        supply_limit,
    };
    Plan {
        version: proto::VERSION,
        seed: 1,
        goods: vec![good("page", 100, pages), good("cpu.0", 10, None)],
        apps,
        events: Vec::new(),
        limit_ms: Some(2_000),
        common_pool_percent: 0,
    }
}

/// An application with 10 credits.
pub fn app(name: &str) -> App {
    App {
        name: name.to_string(),
        image: "test".to_string(),
        has_input: false,
        args: Vec::new(),
        budget: 10 * CREDIT,
        income_per_second: 0,
        income_covers_base: false,
        valuation: 1,
        core: 0,
        base_cpu: 1,
        base_pages: 16,
        deadline_ms: 0,
        starts: true,
        awaited: true,
        nic: false,
        base_vf: 1,
        base_bandwidth: 0,
        vlan: None,
        storage_bytes: 0,
        base_storage: true,
        base_iops: None,
    }
}

/// An event of a plan.
pub fn at(at_ms: u64, command: Command) -> Event {
    Event { at_ms, command }
}

fn image() -> Vec<u8> {
    let mut image = vec![0u8; 8192];
    for (offset, word) in [
        (image_header::MAGIC, IMAGE_MAGIC),
        (image_header::ENTRY, IMAGE_BASE + 64),
        (image_header::CR3, IMAGE_BASE + 4096),
        (image_header::FILE_BYTES, 8192),
        (image_header::MEMORY_BYTES, 65536),
        (image_header::ABI_VERSION, u64::from(cap_spec::abi::VERSION)),
    ] {
        image[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
    }
    image
}

/// A tar archive of these files.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, data) in files {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].fill(b' ');
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// The archive of a plan whose applications all have the same image.
pub fn archive(plan: &Plan) -> Vec<u8> {
    let plan_bytes = postcard::to_allocvec(plan).unwrap();
    let image = image();
    let mut files: Vec<(String, Vec<u8>)> = vec![
        ("plan".into(), plan_bytes),
        ("images/test".into(), image.clone()),
        (format!("images/{}", crate::archive::CONSOLE_IMAGE), image.clone()),
        (format!("images/{}", crate::archive::NIC_IMAGE), image.clone()),
        (format!("images/{}", crate::archive::STORAGE_IMAGE), image),
    ];
    for app in plan.apps.iter().filter(|app| app.has_input) {
        files.push((format!("inputs/{}", app.name), vec![7; 3 << 20]));
    }
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect();
    tar(&files)
}

/// A bid for up to `quantity` units of a good at one value.
pub fn bid(good: u16, quantity: u32, value: u64) -> RequestBody {
    RequestBody::Bid {
        good,
        curve: vec![Segment { quantity, value }],
        keep: 0,
        max_payment: u64::MAX,
        valid_until: u64::MAX,
        block_bits: 14,
    }
}

/// What a simulated tenant does when a message arrives: it may send requests.
pub type Behaviour = fn(&mut Tenant, &FromMarket);

/// A simulated tenant.
#[derive(Debug)]
pub struct Tenant {
    /// Messages that arrived.
    pub heard: Vec<FromMarket>,
    /// Requests that it sends next.
    pub says: Vec<RequestBody>,
    /// Leases that it holds, by number, with their log2 bytes.
    pub leases: BTreeMap<u32, u8>,
    /// It accepts no leases.
    pub ignores: bool,
    behaviour: Behaviour,
    number: u32,
}

/// A running market.
pub struct Sim<'a> {
    /// The server.
    pub server: Server<'a, Model>,
    /// The tenants, in the plan's order.
    pub tenants: Vec<Tenant>,
    /// Records for the host.
    pub records: Vec<Record>,
    /// Lines for the host.
    pub texts: Vec<String>,
    /// Value for the debug-exit port, when the run has ended.
    pub power_off: Option<u8>,
    events: u64,
}

impl<'a> Sim<'a> {
    /// Starts a market on a machine with 64 MiB.
    pub fn new(archive: &'a [u8], behaviour: Behaviour) -> Sim<'a> {
        Sim::on(Model::new(1, &[24, 25, 23, 22, 22]), archive, behaviour)
    }

    /// Starts a market on this machine.
    pub fn on(model: Model, archive: &'a [u8], behaviour: Behaviour) -> Sim<'a> {
        let server = Server::start(model, archive).map_err(|(_, failure)| failure.to_string()).unwrap();
        let tenant = |_| Tenant {
            heard: Vec::new(),
            says: Vec::new(),
            leases: BTreeMap::new(),
            ignores: false,
            behaviour,
            number: 0,
        };
        let tenants = (0..server.tenants.len()).map(tenant).collect();
        Sim { server, tenants, records: Vec::new(), texts: Vec::new(), power_off: None, events: 0 }
    }

    /// The machine.
    pub fn model(&mut self) -> &mut Model {
        &mut self.server.root.machine
    }

    /// The tenant's end of the channel, as the market's slot.
    pub fn channel(&self, app: usize) -> Option<Slot> {
        match &self.server.tenants[app].state {
            State::Running(running) => Some(running.channel),
            _ => None,
        }
    }

    /// Goes on until so many milliseconds of the run, or its end.
    pub fn run_to(&mut self, ms: u64) {
        let end = self.server.clock.at(ms);
        while self.server.root.machine.now < end && self.power_off.is_none() {
            self.step(end);
        }
    }

    /// Goes on until the run has ended.
    pub fn run_to_end(&mut self) -> u8 {
        self.run_to(1_000_000);
        self.power_off.expect("the run ends")
    }

    fn step(&mut self, end: u64) {
        let wake = self.server.step(self.events);
        self.events = 0;
        let mut answered = false;
        for app in 0..self.tenants.len() {
            answered |= self.act(app);
        }
        self.listen();
        let model = self.model();
        // Who has sent something wakes the market after a while.
        let wake_at = if answered { model.now + 20_000 } else { wake.at };
        model.now = (model.now + 5_000).max(wake_at.min(end));
        assert!(!matches!(self.server.phase, Phase::Running) || wake.at > 0);
    }

    /// One tenant reads, accepts leases and says what its behaviour wants. True if it said something.
    fn act(&mut self, app: usize) -> bool {
        let peer = Peer::App(app as u16);
        let channel = self.channel(app);
        let arrived: Vec<Vec<u8>> = self.model().sent.entry(peer).or_default().drain(..).collect();
        for bytes in arrived {
            let message: FromMarket = postcard::from_bytes(&bytes).unwrap();
            let tenant = &mut self.tenants[app];
            match &message {
                FromMarket::Lease { lease, bits, .. } => {
                    tenant.leases.insert(*lease, *bits);
                    let ignores = tenant.ignores;
                    if let Some(channel) = channel.filter(|_| !ignores) {
                        assert!(self.server.root.machine.accept(channel), "a lease is announced and not there");
                        self.server.root.machine.use_accepted();
                    }
                }
                FromMarket::Vf { .. } => {
                    let ignores = tenant.ignores;
                    if let Some(channel) = channel.filter(|_| !ignores) {
                        assert!(self.server.root.machine.accept(channel), "a part is announced and not there");
                    }
                }
                FromMarket::Taken { leases } => leases.iter().for_each(|lease| {
                    tenant.leases.remove(lease);
                }),
                _ => {}
            }
            let tenant = &mut self.tenants[app];
            (tenant.behaviour)(tenant, &message);
            tenant.heard.push(message);
        }
        let said = core::mem::take(&mut self.tenants[app].says);
        let spoke = !said.is_empty();
        for body in said {
            self.tenants[app].number += 1;
            let request = Request { number: self.tenants[app].number, body };
            self.send_bytes(app, postcard::to_allocvec(&request).unwrap());
        }
        spoke
    }

    /// Puts bytes into the ring to the market.
    pub fn send_bytes(&mut self, app: usize, bytes: Vec<u8>) {
        self.model().incoming.entry(Peer::App(app as u16)).or_default().push_back(bytes);
        self.events |= 1 << app;
    }

    /// The host sends a command.
    pub fn command(&mut self, command: Command) {
        let message = postcard::to_allocvec(&proto::console::FromConsole::Command(command)).unwrap();
        self.model().incoming.entry(Peer::Console).or_default().push_back(message);
    }

    /// Takes in what the console server has got.
    fn listen(&mut self) {
        let messages: Vec<Vec<u8>> = self.model().sent.entry(Peer::Console).or_default().drain(..).collect();
        for message in messages {
            match postcard::from_bytes(&message).unwrap() {
                ToConsole::Record(record) => self.records.push(record),
                ToConsole::PowerOff { value } => self.power_off = Some(value),
                ToConsole::Text(line) => self.texts.push(line),
                _ => {}
            }
        }
    }

    /// Pages that an application holds beyond its base, by the rules and by its leases, which must agree.
    pub fn pages(&self, app: usize) -> u32 {
        let lease = self.server.markets[0].rounds.lease(crate::server::account(app)).unwrap_or_default();
        assert_eq!(lease.running.0, self.server.tenants[app].leased_pages());
        lease.running.0
    }

    /// Units of CPU time beyond its base that the kernel delivers to an application.
    pub fn cpu(&self, app: usize) -> u64 {
        let tenant = &self.server.tenants[app];
        let (budget, period) = self.server.root.machine.reservation(tenant.time);
        let units = budget * self.server.clock.frame() / period / self.server.clock.unit();
        units - u64::from(self.server.archive.plan.apps[app].base_cpu)
    }

    /// How an application ended.
    pub fn end(&self, app: usize) -> Option<&End> {
        self.records.iter().find_map(|record| match record {
            Record::Ended { app: of, end, .. } if usize::from(*of) == app => Some(end),
            _ => None,
        })
    }

    /// Status and reason of the run.
    pub fn result(&self) -> (u8, String) {
        let result = self.records.iter().find_map(|record| match record {
            Record::End { status, reason, .. } => Some((*status, reason.clone())),
            _ => None,
        });
        result.expect("the run has ended")
    }

    /// The last totals.
    pub fn totals(&self) -> (i128, i128, u64) {
        let totals = self.records.iter().rev().find_map(|record| match record {
            Record::Totals { sum, expected, mismatches, .. } => Some((*sum, *expected, *mismatches)),
            _ => None,
        });
        totals.expect("there are totals")
    }

    /// The answers that an application got.
    pub fn answers(&self, app: usize) -> Vec<Answer> {
        let answer = |message: &FromMarket| match message {
            FromMarket::Answer { body, .. } => Some(body.clone()),
            _ => None,
        };
        self.tenants[app].heard.iter().filter_map(answer).collect()
    }
}

/// The first tenant buys units at the desk and gives them back, 500 times each, from `ms` on. Returns when it is done, with
/// everything given back.
pub fn toggle(sim: &mut Sim<'_>, good: u16, ms: u64, quantity: u32) -> u64 {
    let (mut at, before) = (ms, sim.answers(0).len());
    for _ in 0..TOGGLES / 2 {
        let release = RequestBody::Release { good, leases: Vec::new(), quantity };
        for request in [RequestBody::Desk { good, quantity }, release] {
            sim.tenants[0].says.push(request);
            at += 2;
            sim.run_to(at);
        }
    }
    let answers = sim.answers(0).split_off(before);
    assert_eq!(answers.len(), TOGGLES, "all were served");
    assert!(answers.iter().all(|answer| matches!(answer, Answer::Bought { .. } | Answer::Done)), "{answers:?}");
    at
}

/// Requests of [`toggle`].
const TOGGLES: usize = 1_000;

/// A tenant that says only what the test puts into its mouth.
pub fn silent(_: &mut Tenant, _: &FromMarket) {}

/// Pages beyond all bases in most tests.
const PAGES: u32 = 1_000;

fn three() -> Vec<u8> {
    archive(&plan(["a", "b", "c"].map(app).into(), Some(PAGES)))
}
