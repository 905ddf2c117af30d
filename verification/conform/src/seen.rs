//! A stopped machine, as the abstraction function of lock-step sees it.

use anyhow::{Context, Result, ensure};
use cap_spec::abi::info_page;
use cap_spec::machine::{Config, NEVER_HANDED_OUT};
use kernel::channel::{Channel, HEADER_OFFSET};
use kernel::fault::Faults;
use kernel::sched::CAPACITY;
use kernel::slot::Slot;
use kernel::types as k;
use kernel::vcpu::Vcpu;
use kernel::vm::Vm;
use kernel::{Kernel, LAYOUT, Message, Route};
use lockstep::observe::Seen;

use crate::memory::Memory;

/// The state of the kernel in the memory of a machine that is stopped, outside of an invocation.
pub struct Snapshot<'a> {
    memory: &'a Memory,
    kernel: &'a Kernel<()>,
    /// A Delete or Revoke is half done.
    pub(crate) between: bool,
}

impl Snapshot<'_> {
    /// What the kernel whose state lies at this address has left in memory.
    ///
    /// # Errors
    /// When that is a kernel of another layout, or no memory.
    pub fn new(memory: &Memory, (address, layout): (u64, u64)) -> Result<Snapshot<'_>> {
        ensure!(
            layout == LAYOUT,
            "the kernel lays its state out otherwise than this program; build both with the same compiler: cargo xtask build"
        );
        let kernel = memory.kernel(address).context("the kernel's state is no memory")?;
        Ok(Snapshot { memory, kernel, between: false })
    }

    /// A word of memory; where there is none, 0.
    pub(crate) fn word(&self, address: u64) -> u64 {
        self.memory.read(address).unwrap_or(0)
    }

    /// What the specification leaves to the machine.
    pub(crate) fn config(&self) -> Config {
        let (known, limits) = (self.kernel.known(), self.kernel.limits());
        let routes = (0..128).filter(|route| known.forbidden_routes & 1 << route != 0);
        Config {
            min_period: limits.min_period().get(),
            max_period: limits.max_period().get(),
            min_budget: limits.min_budget().get(),
            switch_ticks: limits.switch().get(),
            capacity: CAPACITY.get(),
            forbidden_routes: routes.map(|route: u16| route).collect(),
            forbidden_ports: NEVER_HANDED_OUT.to_vec(),
            statistics_page: known.statistics_page.get(),
            first_message_route: known.first_message_route,
            functions: Vec::new(),
        }
    }
}

impl Seen for Snapshot<'_> {
    fn slot(&self, id: k::SlotId) -> Slot {
        // Where no slot can be there is none; whoever links to it is told.
        self.memory.slot(id.address().get()).unwrap_or(Slot::EMPTY)
    }

    fn vm(&self, id: k::VmId) -> Vm {
        self.memory.read(id.address().get()).unwrap_or(Vm::domain())
    }

    fn vcpu(&self, id: k::VcpuId) -> Vcpu {
        self.memory.read(id.address().get()).unwrap_or(Vcpu::NEW)
    }

    fn channel(&self, id: k::ChannelId) -> Channel {
        self.memory.read(id.address().get() + HEADER_OFFSET).unwrap_or(Channel::NEW)
    }

    fn table(&self, table: u64) -> [u64; 512] {
        self.memory.read(table).unwrap_or([0; 512])
    }

    fn events(&self, vcpu: k::VcpuId) -> u64 {
        self.memory.read(vcpu.info_page().get() + info_page::EVENTS as u64).unwrap_or(0)
    }

    fn registers(&self, _: k::VcpuId) -> [u64; 21] {
        // They are the back end's, and a running guest's: what is answered when they are read is compared.
        cap_spec::machine::initial_registers()
    }

    fn route(&self, route: u16) -> Option<Route> {
        self.kernel.route(route)
    }

    fn message(&self, route: u16) -> Option<Message> {
        self.kernel.message(route)
    }

    fn function_state(&self, function: k::FunctionId) -> (k::VmId, u8, u16, k::Ticks) {
        self.kernel.function_state(function)
    }

    fn faults(&self) -> Faults {
        *self.kernel.faults()
    }

    fn is_between(&self) -> bool {
        self.between
    }
}
