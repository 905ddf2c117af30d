//! That the device is told of the delay of interrupts when it is chosen, and told again when the function comes up anew.

use device::fake::{FakeMemory, FakeRegisters};
use device::{DmaBuffer, IoAddress, Registers};
use igbvf::MacAddress;
use igbvf::registers::{VTEIMC, VTEIMS, VTEITR_CNT_IGNR, vteitr};
use net::smoltcp::wire::{Ipv4Address, Ipv4Cidr};
use net::{Address, MOST_INTERRUPT_DELAY_US, Mode, Port, Settings, Stack};

/// Descriptors of each ring.
const N: usize = 8;
const VECTOR: u8 = 1;

/// A buffer that nothing is read from.
struct Empty;

impl DmaBuffer for Empty {
    fn io_address(&self) -> IoAddress {
        IoAddress(0x1000)
    }

    fn capacity(&self) -> usize {
        2048
    }

    fn read<T>(&self, _: usize, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&[])
    }

    fn write<T>(&mut self, _: usize, fill: impl FnOnce(&mut [u8]) -> T) -> T {
        fill(&mut [])
    }
}

/// Microseconds from bit 2 on, and the running counter is left alone (82576 datasheet, 8.8.14).
fn throttle(delay_us: u32) -> u32 {
    delay_us << 2 | VTEITR_CNT_IGNR
}

#[test]
fn the_device_is_told_of_a_delay_at_once_and_again_after_a_restart() {
    let (first, second) = (FakeRegisters::default(), FakeRegisters::default());
    let (receive, transmit) = (FakeMemory::new(2 * N), FakeMemory::new(512));
    let buffers = |count| (0..count).map(|_| Empty).collect::<Vec<_>>();
    let port: Port<_, _, _, N> =
        Port::new(&first, &receive, &transmit, buffers(N - 1), buffers(N / 2 - 1)).expect("the queues start");
    let address = Address::Static { address: Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, 1), 24), gateway: None };
    let mac = MacAddress([2, 0, 0, 0, 0, 1]);
    let settings = Settings { mac, address, vector: VECTOR, mode: Mode::Polled, seed: 1 };
    let mut stack = Stack::new(port, &first, &settings, 0);
    for (chosen, told) in [(300, 300), (0, 0), (MOST_INTERRUPT_DELAY_US + 1, MOST_INTERRUPT_DELAY_US)] {
        stack.set_interrupt_delay_us(chosen);
        assert_eq!(first.read32(vteitr(VECTOR)), throttle(told));
    }
    // The next function knows of nothing yet.
    stack.restart(&second, &receive, &transmit, Mode::Interrupt, 700).expect("the queues start");
    assert_eq!(second.read32(vteitr(VECTOR)), throttle(700));
    assert_eq!((second.read32(VTEIMS), second.read32(VTEIMC)), (1 << VECTOR, 0), "its mode is in force, too");
    stack.set_interrupt_delay_us(20);
    let of_second = [vteitr(VECTOR), vteitr(0)].map(|register| second.read32(register));
    assert_eq!((of_second, first.read32(vteitr(VECTOR))), ([throttle(20), 0], throttle(MOST_INTERRUPT_DELAY_US)));
}
