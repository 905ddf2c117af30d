//! What an application's arguments say of its address.

use core::fmt;

use net::Address;
use net::smoltcp::wire::{Ipv4Address, Ipv4Cidr};

/// The argument that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong(&'static str);

impl fmt::Display for Wrong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

/// The address that `address` tells: `A.B.C.D/BITS`, with who leads to other networks in `gateway`, if anybody; by DHCP if
/// there is none, or it is `dhcp`.
///
/// # Errors
/// What of it is no address.
pub fn address(address: Option<&str>, gateway: Option<&str>) -> Result<Address, Wrong> {
    let Some(text) = address.filter(|text| *text != "dhcp") else { return Ok(Address::Dhcp) };
    let wrong = Wrong("`address` must be dhcp or like 10.0.2.101/24");
    let (host, bits) = text.split_once('/').ok_or(wrong)?;
    let bits: u8 = bits.parse().ok().filter(|bits| *bits <= 32).ok_or(wrong)?;
    let address = Ipv4Cidr::new(host.parse::<Ipv4Address>().map_err(|_| wrong)?, bits);
    let gateway = gateway.map(|text| text.parse().map_err(|_| Wrong("`gateway` must be like 10.0.2.2"))).transpose()?;
    Ok(Address::Static { address, gateway })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_everything_else_is_refused() {
        assert_eq!(address(None, None), Ok(Address::Dhcp));
        assert_eq!(address(Some("dhcp"), Some("10.0.2.2")), Ok(Address::Dhcp));
        let expected = Address::Static {
            address: Ipv4Cidr::new(Ipv4Address::new(10, 0, 2, 101), 24),
            gateway: Some(Ipv4Address::new(10, 0, 2, 2)),
        };
        assert_eq!(address(Some("10.0.2.101/24"), Some("10.0.2.2")), Ok(expected));
        for wrong in ["", "10.0.2.101", "10.0.2.101/33", "10.0.2/24", "10.0.2.256/24", "x/24"] {
            assert!(address(Some(wrong), None).is_err(), "{wrong}");
        }
        assert!(address(Some("10.0.2.1/24"), Some("there")).is_err());
    }
}
