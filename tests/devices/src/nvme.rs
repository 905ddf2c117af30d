//! A machine with an NVMe controller of two virtual functions, and namespaces in files.

use crate::function::{Bar, Function};
use crate::machine::{Machine, Memory};
use device::{Clock, DmaMemory, IoAddress, PAGE_BYTES};
use nvme_admin::{AdminMemory, Controller, QueueRequest, Resource};
use nvme_queue::{Namespace, QueuePair, Rings};

/// Bytes of the registers and doorbells.
const REGISTER_BYTES: u64 = 8 << 10;
/// Bytes of each namespace.
pub const NAMESPACE_BYTES: u64 = 4 << 20;
/// Queue pairs and vectors of each VF.
const VF_QUEUES: u16 = 3;
const VF_VECTORS: u16 = 2;

/// A controller under administration.
pub type Admin = Controller<Bar, Memory, Machine>;
/// An application's queue pair.
pub type Queue = QueuePair<Bar, Memory, u64, 64>;

impl Clock for Machine {
    fn now_ns(&self) -> u64 {
        Machine::now_ns(self)
    }

    fn pause(&self) {
        self.step(100_000);
    }
}

/// The machine and the PF.
#[derive(Debug)]
pub struct Bench {
    /// The machine.
    pub machine: Machine,
    /// The PF.
    pub pf: Function,
    /// Its registers, and the memory of its administration.
    pub registers: Bar,
    /// See [`Bench::registers`].
    pub memory: AdminMemory<Memory>,
    /// Its administration.
    pub admin: Admin,
    /// The VFs.
    pub vfs: Vec<Function>,
}

/// Pages for the administration of a controller.
#[must_use]
pub fn admin_memory(machine: &Machine) -> AdminMemory<Memory> {
    AdminMemory { submission: machine.memory(1), completion: machine.memory(1), data: machine.memory(1) }
}

impl Bench {
    /// Starts the machine, and brings the PF and two VFs up, each of which has one of the namespaces 1 and 2. The PF has
    /// namespace 3.
    ///
    /// # Panics
    /// When something fails.
    #[must_use]
    pub fn start() -> Bench {
        let files = ["d1", "d2", "d3"].map(|name| (name, NAMESPACE_BYTES));
        let machine = Machine::start_with_files(
            &files,
            &[
                "-device",
                "nvme-subsys,id=ss0",
                "-device",
                "nvme,id=nv0,bus=rp0,serial=n,subsys=ss0,sriov_max_vfs=2,sriov_vq_flexible=6,\
             sriov_vi_flexible=4,max_ioqpairs=8,msix_qsize=6",
                "-drive",
                "id=d1,if=none,format=raw,file={folder}/d1",
                "-drive",
                "id=d2,if=none,format=raw,file={folder}/d2",
                "-drive",
                "id=d3,if=none,format=raw,file={folder}/d3",
                "-device",
                "nvme-ns,drive=d1,bus=nv0,nsid=1,shared=on,detached=on",
                "-device",
                "nvme-ns,drive=d2,bus=nv0,nsid=2,shared=on,detached=on",
                "-device",
                "nvme-ns,drive=d3,bus=nv0,nsid=3,shared=on,detached=on",
            ],
        );
        let pf = Function::set_up(&machine, 0x100);
        let registers = pf.bar(0, REGISTER_BYTES);
        let mut admin = Admin::enable(registers.clone(), admin_memory(&machine), machine.clone()).expect("it is ready");
        admin.release_resources().expect("it has VFs");
        let (_, memory) = admin.hand_over();
        let mut admin = Admin::enable(registers.clone(), memory.clone(), machine.clone()).expect("it is ready");
        let vfs = pf.enable_vfs(2);
        let own = admin.identity().expect("it answers").controller;
        admin.attach(3, own).expect("it is free");
        for (place, namespace) in (0..2).zip(1..) {
            let secondary = admin.secondary(place).expect("it answers").expect("there are two");
            admin.assign(secondary.controller, Resource::Vectors, VF_VECTORS).expect("there are enough");
            admin.assign(secondary.controller, Resource::Queues, VF_QUEUES).expect("there are enough");
            admin.set_online(secondary.controller).expect("it has what it needs");
            admin.attach(namespace, secondary.controller).expect("it is free");
        }
        Bench { machine, pf, registers, memory, admin, vfs }
    }

    /// The administration of a VF.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn vf(&self, vf: usize) -> Admin {
        let registers = self.vfs[vf].bar(0, REGISTER_BYTES);
        Admin::enable(registers, admin_memory(&self.machine), self.machine.clone()).expect("it is ready")
    }

    /// A VF that was handed over to an application.
    ///
    /// # Panics
    /// When something fails.
    #[must_use]
    pub fn application(&self, vf: usize, vector: Option<u16>) -> Application {
        let mut admin = self.vf(vf);
        let id = admin.next_namespace(0).expect("it answers").expect("it has one");
        let namespace = admin.namespace(id).expect("it answers");
        let (submission, completion) = (self.machine.memory(1), self.machine.memory(1));
        let request = QueueRequest {
            number: 1,
            entries: 64,
            submission: submission.io_address(),
            completion: completion.io_address(),
            vector,
        };
        let made = admin.create_queues(&request).expect("there is room");
        let (registers, kept) = admin.hand_over();
        let doorbells = registers.part(PAGE_BYTES, PAGE_BYTES);
        let rings =
            Rings { doorbells: doorbells.clone(), first: made.first, stride: made.stride, submission, completion };
        let queue = QueuePair::new(rings).expect("the memory is large enough");
        Application { machine: self.machine.clone(), namespace, queue, doorbells, kept }
    }
}

/// An application with a VF.
#[derive(Debug)]
pub struct Application {
    machine: Machine,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its queue pair.
    pub queue: Queue,
    /// The page of doorbells.
    pub doorbells: Bar,
    /// What the server kept.
    pub kept: AdminMemory<Memory>,
}

impl Application {
    /// The next command that ended, waited for.
    pub fn wait(&mut self) -> nvme_queue::Completed<u64> {
        let machine = self.machine.clone();
        machine.wait("the end of a command", || self.queue.completed())
    }

    /// Does one command.
    pub fn execute(&mut self, command: &nvme_queue::Command) -> nvme_queue::Status {
        self.queue.submit(command, 0).expect("there is room");
        self.queue.ring();
        self.wait().status
    }
}

/// The pages of memory, named one by one.
#[must_use]
pub fn pages(memory: &Memory, count: u64) -> Vec<IoAddress> {
    (0..count).map(|page| memory.io_address() + page * PAGE_BYTES).collect()
}
