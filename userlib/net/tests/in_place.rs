//! That nothing is copied between the buffers of the driver and the application: what it is shown of a request lies where the
//! device wrote it, and what it writes as an answer lies where the device is told to read.

use device::fake::{FakeMemory, FakeRegisters};
use device::{DmaBuffer, DmaMemory, IoAddress};
use igbvf::MacAddress;
use net::smoltcp::phy::ChecksumCapabilities;
use net::smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Address, Ipv4Cidr, Ipv4Packet,
    Ipv4Repr, UdpPacket, UdpRepr,
};
use net::{Address, Mode, Port, Settings, Stack};
use std::cell::RefCell;
use std::rc::Rc;

/// Descriptors of each ring.
const N: usize = 8;
/// A descriptor that the device has written: done, the end of a frame, right checksums of IPv4 and UDP (82576 datasheet, 7.1.5.2).
const RECEIVED: u64 = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6;
/// Ethernet, IPv4, UDP.
const HEADERS: usize = 42;

/// A buffer that stays where it is, whose address for the device is where it is.
#[derive(Clone, Debug)]
struct Local(Rc<RefCell<[u8; 2048]>>);

impl Local {
    fn new() -> Local {
        Local(Rc::new(RefCell::new([0; 2048])))
    }

    fn at(&self) -> usize {
        self.0.as_ptr() as usize
    }
}

impl DmaBuffer for Local {
    fn io_address(&self) -> IoAddress {
        IoAddress(self.at() as u64)
    }

    fn capacity(&self) -> usize {
        2048
    }

    fn read<T>(&self, bytes: usize, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.0.borrow()[..bytes])
    }

    fn write<T>(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8]) -> T) -> T {
        fill(&mut self.0.borrow_mut()[..bytes])
    }
}

const OWN: ([u8; 6], Ipv4Address) = ([2, 0, 0, 0, 0, 1], Ipv4Address::new(10, 0, 0, 1));
const CLIENT: ([u8; 6], Ipv4Address) = ([2, 0, 0, 0, 0, 9], Ipv4Address::new(10, 0, 0, 9));

/// Writes a request, as the device would; returns its bytes.
fn request(buffer: &Local, payload: &[u8]) -> usize {
    let sums = ChecksumCapabilities::default();
    let udp = UdpRepr { src_port: 4000, dst_port: 7 };
    let ip = Ipv4Repr {
        src_addr: CLIENT.1,
        dst_addr: OWN.1,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + payload.len(),
        hop_limit: 64,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(CLIENT.0),
        dst_addr: EthernetAddress(OWN.0),
        ethertype: EthernetProtocol::Ipv4,
    };
    let mut bytes = buffer.0.borrow_mut();
    let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
    ethernet.emit(&mut frame);
    let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet, &sums);
    let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
    let fill = |place: &mut [u8]| place.copy_from_slice(payload);
    udp.emit(&mut datagram, &CLIENT.1.into(), &OWN.1.into(), payload.len(), fill, &sums);
    HEADERS + payload.len()
}

#[test]
fn a_request_is_shown_where_it_was_received_and_its_answer_is_sent_from_where_it_is_written() {
    let (registers, receive, transmit) = (FakeRegisters::default(), FakeMemory::new(2 * N), FakeMemory::new(512));
    let buffers = |count| (0..count).map(|_| Local::new()).collect::<Vec<_>>();
    let (in_buffers, out_buffers) = (buffers(N - 1), buffers(N / 2 - 1));
    let port: Port<_, _, _, N> =
        Port::new(&registers, &receive, &transmit, in_buffers.clone(), out_buffers.clone()).expect("the queues start");
    let address = Address::Static { address: Ipv4Cidr::new(OWN.1, 24), gateway: None };
    let settings = Settings { mac: MacAddress(OWN.0), address, vector: 0, mode: Mode::Polled, seed: 1 };
    let mut stack = Stack::new(port, &registers, &settings, 0);
    let payload: Vec<u8> = (0..700).map(|number| number as u8).collect();
    for (round, buffer) in in_buffers.iter().enumerate().take(2) {
        let bytes = request(buffer, &payload);
        receive.store(2 * round + 1, RECEIVED | (bytes as u64) << 32);
        let mut asked = Vec::new();
        stack.poll_and_answer(1_000, 7, |request, place| {
            asked.push((request.as_ptr() as usize, request.len(), place.as_ptr() as usize));
            place[..4].copy_from_slice(b"done");
            Some(4)
        });
        let [(request, length, place)] = asked[..] else { panic!("{asked:?}") };
        assert_eq!((request, length), (buffer.at() + HEADERS, payload.len()), "round {round}");
        let from = out_buffers.iter().find(|buffer| buffer.at() + HEADERS == place).expect("a buffer to be sent");
        assert_eq!(from.0.borrow()[HEADERS..HEADERS + 4], *b"done");
        // The device is told of this very buffer.
        assert!((0..2 * N).any(|word| transmit.load(word) == from.at() as u64), "round {round}");
    }
}
