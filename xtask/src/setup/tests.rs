//! Set-up on made-up machines: what is missing, what is installed, and what is said when it cannot be.

use super::*;
use std::cell::RefCell;
use std::rc::Rc;

#[test]
fn versions_are_compared_as_numbers() {
    let parsed = parse_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright");
    assert_eq!(parsed, Some((10, 0, "10.0.2".into())));
    assert!((9, 2) < QEMU_NEEDED && (10, 1) > QEMU_NEEDED);
    assert_eq!(parse_version("nonsense"), None);
}

#[test]
fn without_root_the_exact_commands_are_told() {
    let text = by_hand("too old", "bookworm-backports", Some("Types: deb\n"));
    assert!(text.contains("sudo tee /etc/apt/sources.list.d/nonkernel-backports.sources <<'END'\nTypes: deb\nEND\n"));
    assert!(
        text.contains("sudo apt-get install --no-install-recommends -t bookworm-backports qemu-system-x86 seabios")
    );
}

/// A machine in a folder: programs that note their calls, and an `etc` of its own.
struct Fake {
    folder: PathBuf,
    said: Rc<RefCell<Vec<String>>>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

const DEBIAN_12: &str = "PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\nVERSION_ID=\"12\"\n";

impl Fake {
    /// With QEMU 7.2, `apt-get` that brings QEMU 10, and `rustup` that brings the target.
    fn new(name: &str, release: &str, user: u32) -> Fake {
        let folder = std::env::temp_dir().join(format!("nonkernel-setup-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let fake = Fake { folder, said: Rc::default() };
        for part in ["bin", "sysroot", "etc/apt/sources.list.d"] {
            fs::create_dir_all(fake.folder.join(part)).unwrap();
        }
        fs::write(fake.folder.join("etc/os-release"), release).unwrap();
        fs::write(
            fake.folder.join("etc/apt/sources.list"),
            "deb [signed-by=/own.gpg] http://mirror.example/debian bookworm main\n",
        )
        .unwrap();
        let at = fake.folder.display().to_string();
        fake.program(QEMU, "echo 'QEMU emulator version 7.2.0'");
        fake.program("id", &format!("echo {user}"));
        fake.program("rustc", &format!("echo {at}/sysroot"));
        let qemu = format!("{at}/bin/{QEMU}");
        fake.program(
            "apt-get",
            &format!(
                "echo \"apt-get $*\" >> {at}/calls\ncase \"$*\" in *install*)\n\
                 printf '#!/bin/sh\\necho QEMU emulator version 10.0.2\\n' > {qemu};; esac"
            ),
        );
        let library = format!("{at}/sysroot/lib/rustlib/{TARGET}/lib");
        fake.program("rustup", &format!("echo \"rustup $*\" >> {at}/calls\n/bin/mkdir -p {library}"));
        fake
    }

    fn program(&self, name: &str, script: &str) {
        process::script(&self.folder.join("bin").join(name), script);
    }

    fn host(&self) -> Host {
        let said = self.said.clone();
        Host {
            root: self.folder.clone(),
            path: self.folder.join("bin").into(),
            stamp: self.folder.join("target/stamp"),
            say: Box::new(move |text| said.borrow_mut().push(text.into())),
        }
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.folder.join("calls")).unwrap_or_default()
    }
}

#[test]
fn what_is_missing_is_installed_once_and_its_size_said() {
    let fake = Fake::new("once", DEBIAN_12, 0);
    let tools = fake.host().ensure().unwrap();
    assert_eq!((tools.qemu_version.as_str(), tools.compiler), ("10.0.2", Compiler::Own));
    assert_eq!(
        fake.calls(),
        "apt-get update -q\n\
         apt-get install -q -y --no-install-recommends -t bookworm-backports qemu-system-x86 seabios\n\
         rustup target add x86_64-unknown-none\n"
    );
    let source = fs::read_to_string(fake.folder.join(BACKPORTS_FILE)).unwrap();
    assert!(source.contains("URIs: http://mirror.example/debian\nSuites: bookworm-backports\n"), "{source}");
    let said = fake.said.take();
    assert!(said[0].contains("version 7.2.0, too old"), "{said:?}");
    for step in ["reading the package lists", "installing qemu-system-x86 seabios", "adding the Rust target"] {
        let line = said.iter().find(|line| line.contains(step)).expect(step);
        assert!(line.contains("MB to fetch"), "{line}");
    }

    // The second run says nothing and calls nobody; nor does one that has lost the stamp.
    let calls = fake.calls();
    assert_eq!(fake.host().ensure().unwrap(), tools);
    fs::remove_file(fake.host().stamp).unwrap();
    assert_eq!(fake.host().ensure().unwrap(), tools);
    assert_eq!((fake.calls(), fake.said.take()), (calls, Vec::new()));

    // A stamp does not hide that something has gone meanwhile.
    fs::remove_dir_all(fake.folder.join("sysroot/lib")).unwrap();
    fake.host().ensure().unwrap();
    assert!(fake.calls().ends_with("rustup target add x86_64-unknown-none\n"));
    assert_eq!(fake.said.take().len(), 1);
}

#[test]
fn a_new_enough_emulator_in_the_path_is_used_as_it_is_without_root() {
    let fake = Fake::new("as-it-is", DEBIAN_12, 1000);
    fake.program(QEMU, "echo 'QEMU emulator version 11.0.0'");
    let tools = fake.host().ensure().unwrap();
    assert_eq!(tools.qemu_version, "11.0.0");
    assert_eq!(fake.calls(), "rustup target add x86_64-unknown-none\n");
}

#[test]
fn what_cannot_be_installed_is_told_with_what_to_type() {
    let refusal = |fake: &Fake| format!("{:#}", fake.host().ensure().expect_err("nothing can be installed"));
    let user = Fake::new("user", DEBIAN_12, 1000);
    let told = refusal(&user);
    assert!(told.contains("  sudo tee /etc/apt/sources.list.d/nonkernel-backports.sources"), "{told}");
    assert!(told.contains("  sudo apt-get install --no-install-recommends -t bookworm-backports qemu"), "{told}");
    let other = Fake::new("other", "PRETTY_NAME=\"Fedora 42\"\nID=fedora\n", 0);
    let told = refusal(&other);
    assert!(told.contains("Install QEMU 10.0 or later") && told.contains("this is Fedora 42"), "{told}");
    assert_eq!(user.calls() + &other.calls(), "");
    assert!(!user.folder.join(BACKPORTS_FILE).exists() && !user.host().stamp.exists());

    let offline = Fake::new("offline", DEBIAN_12, 0);
    offline.program("apt-get", "exit 100");
    let told = refusal(&offline);
    assert!(told.contains("sudo apt-get update\n") && told.contains("exit status: 100"), "{told}");

    // A compiler that is too old is not even fetched.
    let old_compiler = Fake::new("old-compiler", DEBIAN_12, 0);
    old_compiler.program(QEMU, "echo 'QEMU emulator version 10.0.2'");
    old_compiler.program("rustup", "exit 1");
    old_compiler.program("apt-cache", "echo 'rustc-web:'; echo '  Candidate: 1.85.0+dfsg3-1~deb12u3'");
    let told = refusal(&old_compiler);
    assert!(told.contains("type: rustup target add") && told.contains("1.85.0+dfsg3-1~deb12u3, is older"), "{told}");
    assert_eq!(old_compiler.calls(), "apt-get update -q\n");

    let no_target = Fake::new("no-target", DEBIAN_12, 1000);
    no_target.program(QEMU, "echo 'QEMU emulator version 10.0.2'");
    no_target.program("rustup", "exit 1");
    let told = refusal(&no_target);
    assert!(told.contains("type: rustup target add x86_64-unknown-none"), "{told}");
    assert!(told.contains("apt-get install --no-install-recommends rustc-web cargo-web rust-web-src lld"), "{told}");
}
