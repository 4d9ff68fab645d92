//! Makes a component of a core module that `wit-bindgen` built: `componentize IN.wasm OUT.wasm`.
//!
//! The same as `wasm-tools component new`, for those who don't have it.

use std::{env, fs, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [input, output] = arguments.as_slice() else {
        return complain("usage: componentize IN.wasm OUT.wasm");
    };
    let made = fs::read(input)
        .map_err(|error| format!("{input}: {error}"))
        .and_then(|module| kernel::fixture::componentize(&module).map_err(|error| format!("{input}: {error}")))
        .and_then(|component| fs::write(output, component).map_err(|error| format!("{output}: {error}")));
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

#[allow(clippy::print_stderr)]
fn complain(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}
