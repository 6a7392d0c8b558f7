//! Links without a C runtime and without a C library, and lets no symbol stay undefined.

fn main() {
    for argument in ["-nostartfiles", "-Wl,--gc-sections", "-Wl,-z,defs"] {
        println!("cargo::rustc-link-arg-cdylib={argument}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
