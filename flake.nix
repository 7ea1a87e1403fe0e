{
  description = "sandkeep: one static binary that keeps an AI-coding sandbox alive";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      # The program is Linux-only.
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forAllSystems = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
    in
    {
      packages = forAllSystems (
        pkgs:
        let
          static = pkgs.pkgsStatic.callPackage ./nix/package.nix { };
        in
        {
          default = static;
          sandkeep = static;
          sandkeep-dynamic = pkgs.callPackage ./nix/package.nix { };
          # The supervisor alone, without the workers and the orchestrator's side.
          sandkeep-minimal = pkgs.pkgsStatic.callPackage ./nix/package.nix { minimal = true; };
        }
        // lib.optionalAttrs (pkgs.stdenv.hostPlatform.system == "x86_64-linux") {
          # Cross-compiled: nix build .#sandkeep-aarch64
          sandkeep-aarch64 =
            pkgs.pkgsCross.aarch64-multiplatform-musl.pkgsStatic.callPackage ./nix/package.nix
              { };
        }
      );

      overlays.default = import ./nix/overlay.nix;

      nixosModules.default = import ./nix/module.nix self;

      # lib.mkConfig { inherit pkgs; settings = { project.dev = "npm run dev"; }; } is a checked sandkeep.toml.
      lib.mkConfig = import ./nix/mk-config.nix self;

      checks = forAllSystems (pkgs: import ./nix/checks.nix { inherit self pkgs; });

      devShells = forAllSystems (pkgs: {
        default = pkgs.callPackage ./nix/devshell.nix {
          sandkeep = self.packages.${pkgs.stdenv.hostPlatform.system}.sandkeep-dynamic;
        };
      });

      formatter = forAllSystems (pkgs: pkgs.nixfmt-tree);
    };
}
