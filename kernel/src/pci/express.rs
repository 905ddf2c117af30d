//! The PCI Express capability (PCI Express Base Specification, 7.5.3): what kind of device a function is, and its registers
//! that the kernel uses.

use super::capability::Offsets;
use super::registers::EXTENDED;
use super::{Bdf, ConfigAccess};

/// Device Control, 16 bits, from the capability on.
pub const DEVICE_CONTROL: u16 = 0x08;
/// Of Device Control: the function resets itself.
pub const INITIATE_FLR: u16 = 1 << 15;
/// Of Device Control: Max_Read_Request_Size, 0 to 5 for 128 bytes to 4 KiB.
pub const MAX_READ_REQUEST: u16 = 7 << 12;
/// Of Device Control: requests may pass by the processors' caches, which hold what was cleared for the next owner of memory.
const ENABLE_NO_SNOOP: u16 = 1 << 11;
/// Device Status, 16 bits.
pub const DEVICE_STATUS: u16 = 0x0a;
/// Of Device Status: errors that were seen; a 1 clears.
pub const DEVICE_ERRORS: u16 = 0xf;
/// Of Device Status: requests have not been answered yet.
pub const TRANSACTIONS_PENDING: u16 = 1 << 5;
/// Of Device Capabilities: there is a function-level reset.
const FLR: u32 = 1 << 28;
/// Device Capabilities.
const DEVICE_CAPABILITIES: u16 = 0x04;
/// Device Control 2, 16 bits; from version 2 of the capability on.
const DEVICE_CONTROL_2: u16 = 0x28;
/// Of Device Control 2 of a port: functions numbers above 7 are passed on.
const ARI_FORWARDING: u16 = 1 << 5;
/// Bytes of the capability from version 2 on.
const VERSION_2_BYTES: u16 = 0x3c;

/// Device/Port Type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceType {
    /// Endpoint.
    Endpoint,
    /// Endpoint that needs what PCI Express has given up, such as I/O ports.
    LegacyEndpoint,
    /// From the root complex down.
    RootPort,
    /// Of a switch, towards the root complex.
    UpstreamPort,
    /// Of a switch, away from the root complex.
    DownstreamPort,
    /// Bridge to PCI.
    PciBridge,
    /// Bridge from PCI.
    ReverseBridge,
    /// Endpoint within the root complex.
    RootComplexEndpoint,
    /// Event collector of the root complex.
    EventCollector,
    /// Not known.
    Other(u8),
}

impl DeviceType {
    const fn of(number: u8) -> DeviceType {
        match number {
            0 => DeviceType::Endpoint,
            1 => DeviceType::LegacyEndpoint,
            4 => DeviceType::RootPort,
            5 => DeviceType::UpstreamPort,
            6 => DeviceType::DownstreamPort,
            7 => DeviceType::PciBridge,
            8 => DeviceType::ReverseBridge,
            9 => DeviceType::RootComplexEndpoint,
            10 => DeviceType::EventCollector,
            other => DeviceType::Other(other),
        }
    }
}

/// What the capability says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Express {
    /// Device/Port Type.
    pub device_type: DeviceType,
    /// Whether the function can be reset by itself.
    pub flr: bool,
    /// Device Control as firmware left it, but that it snoops: a reset loses it, and the sizes of packets must suit the ports
    /// above.
    pub device_control: u16,
}

impl Express {
    /// Reads the capability of a function, if there is one, and lets a port pass on no function numbers above 7: these would
    /// be functions that nobody has found.
    pub fn take(config: &mut impl ConfigAccess, function: Bdf, offsets: &Offsets) -> Option<Express> {
        let at = Some(offsets.express).filter(|&at| at != 0)?;
        let flags = config.read_half(function, at + 2);
        let device_type = DeviceType::of((flags >> 4 & 0xf) as u8);
        let is_port = matches!(device_type, DeviceType::RootPort | DeviceType::DownstreamPort);
        if is_port && flags & 0xf >= 2 && at + VERSION_2_BYTES <= EXTENDED {
            let control = config.read_half(function, at + DEVICE_CONTROL_2);
            config.write_half(function, at + DEVICE_CONTROL_2, control & !ARI_FORWARDING);
        }
        let device_control = config.read_half(function, at + DEVICE_CONTROL) & !(INITIATE_FLR | ENABLE_NO_SNOOP);
        if !is_port {
            config.write_half(function, at + DEVICE_CONTROL, device_control);
        }
        Some(Express { device_type, flr: config.read(function, at + DEVICE_CAPABILITIES) & FLR != 0, device_control })
    }
}
