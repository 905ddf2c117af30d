//! The NVMe controller of a scenario whose applications have namespaces: what the emulator is told, and the files behind the
//! namespaces.

use anyhow::{Context, Result};
use proto::storage::{MAX_VFS, MESSAGE, QUEUES};
use std::fs::File;
use std::path::Path;

/// What is behind the namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A file each, in the run's folder.
    File,
    /// Nothing: what is written is forgotten, and what is read is zeroes. For figures, as it takes no time.
    Null,
}

/// The controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// What is behind its namespaces.
    pub medium: Medium,
    /// Bytes of each namespace; none: the machine has no controller.
    pub namespaces: Vec<u64>,
}

impl Storage {
    /// The emulator's arguments, without those for the IOMMU. Makes the files of namespaces, which are empty, in `folder`.
    ///
    /// # Errors
    /// When a file can't be made.
    pub fn devices(&self, folder: &Path) -> Result<Vec<String>> {
        if self.namespaces.is_empty() {
            return Ok(Vec::new());
        }
        let vfs = self.namespaces.len().min(MAX_VFS);
        let (queues, vectors) = (vfs * (1 + QUEUES), vfs * (1 + usize::from(MESSAGE)));
        let mut arguments: Vec<String> = [
            "-device",
            "pcie-root-port,id=rp1,chassis=2,slot=2",
            "-device",
            "nvme-subsys,id=ss0",
            "-device",
            // Two queue pairs and vectors more, of the physical function itself.
            &format!(
                "nvme,id=nv0,bus=rp1,serial=nonkernel,subsys=ss0,sriov_max_vfs={vfs},sriov_vq_flexible={queues},\
                 sriov_vi_flexible={vectors},max_ioqpairs={},msix_qsize={}",
                queues + 2,
                vectors + 2
            ),
        ]
        .map(ToString::to_string)
        .into();
        for (number, &bytes) in (1..).zip(&self.namespaces) {
            let drive = match self.medium {
                Medium::Null => format!("id=d{number},if=none,driver=null-co,read-zeroes=on,size={bytes}"),
                Medium::File => {
                    let path = folder.join(format!("namespace-{number}"));
                    let file = File::create(&path).and_then(|file| file.set_len(bytes));
                    file.with_context(|| format!("cannot make {}", path.display()))?;
                    // A comma in a value is written twice.
                    format!("id=d{number},if=none,format=raw,file={}", path.display().to_string().replace(',', ",,"))
                }
            };
            let namespace = format!("nvme-ns,drive=d{number},bus=nv0,nsid={number},shared=on,detached=on");
            arguments.extend(["-drive".into(), drive, "-device".into(), namespace]);
        }
        Ok(arguments)
    }
}
