//! The network of a scenario's machine: its device, and how clients on the host reach what applications serve.
//!
//! The network ends in the emulator, which lets nothing out. A port that an application serves has a port of the host's
//! loopback address in front of it: the same number if it is free, else one of the next, else any.

use crate::scenario::{Scenario, Service};
use anyhow::{Context, Result};
use std::net::{Ipv4Addr, TcpListener};

/// The emulator's network, by itself.
const NETWORK: &str = "user,id=n0,restrict=on";
/// Where clients on the host find services.
const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Ports that are tried besides any: the service's own, and those after it.
const NEAR: u16 = 8;

/// A service, and the port of the host that leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The service.
    pub service: Service,
    /// TCP port of the host's loopback address.
    pub port: u16,
}

impl Forward {
    /// How to talk to it, which is one of these.
    pub fn describe(&self, scenario: &Scenario, all: &[Forward]) -> String {
        let name = |service: &Service| scenario.plan.apps.get(service.app).map_or("?", |app| app.name.as_str());
        let wanted = self.service.port;
        let why = match all.iter().find(|other| other.port == wanted) {
            _ if self.port == wanted => String::new(),
            Some(other) => format!(" (port {wanted} is that of {})", name(&other.service)),
            None => format!(" (port {wanted} is not free)"),
        };
        format!("{} serves TCP at {HOST}:{}{why}", name(&self.service), self.port)
    }
}

/// What the emulator is told for an IOMMU.
pub const IOMMU: [&str; 2] = ["-device", "intel-iommu,intremap=on,eim=on"];

/// What the emulator is told for a scenario whose applications have virtual functions: an IOMMU, and an Intel 82576 behind a
/// root port, with this network.
pub fn devices(network: &str) -> Vec<String> {
    let words = [
        IOMMU[0],
        IOMMU[1],
        "-device",
        "pcie-root-port,id=rp0,chassis=1,slot=1",
        "-netdev",
        network,
        "-device",
        "igb,bus=rp0,netdev=n0",
    ];
    words.map(String::from).into()
}

/// The network that leads to these services, by TCP: a network that lets nothing out lets no answer by UDP out either.
pub fn user(forwards: &[Forward]) -> String {
    let mut network = String::from(NETWORK);
    for Forward { service, port } in forwards {
        network += &format!(",hostfwd=tcp:{HOST}:{port}-{}:{}", service.address, service.port);
    }
    network
}

/// Chooses ports of the host for what a scenario serves. Nobody keeps them free from here on.
///
/// # Errors
/// When there is no port left.
pub fn forwards(scenario: &Scenario) -> Result<Vec<Forward>> {
    let mut chosen: Vec<Forward> = Vec::new();
    for service in &scenario.services {
        let is_new = |port: &u16| chosen.iter().all(|other| other.port != *port);
        let mut near = service.port..service.port.saturating_add(NEAR);
        let port = near.find(|port| is_new(port) && is_free(*port));
        let port = port.map_or_else(|| any_port(is_new), Ok)?;
        chosen.push(Forward { service: service.clone(), port });
    }
    Ok(chosen)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((HOST, port)).is_ok()
}

/// A port that is free.
fn any_port(is_new: impl Fn(&u16) -> bool) -> Result<u16> {
    const TRIES: usize = 100;
    let free = (0..TRIES).find_map(|_| {
        let port = TcpListener::bind((HOST, 0)).ok()?.local_addr().ok()?.port();
        Some(port).filter(|port| is_new(port) && is_free(*port))
    });
    free.context("no port of the host is free")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_replaced() {
        let taken = TcpListener::bind((HOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let text = format!(
            "[[app]]\nname = \"a\"\nimage = \"kv\"\nnic = true\nport = {port}\nbudget = 1\n\
             [[app]]\nname = \"b\"\nimage = \"kv\"\nnic = true\nport = {port}\nbudget = 1\n"
        );
        let images = ["kv".to_string()];
        let scenario =
            crate::scenario::parse(std::path::Path::new("x.toml"), &text, &Default::default(), &images).unwrap();
        assert_eq!(scenario.plan.apps[1].args, ["address=10.0.2.102/24"]);
        let forwards = forwards(&scenario).unwrap();
        let [a, b] = [&forwards[0], &forwards[1]];
        assert!(a.port != port && b.port != port && a.port != b.port, "{forwards:?}");
        let says = a.describe(&scenario, &forwards);
        assert_eq!(says, format!("a serves TCP at 127.0.0.1:{} (port {port} is not free)", a.port));
        let network = user(&forwards);
        let rule = format!(",hostfwd=tcp:127.0.0.1:{}-10.0.2.102:{port}", b.port);
        assert!(network.contains(&rule), "{network}");
        drop(taken);
        let forwards = super::forwards(&scenario).unwrap();
        assert_eq!(forwards[0].port, port, "it is free now");
        let says = forwards[1].describe(&scenario, &forwards);
        assert_eq!(says, format!("b serves TCP at 127.0.0.1:{} (port {port} is that of a)", forwards[1].port));
    }
}
