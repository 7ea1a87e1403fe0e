# A small generic builder with the phases of nixpkgs' that our packages use: unpack, build, check, install, fixup, installCheck.
# shellcheck shell=bash disable=SC2154 # Nix puts the attributes of the derivation into the environment
set -euo pipefail
export HOME=$NIX_BUILD_TOP/home TMPDIR=$NIX_BUILD_TOP
mkdir -p "$HOME" "$NIX_BUILD_TOP/bin"
# Debian's cc goes through /etc/alternatives, which the sandbox does not have.
ln -s /usr/bin/gcc "$NIX_BUILD_TOP/bin/cc"
ln -s /usr/bin/g++ "$NIX_BUILD_TOP/bin/c++"
export PATH=$NIX_BUILD_TOP/bin:$PATH CC_x86_64_unknown_linux_musl=x86_64-linux-musl-gcc
runHook() {
    local v=${!1-}
    if [ -n "$v" ]; then eval "$v"; fi
}
phase() { echo "== $1"; }
cd "$NIX_BUILD_TOP"
if [ -z "${dontUnpack-}" ]; then
    phase unpack
    cp -r "$src" source
    chmod -R u+w source
    cd source
    if [ -n "${cargoDeps-}" ]; then
        # As nixpkgs does: a copy beside the source, so that no store path of the crates ends up in panic messages.
        cp -r "$cargoDeps" "$NIX_BUILD_TOP/cargo-vendor-dir"
        mkdir -p .cargo
        cat >>.cargo/config.toml <<TOML
[source.crates-io]
replace-with = "vendored-sources"
[source.vendored-sources]
directory = "$NIX_BUILD_TOP/cargo-vendor-dir"
TOML
    fi
    runHook postUnpack
fi
phase build
eval "${buildPhase-}"
if [ -n "${doCheck-}" ]; then
    phase check
    eval "${checkPhase-}"
fi
phase install
eval "$installPhase"
if [ -z "${dontFixup-}" ]; then
    phase fixup
    for d in ${stripAllList-}; do find "$out/$d" -type f -exec strip -s {} +; done
    runHook postFixup
fi
if [ -n "${doInstallCheck-}" ]; then
    phase installCheck
    eval "${installCheckPhase-}"
fi
