//! Gives the linker what the bootable kernel needs, so that the build command stays plain:
//!
//! `cargo build -p kernel --bin nonkernel --features machine --target x86_64-unknown-none --release`
//!
//! No `RUSTFLAGS` are needed: the target compiles position-independent code without SSE and without a red zone, and
//! `--no-pie` links it at the fixed addresses of `kernel.ld`, where every reference becomes absolute or rip-relative.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=kernel.ld");
    let none = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    if !none {
        return;
    }
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    for argument in ["--no-pie", "-zmax-page-size=4096", "--gc-sections", "-znognustack", "--build-id=none"] {
        println!("cargo:rustc-link-arg-bin=nonkernel={argument}");
    }
    println!("cargo:rustc-link-arg-bin=nonkernel=-T{folder}/kernel.ld");
}
