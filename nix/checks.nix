{ self, pkgs }:

let
  inherit (pkgs) lib;
  inherit (pkgs.stdenv.hostPlatform) system;
  inherit (self.packages.${system}) sandkeep sandkeep-dynamic sandkeep-minimal;
  fs = lib.fileset;

  # A check that runs cargo over the package's source, its settings for the tools, and its vendored crates.
  cargoCheck =
    name: tools: command:
    sandkeep-dynamic.overrideAttrs (old: {
      pname = "sandkeep-${name}";
      src = fs.toSource {
        root = ../.;
        fileset = fs.unions [
          (import ./sources.nix fs)
          ../clippy.toml
          ../deny.toml
          ../rustfmt.toml
          ../.config
        ];
      };
      nativeBuildInputs = old.nativeBuildInputs ++ tools;
      buildPhase = ''
        runHook preBuild
        ${command}
        runHook postBuild
      '';
      doCheck = false;
      doInstallCheck = false;
      installPhase = "touch $out";
      dontFixup = true;
    });
in
{
  # Builds, runs, is static, refers to nothing.
  package = sandkeep;
  package-dynamic = sandkeep-dynamic;
  package-minimal = sandkeep-minimal;

  clippy = cargoCheck "clippy" [ pkgs.clippy ] ''
    cargo clippy --offline --all-targets -- -D warnings
  '';

  fmt = cargoCheck "fmt" [ pkgs.rustfmt ] ''
    cargo fmt --check
  '';

  # The pure parts. The scenarios need a machine's /proc, users and namespaces: the VM test and `.ci/test` run those.
  tests = cargoCheck "tests" [ ] ''
    cargo test --offline --lib
  '';

  deny = cargoCheck "deny" [ pkgs.cargo-deny ] ''
    cargo deny --offline check licenses bans sources
  '';

  # The module evaluates, and its settings pass `sandkeep check`.
  module = import ./tests/module.nix { inherit self pkgs; };

  # Boots a NixOS machine (needs KVM on the builder).
  vm = import ./tests/vm.nix { inherit self pkgs; };
}
