{
  lib,
  stdenv,
  rustPlatform,
  minimal ? false,
}:

let
  fs = lib.fileset;
  manifest = (lib.importTOML ../Cargo.toml).package;
  inherit (stdenv.hostPlatform) isStatic;
in
rustPlatform.buildRustPackage {
  pname = manifest.name + lib.optionalString minimal "-minimal";
  inherit (manifest) version;

  # Only what cargo reads: a change to the documentation, nix/ or CI does not rebuild.
  src = fs.toSource {
    root = ../.;
    fileset = import ./sources.nix fs;
  };

  cargoLock.lockFile = ../Cargo.lock;

  buildNoDefaultFeatures = minimal;

  strictDeps = true;

  # The tests are a check of their own (nix/checks.nix): here they would be compiled with the release profile.
  doCheck = false;

  # Nothing but the binary; nixpkgs' fixup strips debug sections only, this drops the symbol table as well.
  stripAllList = [ "bin" ];
  auditable = false;

  # A static binary must not drag a closure behind it.
  ${if isStatic then "allowedReferences" else null} = [ ];

  doInstallCheck = stdenv.buildPlatform.canExecute stdenv.hostPlatform;
  installCheckPhase = ''
    runHook preInstallCheck
    test "$($out/bin/sandkeep --version)" = "sandkeep ${manifest.version}"
    ${lib.optionalString isStatic ''
      if ''${READELF:-readelf} -lW $out/bin/sandkeep | grep -q 'program interpreter'; then
        echo "not static: it has a program interpreter" >&2
        exit 1
      fi
    ''}
    runHook postInstallCheck
  '';

  meta = {
    inherit (manifest) description;
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "sandkeep";
    platforms = lib.platforms.linux;
  };
}
