//! A root VM that sleeps without a deadline until the first serial port's interrupt wakes it, takes what has come, and
//! sleeps again; it ends when it has seen enough.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use cap_spec::abi::slots;
use guests::root::Root;
use proto::host::Record;
use userlib::arch::{disable_interrupts, enable_interrupts};
use userlib::cap::{Cap, Fault, IoPort, Irq, PortWidth, Slot, own};

userlib::entry!(main);

const COM1: u16 = 0x3f8;
const COM1_ROUTE: u64 = 4;
const VECTOR: u8 = 0x40;
/// Bytes until the end.
const ENOUGH: u64 = 20;

fn main() -> ! {
    let mut root = Root::new().unwrap_or_else(|fault| panic!("no root: {fault:?}"));
    let reason = serve(&mut root).err().map_or_else(String::new, |fault| format!("{fault:?}"));
    let good = reason.is_empty();
    root.record(&Record::End { t: 0, status: u8::from(!good), reason });
    root.exit(if good { 0x10 } else { 0x11 })
}

fn serve(root: &mut Root) -> Result<(), Fault> {
    let (ports, irq): (Cap<IoPort>, Cap<Irq>) = (Slot::root(slots::CONSOLE).cap(), Slot::root(slots::IRQ).cap());
    irq.split(COM1_ROUTE, 1, root.slot())?.bind(own::VCPU, VECTOR)?;
    // FIFO on; ready, with the interrupt output; interrupts for received bytes.
    for (register, value) in [(2, 1), (4, 0xb), (1, 1)] {
        ports.output(COM1 + register, PortWidth::Byte, value)?;
    }
    let (mut bytes, mut told) = (0, 0);
    root.text("serial: sleeps\n");
    while bytes < ENOUGH {
        own::VCPU.wait(1 << 63, 0)?;
        enable_interrupts();
        core::hint::spin_loop();
        disable_interrupts();
        while ports.input(COM1 + 5, PortWidth::Byte)? & 1 != 0 {
            ports.input(COM1, PortWidth::Byte)?;
            bytes += 1;
        }
        if bytes > told {
            told = bytes;
            root.text(&format!("serial: woken with {bytes} bytes\n"));
        }
    }
    Ok(())
}
