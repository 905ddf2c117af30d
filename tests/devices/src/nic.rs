//! A machine with an 82576 whose cable ends in the test, which is the outside world to it.

use crate::LIMIT;
use crate::function::{Bar, Function};
use crate::machine::{Machine, Memory};
use device::{IoAddress, PAGE_BYTES};
use igb::{Event, Nic, Settings};
use igbvf::{Buffer, MacAddress, ReceiveQueue, Segment, TransmitQueue};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// Identity of the device: Intel, 82576.
pub const IDENTITY: u32 = 0x10c9_8086;
/// Bytes of a PF's register BAR.
const PF_BYTES: u64 = 128 << 10;
/// Bytes of a VF's register BAR.
const VF_BYTES: u64 = 16 << 10;

/// The machine, the PF's driver, and the cable.
#[derive(Debug)]
pub struct Bench {
    /// The machine.
    pub machine: Machine,
    /// The PF.
    pub pf: Function,
    /// Its driver.
    pub nic: Nic<Bar>,
    /// The VFs.
    pub vfs: Vec<Function>,
    cable: UnixDatagram,
}

/// An address for VF `n`.
#[must_use]
pub fn mac(n: u8) -> MacAddress {
    MacAddress([0x02, 0, 0, 0, 0x76, n])
}

/// The address of somebody outside.
pub const OUTSIDE: MacAddress = MacAddress([0x02, 0xff, 0, 0, 0, 1]);

impl Bench {
    /// Starts the machine and brings the device up as far as the link; one VF for each of these settings.
    #[must_use]
    pub fn start(settings: &[Settings]) -> Bench {
        let machine = Machine::start(&[
            "-netdev",
            "dgram,id=n0,local.type=unix,local.path={folder}/nic,remote.type=unix,remote.path={folder}/cable",
            "-device",
            "igb,bus=rp0,netdev=n0",
        ]);
        let cable = UnixDatagram::bind(machine.folder().join("cable")).expect("a socket can be made");
        cable.connect(machine.folder().join("nic")).expect("the emulator has its socket");
        let pf = Function::set_up(&machine, 0x100);
        let nic = Nic::new(pf.bar(0, PF_BYTES), settings, machine.now_ns());
        let vfs = pf.enable_vfs(settings.len() as u16);
        let mut bench = Bench { machine, pf, nic, vfs, cable };
        bench.run_until(Event::Ready);
        bench.run_until(Event::LinkChanged(igb::Link::Up));
        bench
    }

    /// Lets time pass to whatever the PF's driver waits for, until it tells of this, and perhaps of resets of VFs.
    ///
    /// # Panics
    /// When it tells of anything else before, or not within ten seconds of the machine's time.
    pub fn run_until(&mut self, wanted: Event) {
        let end_ns = self.machine.now_ns() + 10_000_000_000;
        loop {
            let now_ns = self.machine.now_ns();
            match self.nic.poll(now_ns) {
                Some(event) if event == wanted => return,
                Some(event) => assert!(matches!(event, Event::VfReset(_)), "{event:?} before {wanted:?}"),
                None => self.machine.step(self.nic.due_ns().saturating_sub(now_ns).max(1_000_000)),
            }
            assert!(now_ns < end_ns, "no {wanted:?}");
        }
    }

    /// Everything that the PF's driver has to tell now.
    pub fn events(&mut self) -> Vec<Event> {
        let now_ns = self.machine.now_ns();
        std::iter::from_fn(|| self.nic.poll(now_ns)).collect()
    }

    /// The registers of a VF.
    #[must_use]
    pub fn vf(&self, vf: usize) -> Bar {
        self.vfs[vf].bar(0, VF_BYTES)
    }

    /// A VF that has finished its handshake, with both rings and buffers in them.
    ///
    /// # Panics
    /// When it can't.
    pub fn station(&mut self, vf: usize) -> Station {
        let mut function = igbvf::Function::new(self.vf(vf), self.machine.now_ns());
        let ready = self.drive(&mut function);
        assert!(matches!(ready, Ok(igbvf::Event::Ready(_))), "{ready:?}");
        Station::new(&self.machine, self.vf(vf), function)
    }

    /// Polls both drivers until the VF's tells something.
    ///
    /// # Errors
    /// Those of the VF's driver.
    pub fn drive(&mut self, function: &mut igbvf::Function<Bar>) -> Result<igbvf::Event, igbvf::Error> {
        loop {
            let now_ns = self.machine.now_ns();
            if let Some(event) = function.poll(now_ns)? {
                return Ok(event);
            }
            self.events();
            self.machine.step(1_000_000);
        }
    }

    /// Sends a frame into the cable from outside.
    ///
    /// # Panics
    /// When the emulator does not take it.
    pub fn send_from_outside(&self, frame: &[u8]) {
        self.cable.send(frame).expect("the emulator takes the frame");
    }

    /// Sends a frame into the cable from outside if the emulator takes it now; else it is lost, as on any network.
    pub fn offer_from_outside(&self, frame: &[u8]) {
        self.cable.set_nonblocking(true).expect("a socket can be set up");
        let _ = self.cable.send(frame);
        self.cable.set_nonblocking(false).expect("a socket can be set up");
    }

    /// The next frame that comes out of the cable.
    ///
    /// # Panics
    /// When none comes.
    #[must_use]
    pub fn receive_outside(&self) -> Vec<u8> {
        self.cable.set_read_timeout(Some(LIMIT)).expect("a timeout can be set");
        let mut frame = vec![0; 65536];
        let bytes = self.cable.recv(&mut frame).expect("a frame comes out");
        frame.truncate(bytes);
        frame
    }

    /// A frame that came out of the cable, if one did.
    ///
    /// # Panics
    /// When the cable is broken.
    #[must_use]
    pub fn look_outside(&self) -> Option<Vec<u8>> {
        self.cable.set_nonblocking(true).expect("a socket can be set up");
        let mut frame = vec![0; 65536];
        let received = self.cable.recv(&mut frame);
        self.cable.set_nonblocking(false).expect("a socket can be set up");
        match received {
            Ok(bytes) => {
                frame.truncate(bytes);
                Some(frame)
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "the cable is broken");
                None
            }
        }
    }

    /// True if no frame came out of the cable. What the device was told to send before is out by then, as the emulator
    /// sends at once.
    #[must_use]
    pub fn is_quiet_outside(&self) -> bool {
        self.cable.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
        self.cable.recv(&mut [0; 2048]).is_err()
    }
}

/// A buffer of half a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half(pub u64);

/// Bytes of a [`Half`].
pub const HALF_BYTES: u16 = 2048;

impl Buffer for Half {
    fn io_address(&self) -> IoAddress {
        IoAddress(self.0)
    }
}

/// An application with a VF.
#[derive(Debug)]
pub struct Station {
    machine: Machine,
    /// The VF.
    pub function: igbvf::Function<Bar>,
    /// Its receive ring.
    pub receive: ReceiveQueue<Bar, Memory, Half, 16>,
    /// Its transmit ring.
    pub transmit: TransmitQueue<Bar, Memory, u64, 16>,
    frames: Memory,
}

impl Station {
    fn new(machine: &Machine, registers: Bar, function: igbvf::Function<Bar>) -> Station {
        let mut receive =
            ReceiveQueue::new(registers.clone(), machine.memory(1), 0, HALF_BYTES).expect("the queue starts");
        let transmit = TransmitQueue::new(registers, machine.memory(1), 0).expect("the queue starts");
        let buffers = machine.memory(8);
        for n in 0..15 {
            receive.supply(Half(buffers.address() + u64::from(HALF_BYTES) * n)).expect("there is room");
        }
        receive.show();
        Station { machine: machine.clone(), function, receive, transmit, frames: machine.memory(4) }
    }

    /// Puts bytes into memory that can be sent from; there are four places of a page.
    #[must_use]
    pub fn place(&self, place: u64, bytes: &[u8]) -> Segment {
        self.frames.write(place * PAGE_BYTES, bytes);
        let address = IoAddress(self.frames.address() + place * PAGE_BYTES);
        Segment { address, bytes: bytes.len() as u16 }
    }

    /// Sends a frame as it is, and waits until the device has read it.
    pub fn send(&mut self, frame: &[u8]) {
        self.send_with(&[frame], &igbvf::offload::Offload::NONE);
        let machine = self.machine.clone();
        machine.wait("a sent frame", || self.transmit.completed());
    }

    /// Tells the device to send a frame that is made of these parts.
    ///
    /// # Panics
    /// When the ring is full.
    pub fn send_with(&mut self, parts: &[&[u8]], offload: &igbvf::offload::Offload) {
        let segments: Vec<Segment> = (0..).zip(parts).map(|(place, part)| self.place(place, part)).collect();
        self.transmit.send(&segments, offload, 7).expect("there is room");
        self.transmit.flush();
    }

    /// The next frame that was received, with what the device says of it. The buffer goes back.
    pub fn receive(&mut self) -> (Vec<u8>, igbvf::Received<Half>) {
        let machine = self.machine.clone();
        let received = machine.wait("a frame", || self.receive.receive());
        let frame = self.machine.read(received.buffer.0, usize::from(received.length));
        self.receive.supply(received.buffer).expect("there is room");
        self.receive.show();
        (frame, received)
    }

    /// True if nothing was received.
    pub fn is_quiet(&mut self) -> bool {
        self.receive.receive().is_none()
    }
}

/// An Ethernet frame with a payload that begins with this and fills up to the least length.
#[must_use]
pub fn frame(to: MacAddress, from: MacAddress, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to.0[..], &from.0[..], &kind.to_be_bytes()[..], payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}
