# What a developer runs. `just` lists it.

default:
    @just --list

# Format, lints as errors, tests, dependency audit: what every commit passes.
check:
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo test --workspace --quiet
    just deny

# Licences, sources and duplicates; the architecture test checks the same without cargo-deny.
deny:
    @if command -v cargo-deny >/dev/null && cargo deny --version | grep -qE ' 0\.(1[6-9]|[2-9][0-9])'; then cargo deny --offline check bans licenses sources; else echo "cargo-deny 0.16 or later is not installed: audited by e2e/tests/architecture.rs only"; fi

# The README's test command.
test:
    cargo test

# The mesh on this machine.
run *ARGS:
    cargo run --release -- run {{ARGS}}

# Whole-mesh tests against the packaged binaries, with every real peer required.
e2e *ARGS: dist
    PILLION_BINARIES=target/dist PILLION_REQUIRE=all cargo test -p pillion-e2e {{ARGS}}

# The long shapes at full length.
soak *ARGS: dist
    PILLION_SOAK=1 PILLION_BINARIES=target/dist PILLION_REQUIRE=all cargo test -p pillion-e2e {{ARGS}}

# Paired measurements of the proxy's cost per request.
bench *ARGS: dist
    cargo bench --profile dist -p pillion-e2e {{ARGS}}

# Stripped binaries for packages, in target/dist.
dist:
    cargo build --profile dist --workspace --bins
    ls -l target/dist/pillion target/dist/pillion-proxy target/dist/pillion-control-plane
