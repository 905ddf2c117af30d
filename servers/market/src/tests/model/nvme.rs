//! The model's NVMe controller.

use super::{Model, NVME_PHYSICAL};

impl Model {
    /// Adds an NVMe controller with so many virtual functions, besides the network device.
    pub fn add_nvme(&mut self, vfs: u64) {
        self.add_nic(8);
        self.add_function(NVME_PHYSICAL, vfs);
    }

    /// True if a virtual function of the controller is in its reset.
    pub fn is_nvme_reset(&self) -> bool {
        self.caps.values().any(|cap| cap.parent == Some((0, NVME_PHYSICAL)) && cap.value > self.now)
    }
}
