//! Machines to start from, and what happens to them at random.

use std::collections::BTreeMap;

use cap_spec::abi::{FaultRecord, Label, ObjectType, Rights, Stopped};
use cap_spec::machine::fine::{Answer, Event, Fine, Hold, may_run, step};
use cap_spec::machine::{Call, Entry, Run, State, VcpuId, VmId, mappings};
use lockstep::generate;
use lockstep::random::Random;
use lockstep::script::{self, Step};
use lockstep::system::{FIRST_MESSAGE_ROUTE, FUNCTION_NUMBERS, ROOT_VCPU, boot_spec, place};

/// log2 of the bytes that boot leaves to be scrubbed: three steps of scrubbing.
const DIRTY_BITS: u8 = 18;

/// The state after boot.
pub fn after_boot() -> State {
    boot_spec(DIRTY_BITS)
}

/// A function of the root VM that reaches a page, and raises a route that the root VM takes. Slots from 80 on of its CNode
/// are used.
fn devices() -> Vec<Step> {
    const DOMAIN: u64 = 80;
    const TABLES: u64 = 81;
    const FRAMES: u64 = 84;
    const ROUTE: u64 = 88;
    let route = FIRST_MESSAGE_ROUTE.into();
    vec![
        script::retype(place::CLEAN, ObjectType::IommuDomain, 0, DOMAIN, 1),
        script::retype(place::CLEAN, ObjectType::PageTable, 0, TABLES, 2),
        script::retype(place::CLEAN, ObjectType::Frame, 12, FRAMES, 3),
        script::root(Label::PageTableMapIo, TABLES, &[DOMAIN, 0, 2]),
        script::root(Label::PageTableMapIo, TABLES + 1, &[DOMAIN, 0, 1]),
        script::root(Label::FrameMapIo, FRAMES, &[DOMAIN, 0x1000, 3, 2]),
        script::root(Label::PciFunctionAttach, place::PLAIN, &[DOMAIN]),
        script::root(Label::IrqSplit, place::ROUTES, &[route, 1, place::CNODE, ROUTE]),
        script::root(Label::IrqBind, ROUTE, &[place::VCPU, 40]),
        script::root(Label::PciFunctionBindMsix, place::PLAIN, &[0, ROUTE]),
    ]
}

/// Two tenants that were launched, one on each core; with a channel to the root VM each, or without.
pub fn two_tenants(are_connected: bool) -> State {
    use script::tenant::{CHANNEL, FOREIGN, TIME};
    let mut steps = Vec::new();
    for core in [0, 1] {
        steps.extend(script::launched_tenant(core));
        if !are_connected {
            steps.push(script::root(Label::CNodeRevoke, place::CNODE, &[CHANNEL]));
        }
        // What stays with the root VM makes room for that of the next.
        let rest = (60 + 4 * u64::from(core)..).zip([TIME, CHANNEL, FOREIGN]);
        steps.extend(rest.map(|(to, from)| script::root(Label::CNodeMove, place::CNODE, &[to, from])));
    }
    run_script(steps)
}

/// What one of the scripts of lock-step leaves, chosen by the seed: a tenant that is half built, handed over, launched or
/// threatened, or CNodes in knots; with functions in use, and that alone.
pub fn start(seed: u64) -> State {
    let mut random = Random::new(seed);
    let core = random.below(2) as u8;
    let mut steps = match seed % 7 {
        0 => Vec::new(),
        1 => script::build_tenant(core),
        2 => [script::build_tenant(core), script::hand_over()].concat(),
        3 | 4 => script::launched_tenant(core),
        5 => (0..4).flat_map(|_| script::knot(&mut random)).collect(),
        _ => {
            let threats = script::threats();
            [script::build_tenant(core), threats[random.below(threats.len())].clone(), script::hand_over()].concat()
        }
    };
    if seed % 7 != 5 {
        steps.extend(devices());
    }
    run_script(steps)
}

/// The state that invocations by the root VM leave after boot. What a script does not find is refused.
pub fn run_script(steps: Vec<Step>) -> State {
    let mut state = after_boot();
    for step in steps {
        if let Step::Invoke(_, call) = step
            && may_run(&state, ROOT_VCPU).is_some()
        {
            let _ = cap_spec::machine::step(&mut state, ROOT_VCPU, call);
        }
    }
    forget_outputs(&mut state);
    state
}

/// Throws away what the state tells the world.
pub fn forget_outputs(state: &mut State) {
    state.outputs.clear();
    state.completions.clear();
    state.choices.clear();
}

/// Who can invoke.
pub fn runnable(state: &State) -> Vec<VcpuId> {
    state.vcpus.keys().copied().filter(|vcpu| may_run(state, *vcpu).is_some()).collect()
}

/// A fine machine that things happen to, with the calls that were given up and are to be repeated.
pub struct World {
    /// The machine.
    pub fine: Fine,
    /// Calls to be repeated, by their invokers.
    pub unfinished: BTreeMap<VcpuId, Call>,
    /// The IOMMU may fail.
    fails: bool,
    random: Random,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64) -> World {
        let mut world = World {
            fine: Fine::new(start(seed)),
            unfinished: BTreeMap::new(),
            fails: seed % 3 == 1,
            random: Random::new(seed ^ 0xf17e),
        };
        if matches!(seed % 7, 2 | 6)
            && let Some(Step::Invoke(_, launch)) = script::launch().into_iter().next()
        {
            world.unfinished.insert(ROOT_VCPU, launch);
        }
        world
    }

    /// One event, and what came of it.
    pub fn happen(&mut self) -> (Event, Answer) {
        self.revive();
        let event = self.choose();
        let answer = step(&mut self.fine, event);
        self.follow(event, answer);
        (event, answer)
    }

    /// Remembers which calls are to be repeated after an event.
    pub fn follow(&mut self, event: Event, answer: Answer) {
        match (event, answer) {
            (Event::Invoke(vcpu, call), Answer::Holds | Answer::Again(_)) => {
                self.unfinished.insert(vcpu, call);
            }
            (_, Answer::Answered(vcpu, _) | Answer::Gone(vcpu)) => {
                self.unfinished.remove(&vcpu);
            }
            _ => {}
        }
        forget_outputs(&mut self.fine.state);
    }

    /// If nobody can run, the root VM starts again: the kernel's doing.
    pub fn revive(&mut self) {
        let state = &mut self.fine.state;
        if self.fine.hold.is_none()
            && runnable(state).is_empty()
            && let Some(root) = state.vcpus.get_mut(&ROOT_VCPU)
        {
            root.run = Run::Runnable;
        }
    }

    /// What happens next.
    pub fn choose(&mut self) -> Event {
        if let Some(Hold { flush, .. }) = &self.fine.hold
            && self.random.below(4) < if flush.is_complete() { 3 } else { 1 }
        {
            let cores: Vec<u8> = flush.cores.iter().copied().collect();
            return match self.random.pick(&cores) {
                Some(core) if !flush.iommu || self.random.one_in(2) => Event::FlushCore(core),
                _ if flush.iommu && self.fails && self.random.one_in(4) => Event::TimeOut,
                _ if flush.iommu => Event::FlushIommu,
                _ if self.random.one_in(4) => Event::Preempt,
                _ => Event::Continue,
            };
        }
        let state = &self.fine.state;
        match self.random.below(16) {
            0..=4 => self.invocation(),
            5 | 6 => {
                let who = self.random.pick(&runnable(state)).unwrap_or(ROOT_VCPU);
                Event::Enter(who)
            }
            7..=10 => self.access(),
            11 | 12 => self.dma(),
            13 => Event::Interrupt(FIRST_MESSAGE_ROUTE + self.random.below(4) as u16),
            14 => self.forget(),
            _ => self.outside(),
        }
    }

    /// An invocation by somebody who can run.
    fn invocation(&mut self) -> Event {
        let runnable = runnable(&self.fine.state);
        match self.random.pick(&runnable) {
            Some(vcpu) => {
                let call = self.call(vcpu);
                Event::Invoke(vcpu, call)
            }
            None => Event::Tick(100),
        }
    }

    /// What a Vcpu invokes next: mostly what it has to repeat.
    pub fn call(&mut self, vcpu: VcpuId) -> Call {
        match self.unfinished.get(&vcpu).copied().filter(|_| self.random.below(4) != 0) {
            Some(call) => call,
            None => generate::call(&self.fine.state, vcpu, &mut self.random),
        }
    }

    /// An address that is mapped, or was near one.
    fn address(&mut self, space: VmId) -> u64 {
        let mapped: Vec<u64> = mappings(&self.fine.state, space)
            .into_iter()
            .filter(|(_, entry)| matches!(entry, Entry::Leaf { .. }))
            .map(|(gpa, _)| gpa)
            .collect();
        let remembered: Vec<u64> = {
            let hardware = &self.fine.hardware;
            let all = hardware.tlb.iter().map(|(_, cached)| cached).chain(hardware.iotlb.iter().map(|at| &at.1));
            all.filter(|cached| cached.space == space).map(|cached| cached.gpa).collect()
        };
        let from = if self.random.one_in(3) { remembered } else { mapped };
        self.random.pick(&from).unwrap_or(0x1000) + self.random.below(0x1000) as u64
    }

    /// What runs on a core reaches for memory.
    fn access(&mut self) -> Event {
        let running: Vec<(u8, VcpuId)> = self.fine.hardware.running.iter().map(|at| (*at.0, *at.1)).collect();
        let Some((core, vcpu)) = self.random.pick(&running) else { return self.invocation() };
        let space = self.fine.state.vcpus.get(&vcpu).and_then(|vcpu| vcpu.vm);
        let gpa = space.map_or(0, |space| self.address(space));
        let wanted = [Rights::READ, Rights::WRITE, Rights::EXECUTE][self.random.below(3)];
        Event::Access(core, gpa, wanted)
    }

    /// A function begins or ends a transfer.
    fn dma(&mut self) -> Event {
        let under_way: Vec<_> = self.fine.hardware.dma.iter().copied().collect();
        if let Some(dma) = self.random.pick(&under_way).filter(|_| self.random.one_in(2)) {
            return Event::EndDma(dma);
        }
        let attached: Vec<(u16, VmId)> =
            self.fine.state.functions.iter().filter_map(|(number, of)| Some((*number, of.domain?))).collect();
        let Some((function, domain)) = self.random.pick(&attached) else { return self.invocation() };
        Event::BeginDma(function, self.address(domain), self.random.one_in(2))
    }

    /// Hardware forgets something.
    fn forget(&mut self) -> Event {
        let of_cores: Vec<_> = self.fine.hardware.tlb.iter().copied().collect();
        let of_iommu: Vec<_> = self.fine.hardware.iotlb.iter().copied().collect();
        match (self.random.pick(&of_cores), self.random.pick(&of_iommu)) {
            (Some((core, cached)), None) => Event::Forget(core, cached),
            (Some((core, cached)), _) if self.random.one_in(2) => Event::Forget(core, cached),
            (_, Some((function, cached))) => Event::ForgetIo(function, cached),
            _ => Event::Leave(self.random.below(2) as u8),
        }
    }

    /// Something that nobody asked for.
    fn outside(&mut self) -> Event {
        let sleepers = self.fine.state.vcpus.iter().filter(|(_, vcpu)| matches!(vcpu.run, Run::Blocked { .. }));
        let sleepers: Vec<VcpuId> = sleepers.map(|(id, _)| *id).collect();
        match (self.random.below(4), self.random.pick(&sleepers)) {
            (0, Some(vcpu)) => Event::Expire(vcpu),
            (1, _) => {
                let number = self.random.below(FUNCTION_NUMBERS + 1) as u16;
                let record =
                    FaultRecord { requester: 0x100 + number, stopped: Stopped::Interrupt(number), reason: 0x21 };
                Event::Stopped((usize::from(number) < FUNCTION_NUMBERS).then_some(number), record)
            }
            (2, _) => Event::Leave(self.random.below(2) as u8),
            _ => Event::Tick(1 + self.random.below(2_000) as u64),
        }
    }
}
