# A package set whose compiler, shell and cargo are the machine's own; nix/ci/run mounts them into the sandbox.
{ lib, system }:

let
  inherit (builtins) concatStringsSep filter;

  # Where nix/ci/environment mounts the Rust toolchain with the target for musl; cargo may be there or in /usr/bin.
  toolchain = "/opt/rust";
  # And where the user's own toolchain with clippy and rustfmt, and other tools, if there are any.
  devTools = "/opt/dev-rust/bin:/opt/tools";

  platform =
    { static }:
    let
      cpu = builtins.head (builtins.split "-" system);
      rustcTarget = "${cpu}-unknown-linux-${if static then "musl" else "gnu"}";
    in
    {
      inherit system;
      isStatic = static;
      isLinux = true;
      rust = { inherit rustcTarget; };
      canExecute = other: other.system == system;
    };

  mkStdenv = static: {
    buildPlatform = platform { static = false; };
    hostPlatform = platform { inherit static; };
    inherit mkDerivation;
  };

  mkDerivation =
    attrs:
    let
      meta = attrs.meta or { };
      drv = derivation (
        {
          name = attrs.name or "${attrs.pname}-${attrs.version}";
          inherit system;
          builder = "/bin/bash";
          outputs = [ "out" ];
          args = [ ./builder.sh ];
          PATH = "${toolchain}/bin:/usr/bin:/bin";
          SOURCE_DATE_EPOCH = "315532800";
        }
        // (attrs.env or { })
        // removeAttrs attrs [
          "env"
          "meta"
          "passthru"
        ]
      );
    in
    # nixpkgs checks the meta of what it builds; forcing it finds a misspelt licence here too.
    builtins.deepSeq meta drv
    // (attrs.passthru or { })
    // {
      inherit meta;
      inherit (drv) name;
      pname = attrs.pname or drv.name;
      version = attrs.version or "";
      nativeBuildInputs = attrs.nativeBuildInputs or [ ];
      overrideAttrs = f: mkDerivation (attrs // f ({ nativeBuildInputs = [ ]; } // attrs));
    };

  # A crate by the checksum of Cargo.lock. nix/ci/run puts the files that cargo fetched into the store beforehand, and Nix takes
  # them only if name and hash are these; so no address is written down, and none is asked.
  fetchCrate =
    package:
    derivation {
      name = "${package.name}-${package.version}.crate";
      inherit system;
      builder = "/bin/sh";
      args = [
        "-c"
        "echo the crate ${package.name} ${package.version} is not in the store: nix/ci/run puts it there >&2; exit 1"
      ];
      outputHash = package.checksum;
      outputHashAlgo = "sha256";
      outputHashMode = "flat";
    };

  importCargoLock =
    { lockFile, ... }:
    let
      fromRegistry = filter (package: package ? source) (lib.importTOML lockFile).package;
    in
    mkDerivation {
      name = "cargo-vendor-dir";
      crates = concatStringsSep "\n" (
        map (
          package:
          if !lib.hasPrefix "registry+" package.source then
            throw "stand-in: ${package.name} comes from ${package.source}; only the registry is known here"
          else
            "${fetchCrate package} ${package.name}-${package.version} ${package.checksum}"
        ) fromRegistry
      );
      passAsFile = [ "crates" ];
      dontUnpack = true;
      installPhase = ''
        mkdir -p $out
        while read -r tarball dir sum; do
          mkdir "$out/$dir"
          tar xzf "$tarball" -C "$out/$dir" --strip-components=1
          printf '{"files":{},"package":"%s"}' "$sum" > "$out/$dir/.cargo-checksum.json"
        done < <(cat "$cratesPath"; echo)
      '';
      dontFixup = true;
    };

  mkRustPlatform = stdenv: {
    rustLibSrc = "/usr/lib/rustlib/src";
    buildRustPackage =
      attrs:
      let
        inherit (stdenv.hostPlatform.rust) rustcTarget;
        flags = concatStringsSep " " (
          [ "--offline --frozen --target ${rustcTarget}" ]
          ++ lib.optional (attrs.buildNoDefaultFeatures or false) "--no-default-features"
        );
      in
      lib.makeOverridable mkDerivation (
        {
          cargoDeps = importCargoLock attrs.cargoLock;
          PATH =
            lib.optionalString (!stdenv.hostPlatform.isStatic) "${devTools}:"
            + "${toolchain}/bin:/usr/bin:/bin";
          # The release profile is tried by `.ci/static` and nix/ci/full; here what counts is that it builds, twice the same.
          env = {
            CARGO_PROFILE_RELEASE_LTO = "off";
            CARGO_PROFILE_RELEASE_CODEGEN_UNITS = "16";
            CARGO_PROFILE_RELEASE_OPT_LEVEL = "0";
          };
          buildPhase = ''
            runHook preBuild
            cargo build --release ${flags}
            runHook postBuild
          '';
          installPhase = ''
            runHook preInstall
            mkdir -p $out/bin
            find target/${rustcTarget}/release -maxdepth 1 -type f -executable -exec cp -t $out/bin {} +
            runHook postInstall
          '';
        }
        // removeAttrs attrs [
          "auditable"
          "buildNoDefaultFeatures"
          "cargoLock"
          "strictDeps"
        ]
      );
  };

  # Tools that come with the machine; here they are links.
  hostTool =
    name:
    mkDerivation {
      inherit name;
      dontUnpack = true;
      installPhase = ''
        mkdir -p $out/bin
        for d in ${builtins.replaceStrings [ ":" ] [ " " ] devTools} ${toolchain}/bin /usr/bin /bin; do
          if [ -x $d/${name} ]; then ln -s $d/${name} $out/bin/${name}; break; fi
        done
      '';
      dontFixup = true;
      meta.mainProgram = name;
    };
  hostTools = lib.genAttrs [
    "cargo-deny"
    "cargo-nextest"
    "clippy"
    "coreutils"
    "nixfmt-tree"
    "nodejs"
    "rust-analyzer"
    "rustfmt"
  ] hostTool;

  scope =
    static:
    let
      stdenv = mkStdenv static;
      pkgs = hostTools // {
        inherit lib stdenv system;
        inherit pkgs;
        rustPlatform = mkRustPlatform stdenv;
        callPackage = lib.callPackageWith pkgs;
        bashInteractive = hostTool "bash";
        mkShell =
          attrs:
          mkDerivation (
            {
              name = "nix-shell";
              dontUnpack = true;
              installPhase = "touch $out";
              dontFixup = true;
            }
            // removeAttrs attrs [
              "inputsFrom"
              "packages"
            ]
          );
        runCommand =
          name: attrs: script:
          mkDerivation (
            attrs
            // {
              inherit name;
              dontUnpack = true;
              installPhase = script;
              dontFixup = true;
            }
          );
        writeShellScript =
          name: text:
          pkgs.runCommand name {
            text = "#!/bin/sh\n${text}";
            passAsFile = [ "text" ];
          } "cp $textPath $out; chmod +x $out";
        formats.toml = _: {
          type = lib.types.toml;
          generate =
            name: value:
            pkgs.runCommand name {
              text = lib.toTOML value;
              passAsFile = [ "text" ];
            } "cp $textPath $out";
        };
        nixos = configuration: lib.evalOne { inherit pkgs configuration; };
        # A machine cannot be booted here: the test is evaluated no further than its name.
        testers.runNixOSTest =
          test:
          pkgs.runCommand "vm-test-${test.name}-not-run" { }
            "echo 'not run: a stand-in boots no machine' > $out";
      };
    in
    pkgs;
in
scope false
// {
  pkgsStatic = scope true;
  pkgsCross.aarch64-multiplatform-musl.pkgsStatic =
    (import ./pkgs.nix {
      inherit lib;
      system = "aarch64-linux";
    }).pkgsStatic;
}
