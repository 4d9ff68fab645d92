#!/bin/sh
# Builds docs.wasm, the component, beside this script.
#
# Needs Rust's target wasm32-unknown-unknown: `rustup target add wasm32-unknown-unknown`, or Debian's rustc-web,
# rust-web-src and lld. The component is made by `wasm-tools component new` if it is there, else by this repository.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
target=wasm32-unknown-unknown
build=${CARGO_TARGET_DIR:-$root/target}/plugins
export CARGO_TARGET_DIR="$build"
# Panic messages would carry the names of folders of the machine that builds.
RUSTFLAGS="--remap-path-prefix=$here=docs"
for sources in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
    RUSTFLAGS="$RUSTFLAGS --remap-path-prefix=$sources=crates"
done
# A small stack is enough: its pages belong to every call.
RUSTFLAGS="$RUSTFLAGS -Clink-arg=-zstack-size=131072"

cd "$here"
if [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
    export RUSTFLAGS
    cargo build --locked --release --target "$target" --lib
elif [ -x /usr/bin/rustc ] && [ -d /usr/lib/rustlib/src/rust/library ]; then
    # The generic driver, which rustc tells that it is to be wasm-ld.
    linker=$(command -v lld || find "$(rustc --print sysroot)" -name rust-lld | head -n 1)
    if [ -z "$linker" ]; then
        echo "build.sh: no lld; install Debian's lld" >&2
        exit 1
    fi
    # Debian ships the standard library's source, not its build for WebAssembly.
    RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS="$RUSTFLAGS -Clinker=$linker --remap-path-prefix=/usr/lib/rustlib/src/rust=rust" \
        cargo build --locked --release --target "$target" --lib -Zbuild-std=std,panic_abort -Zbuild-std-features=
else
    echo "build.sh: Rust can't build for $target; run: rustup target add $target" >&2
    exit 1
fi

module="$build/$target/release/docs.wasm"
if command -v wasm-tools >/dev/null; then
    wasm-tools component new "$module" -o "$here/docs.wasm"
else
    cd "$root"
    CARGO_TARGET_DIR="${build%/plugins}" cargo run --quiet -p kernel --features fixture --example componentize -- "$module" "$here/docs.wasm"
fi
echo "docs.wasm: $(wc -c <"$here/docs.wasm") bytes"
