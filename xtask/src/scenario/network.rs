//! The network device of a scenario: what an application with a virtual function wants of it.

use super::ReadApp;
use super::reader::{Placed, Problems, Section};
use proto::nic::{CABLE_UNITS, KEPT_UNITS};
use proto::plan::App;

/// Mb/s in the base of an application with a virtual function, if the scenario does not say.
pub const BASE_BANDWIDTH: u32 = 100;
/// Numbers of VLANs (IEEE 802.1Q, 9.6: the others have meanings of their own).
const VLANS: std::ops::RangeInclusive<i64> = 1..=4094;

/// What an application wants.
pub struct Wanted {
    /// A virtual function.
    pub nic: bool,
    /// Those in its base, 0 or 1.
    pub base_vf: u32,
    /// Mb/s in its base.
    pub base_bandwidth: Placed<u32>,
    /// The VLAN that its function is in.
    pub vlan: Option<u16>,
    /// The port that it serves.
    pub port: Option<u16>,
}

impl Wanted {
    /// Reads the keys of an application.
    pub fn read(section: &mut Section<'_>, problems: &Problems) -> Wanted {
        let place = section.place();
        let nic = section.boolean("nic").unwrap_or(false);
        let needs_nic = |wanted: Option<Placed<i64>>, refusal: &str| {
            if let Some(placed) = wanted.as_ref().filter(|_| !nic) {
                problems.add(placed.place, refusal);
            }
            wanted
        };
        let most = i64::from(CABLE_UNITS - KEPT_UNITS);
        let base_bandwidth = needs_nic(
            section.integer("base_bandwidth", 0..=most),
            "`base_bandwidth`: only an application with `nic = true` has some",
        );
        let port = needs_nic(
            section.integer("port", 1..=65_535),
            "`port`: only an application with `nic = true` can be reached",
        );
        let base_vf =
            needs_nic(section.integer("base_vf", 0..=1), "`base_vf`: only an application with `nic = true` has one");
        let vlan = needs_nic(section.integer("vlan", VLANS), "`vlan`: only an application with `nic = true` is in one");
        if let (Some(vlan), Some(_)) = (&vlan, &port) {
            problems.add(vlan.place, "`vlan`: the host, for which `port` is, is in no VLAN");
        }
        let number = |placed: Option<Placed<i64>>| placed.and_then(|placed| u16::try_from(placed.value).ok());
        let base_bandwidth = base_bandwidth.map_or(Placed { value: BASE_BANDWIDTH, place }, |placed| Placed {
            value: u32::try_from(placed.value).unwrap_or(u32::MAX),
            place: placed.place,
        });
        let base_vf = base_vf.map_or(1, |placed| placed.value as u32);
        Wanted { nic, base_vf, base_bandwidth, vlan: number(vlan), port: number(port) }
    }

    /// Puts it into the plan, `port` apart.
    pub fn plan(&self, app: App) -> App {
        let Wanted { nic, base_vf, vlan, .. } = *self;
        App { nic, base_vf, base_bandwidth: self.base_bandwidth.value, vlan, ..app }
    }
}

/// All bases must fit into what the network device has.
pub fn check_bandwidth(apps: &[ReadApp], problems: &Problems) {
    let mut left = CABLE_UNITS - KEPT_UNITS;
    for network in apps.iter().map(|app| &app.network).filter(|network| network.nic) {
        let Placed { value: wanted, place } = network.base_bandwidth;
        if wanted > left {
            let reason = format!(
                "the network device has {left} Mb/s left for this base, not {wanted}: {KEPT_UNITS} of {CABLE_UNITS} are \
                 not for sale, and the bases before it have the rest"
            );
            problems.add(place, reason);
            break;
        }
        left -= wanted;
    }
}
