# Boots a machine with the module: a unit starts, is killed and comes back, a reload keeps it, an upgrade keeps its process.
{ self, pkgs }:

pkgs.testers.runNixOSTest {
  name = "sandkeep";

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ self.nixosModules.default ];
      services.sandkeep.instances.demo = {
        path = [ pkgs.coreutils ];
        settings.unit.sleeper = {
          exec = [
            "${pkgs.coreutils}/bin/sleep"
            "infinity"
          ];
          restart = "always";
        };
      };
    };

  testScript = ''
    import json

    env = "SANDKEEP_RUNTIME_DIR=/run/sandkeep-demo SANDKEEP_STATE_DIR=/var/lib/sandkeep/demo/state"

    def sandkeep(arguments):
        return machine.succeed(f"{env} sandkeep --instance demo {arguments}")

    def sleeper():
        units = json.loads(sandkeep("status --json"))["units"]
        return next(unit for unit in units if unit["name"] == "sleeper")

    machine.wait_for_unit("sandkeep-demo.service")
    sandkeep("wait sleeper --timeout 30s")
    first = sleeper()["pid"]

    with subtest("a killed unit comes back"):
        machine.succeed(f"kill -9 {first}")
        machine.wait_until_succeeds(f"! test -e /proc/{first}")
        sandkeep("wait sleeper --timeout 30s")
        second = sleeper()["pid"]
        assert second != first

    with subtest("a reload changes nothing that did not change"):
        machine.succeed("systemctl reload sandkeep-demo.service")
        assert sleeper()["pid"] == second

    with subtest("an upgrade keeps the processes"):
        sandkeep("upgrade")
        assert sleeper()["pid"] == second

    with subtest("a stop leaves nothing"):
        machine.succeed("systemctl stop sandkeep-demo.service")
        machine.fail("pgrep -x sleep")
  '';
}
