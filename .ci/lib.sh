# What the steps of .ci/run have in common.

steps=0
current='setting up'

# step NAME COMMAND...: one step, timed. The first failure ends the run, by `set -e`.
step() {
    local begun=$SECONDS
    current=$1
    shift
    printf '\n=== %s\n' "$current"
    "$@" </dev/null
    printf -- '--- %s: %d s\n' "$current" $((SECONDS - begun))
    steps=$((steps + 1))
}

trap 'printf "\nFAILED after %d steps, in: %s\n" $steps "$current"' EXIT

# Said only by a run that came to its end.
summary() {
    trap - EXIT
    printf '\nAll %d steps passed in %d s.\n' $steps $SECONDS
}

# Debian's Rust comes with the sources of `core` and `std`, from which it builds them for any target.
packages=(
    rustc-web cargo-web rust-web-src
    gcc-aarch64-linux-gnu libc6-dev-arm64-cross binutils
    qemu-user qemu-system-arm
)

command -v pip >/dev/null || packages+=(python3-pip)

install_packages() {
    if dpkg -s "${packages[@]}" >/dev/null 2>&1; then
        return
    fi
    local sudo
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${packages[@]}" >/dev/null
}

# Debian's cargo.
cross_cargo() {
    RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc RUSTC_BOOTSTRAP=1 /usr/bin/cargo "$@"
}

# must_fail PATTERN COMMAND...: fails, and for the reason that PATTERN matches.
must_fail() {
    local pattern=$1 log
    shift
    log=$(mktemp)
    if "$@" >"$log" 2>&1; then
        echo "this should have failed: $*"
        return 1
    fi
    grep -q -- "$pattern" "$log" || { cat "$log"; return 1; }
    echo "fails as it should: $(grep -m1 -o -- "$pattern.*" "$log")"
    rm "$log"
}
