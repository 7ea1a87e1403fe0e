# services.sandkeep.instances.<name>: a supervisor of its own for each project, as a hardened systemd service.
self:
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.services.sandkeep;
  mkConfig = import ./mk-config.nix self;

  instanceOptions =
    { name, ... }:
    {
      options = {
        enable = lib.mkOption {
          type = lib.types.bool;
          default = true;
          description = "Whether to run this instance.";
        };

        root = lib.mkOption {
          type = lib.types.path;
          default = "/var/lib/sandkeep/${name}/project";
          description = "The project's folder. Relative paths of the settings are relative to it.";
        };

        settings = lib.mkOption {
          type = (pkgs.formats.toml { }).type;
          default = { };
          example = {
            project = {
              install = "npm install";
              dev = "npm run dev";
              port = 3000;
            };
          };
          description = "Contents of sandkeep.toml; checked with `sandkeep check` when the system is built.";
        };

        user = lib.mkOption {
          type = lib.types.str;
          default = "sandkeep";
          description = "The user that the supervisor and its units run as.";
        };

        environment = lib.mkOption {
          type = lib.types.attrsOf lib.types.str;
          default = { };
          description = "Environment of the supervisor. Not for secrets: it is world-readable in the store.";
        };

        credentials = lib.mkOption {
          type = lib.types.attrsOf lib.types.path;
          default = { };
          example = {
            R2_SECRET_ACCESS_KEY = "/run/secrets/r2";
          };
          description = ''
            Environment variables whose values are read from files at start, through systemd's LoadCredential.
            A value reaches only the units that name it in `secrets`.
          '';
        };

        path = lib.mkOption {
          type = lib.types.listOf lib.types.package;
          default = [ ];
          description = "Packages on the PATH of the units.";
        };

        stopTimeout = lib.mkOption {
          type = lib.types.str;
          default = "45s";
          description = "When systemd kills what is left; more than the settings' `shutdown.budget`.";
        };
      };
    };

  service =
    name: instance:
    let
      variables = lib.attrNames instance.environment ++ lib.attrNames instance.credentials;
      file = mkConfig {
        inherit pkgs variables;
        inherit (cfg) package;
        name = "sandkeep-${name}.toml";
        settings = lib.recursiveUpdate { project.root = instance.root; } instance.settings;
      };
      binary = lib.getExe cfg.package;
      # systemd hands credentials over as files; the supervisor takes secrets from its environment, and scrubs it.
      start = pkgs.writeShellScript "sandkeep-${name}-start" ''
        ${lib.concatMapStringsSep "\n" (
          variable: ''export ${variable}="$(cat "$CREDENTIALS_DIRECTORY/${variable}")"''
        ) (lib.attrNames instance.credentials)}
        exec ${binary} --instance ${name} up -c ${file}
      '';
    in
    {
      description = "sandkeep, instance ${name}";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      inherit (instance) path;
      environment = {
        SANDKEEP_RUNTIME_DIR = "/run/sandkeep-${name}";
        SANDKEEP_STATE_DIR = "/var/lib/sandkeep/${name}/state";
      }
      // instance.environment;
      serviceConfig = {
        Type = "notify";
        NotifyAccess = "main";
        ExecStart = "${start}";
        ExecReload = "${binary} --instance ${name} reload";
        WatchdogSec = "30s";
        Restart = "on-failure";
        RestartPreventExitStatus = [
          2
          78
        ];
        # The supervisor ends its units in order; what it leaves, systemd kills.
        KillMode = "mixed";
        TimeoutStartSec = "infinity";
        TimeoutStopSec = instance.stopTimeout;
        User = instance.user;
        StateDirectory = [
          "sandkeep/${name}"
          "sandkeep/${name}/project"
          "sandkeep/${name}/state"
        ];
        RuntimeDirectory = "sandkeep-${name}";
        RuntimeDirectoryMode = "0700";
        WorkingDirectory = instance.root;
        LoadCredential = lib.mapAttrsToList (variable: path: "${variable}:${path}") instance.credentials;

        # The unit's own cgroup is ours to divide among the units.
        Delegate = true;

        CapabilityBoundingSet = "";
        LockPersonality = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateTmp = true;
        ProtectClock = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectSystem = "strict";
        ReadWritePaths = [ instance.root ];
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        UMask = "0077";
        # Not MemoryDenyWriteExecute: JavaScript engines compile at run time. Not ProtectControlGroups: Delegate.
      };
    };

  enabled = lib.filterAttrs (_name: instance: instance.enable) cfg.instances;
in
{
  options.services.sandkeep = {
    package = lib.mkOption {
      type = lib.types.package;
      default = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
      defaultText = lib.literalExpression "sandkeep.packages.\${system}.default";
      description = "The sandkeep package to run.";
    };

    instances = lib.mkOption {
      type = lib.types.attrsOf (lib.types.submodule instanceOptions);
      default = { };
      description = "Supervisors, one for each project.";
    };
  };

  config = lib.mkIf (enabled != { }) {
    environment.systemPackages = [ cfg.package ];

    users.users = lib.mkIf (lib.any (instance: instance.user == "sandkeep") (lib.attrValues enabled)) {
      sandkeep = {
        isSystemUser = true;
        group = "sandkeep";
        description = "runs the units of sandkeep";
      };
    };
    users.groups = lib.mkIf (lib.any (instance: instance.user == "sandkeep") (lib.attrValues enabled)) {
      sandkeep = { };
    };

    systemd.services = lib.mapAttrs' (
      name: instance: lib.nameValuePair "sandkeep-${name}" (service name instance)
    ) enabled;
  };
}
