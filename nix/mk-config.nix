# A sandkeep.toml made from `settings` and checked when it is built: a mistake in it fails the build, with file, line and hint.
# `variables` are the names that the supervisor's environment will have; `${NAME}` in a value is an error for any other.
self:
{
  pkgs,
  settings,
  name ? "sandkeep.toml",
  variables ? [ ],
  package ? self.packages.${pkgs.stdenv.hostPlatform.system}.default,
}:

let
  inherit (pkgs) lib;
  file = (pkgs.formats.toml { }).generate name settings;
  assignments = map (variable: "${variable}=checked-at-build-time") variables;
in
pkgs.runCommand name { meta.description = "Configuration of sandkeep, checked"; } ''
  cp ${file} $out
  env -i PATH="$PATH" ${lib.concatStringsSep " " assignments} ${lib.getExe package} check $out
''
