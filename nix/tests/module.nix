# What the module makes of two instances, checked without booting anything.
{ self, pkgs }:

let
  inherit (pkgs) lib;
  machine = pkgs.nixos {
    imports = [ self.nixosModules.default ];
    system.stateVersion = "26.05";
    boot.loader.grub.enable = false;
    fileSystems."/".device = "none";
    # The supervisor alone: what is checked is the same, and the stand-in builds it in half the time.
    services.sandkeep.package = self.packages.${pkgs.stdenv.hostPlatform.system}.sandkeep-minimal;
    services.sandkeep.instances = {
      web = {
        credentials.R2_SECRET_ACCESS_KEY = "/run/secrets/r2";
        environment.PUBLIC_NAME = "shop";
        settings = {
          unit.web = {
            exec = "exec sleep infinity";
            environment.NAME = "\${PUBLIC_NAME}";
          };
          shutdown.budget = "30s";
        };
      };
      off.enable = false;
    };
  };
  inherit (machine.config.systemd) services;
  service = services.sandkeep-web.serviceConfig;
in
assert !(services ? sandkeep-off);
assert service.Type == "notify";
assert service.LoadCredential == [ "R2_SECRET_ACCESS_KEY:/run/secrets/r2" ];
assert lib.hasInfix "sandkeep-web-start" "${service.ExecStart}";
# Building the start script builds the configuration, and that runs `sandkeep check`.
pkgs.runCommand "sandkeep-module" { } ''
  grep -F -- '--instance web up -c' ${service.ExecStart}
  grep -F R2_SECRET_ACCESS_KEY ${service.ExecStart}
  touch $out
''
