//! The solvers of `verification/proofs` and `verification/symbolic`: z3, cvc5 and bitwuzla from PyPI, in an environment of Python below the target folder.

use super::Host;
use crate::{paths, process};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;

/// What is installed, with its hashes: below the root of the repository.
const REQUIREMENTS: &str = "verification/proofs/requirements.txt";
/// What Debian's Python needs to make an environment.
const PACKAGES: [&str; 1] = ["python3-venv"];

/// Makes sure that the solvers are there; silent when they are. The Python that has them.
///
/// # Errors
/// When they are missing and can't be installed; the message says what to type.
pub fn ensure_solvers() -> Result<PathBuf> {
    Host::this().ensure_solvers(&paths::target().join("solvers"))
}

impl Host {
    pub(super) fn ensure_solvers(&self, folder: &std::path::Path) -> Result<PathBuf> {
        let requirements = paths::root().join(REQUIREMENTS);
        let wanted =
            fs::read_to_string(&requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
        let (python, stamp) = (folder.join("bin/python"), folder.join("requirements.txt"));
        let is_installed = || fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) && python.exists();
        if is_installed() {
            return Ok(python);
        }
        let Some(host_python) = self.find("python3") else {
            bail!("python3 is missing; on Debian, type: sudo apt-get install python3 python3-venv");
        };
        let has_venv = || {
            let mut import = self.command("python3");
            process::quiet(import.args(["-c", "import venv, ensurepip"])).is_ok()
        };
        self.ensure_packages(&PACKAGES, "Python's environments", "3 MB to fetch, 7 MB on disk", has_venv)?;
        self.say("installing z3, cvc5 and bitwuzla below the target folder (about 60 MB to fetch, 220 MB on disk)");
        let advice = || {
            format!(
                "the solvers could not be installed; with a network, type: {} -m venv --clear {} && {} -m pip install \
                 --require-hashes -r {}",
                host_python.display(),
                folder.display(),
                python.display(),
                requirements.display()
            )
        };
        self.run(self.command("python3").args(["-m", "venv", "--clear"]).arg(folder)).with_context(advice)?;
        let mut install = std::process::Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]);
        self.run(install.args(["--require-hashes", "-r"]).arg(&requirements)).with_context(advice)?;
        fs::write(&stamp, &wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
        Ok(python)
    }
}
