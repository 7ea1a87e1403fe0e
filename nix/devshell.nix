{
  mkShell,
  rustPlatform,
  sandkeep,
  cargo-deny,
  cargo-nextest,
  clippy,
  nodejs,
  rust-analyzer,
  rustfmt,
}:

mkShell {
  inputsFrom = [ sandkeep ];
  packages = [
    cargo-deny
    cargo-nextest
    clippy
    # Peers of the tests and the example project.
    nodejs
    rust-analyzer
    rustfmt
  ];
  env.RUST_SRC_PATH = "${rustPlatform.rustLibSrc}";
}
