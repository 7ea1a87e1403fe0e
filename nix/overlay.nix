final: _prev: {
  sandkeep = final.pkgsStatic.callPackage ./package.nix { };
  sandkeep-dynamic = final.callPackage ./package.nix { };
}
