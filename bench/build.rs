//! Links ggml's static libraries where they are wanted.

use std::env;

fn main() {
    println!("cargo:rerun-if-env-changed=KWAAINET_GGML");
    if env::var_os("CARGO_FEATURE_GGML").is_none() {
        return;
    }
    let folder = env::var("KWAAINET_GGML").expect("KWAAINET_GGML names the folder in which ggml was built");
    println!("cargo:rustc-link-search=native={folder}/ggml/src");
    println!("cargo:rerun-if-changed={folder}/ggml/src");
    for library in ["ggml", "ggml-cpu", "ggml-base"] {
        println!("cargo:rustc-link-lib=static={library}");
    }
    println!("cargo:rustc-link-lib=stdc++");
    // Natively ggml is built as its users build it, with OpenMP; zig has none.
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|environment| environment == "gnu") {
        println!("cargo:rustc-link-lib=gomp");
    }
}
