//! Tells the code that is shared with the main package's tests where it is.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(elsewhere)");
    println!("cargo::rustc-cfg=elsewhere");
}
