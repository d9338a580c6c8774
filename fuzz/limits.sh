# What a target may cost, for short.sh and long.sh: any input, in a build with AddressSanitizer.
# One allocation of 64 MiB, 1 GiB in all (AddressSanitizer keeps what is freed).
limits=(-malloc_limit_mb=64 -rss_limit_mb=1024 -max_len=65536 -print_final_stats=1)

cache="$HOME/.cache/securereg"
target_dir="${FUZZ_TARGET_DIR:-$cache/fuzz-target}"
bins="$target_dir/x86_64-unknown-linux-gnu/release"
export PATH="$cache/tools/bin:$PATH" CARGO_TERM_COLOR=never
cargo_fuzz=0.13.2

# The targets, as Cargo.toml has them.
targets() { sed -n '/^\[\[bin\]\]/{n;s/^name = "\(.*\)"/\1/p}' Cargo.toml; }

# Builds all targets, with what it takes to build them.
build() {
  rustup toolchain list | grep -q '^nightly' || rustup toolchain install nightly --profile minimal
  if [ "$(cargo fuzz --version 2>/dev/null)" != "cargo-fuzz $cargo_fuzz" ]; then
    cargo install --locked --root "$cache/tools" "cargo-fuzz@$cargo_fuzz"
  fi
  cargo +nightly fuzz build --fuzz-dir . --target-dir "$target_dir"
}

# dictionary TARGET: its option, when there is one.
dictionary() { [ ! -f "dict/$1.dict" ] || echo "-dict=dict/$1.dict"; }

# statistic NAME LOG: of libFuzzer's last lines.
statistic() { sed -n "s/^stat::$1: *//p" "$2" | tail -1; }
