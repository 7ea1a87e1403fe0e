# The few functions of nixpkgs' lib that flake.nix and nix/*.nix use, as strict as they are there.
let
  inherit (builtins)
    filter
    foldl'
    functionArgs
    hasAttr
    intersectAttrs
    isAttrs
    isFunction
    isList
    listToAttrs
    map
    mapAttrs
    match
    replaceStrings
    stringLength
    substring
    ;
in
rec {
  inherit (builtins)
    any
    attrNames
    attrValues
    concatMap
    concatStringsSep
    ;

  genAttrs =
    names: f:
    listToAttrs (
      map (name: {
        inherit name;
        value = f name;
      }) names
    );
  nameValuePair = name: value: { inherit name value; };
  mapAttrs' = f: set: listToAttrs (map (name: f name set.${name}) (attrNames set));
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  filterAttrs = keep: set: removeAttrs set (filter (name: !keep name set.${name}) (attrNames set));
  recursiveUpdate =
    a: b:
    a
    // mapAttrs (
      name: value:
      if a ? ${name} && isAttrs a.${name} && isAttrs value then recursiveUpdate a.${name} value else value
    ) b;

  optionalAttrs = condition: set: if condition then set else { };
  optionalString = condition: text: if condition then text else "";
  optional = condition: element: if condition then [ element ] else [ ];
  concatMapStringsSep =
    separator: f: list:
    concatStringsSep separator (map f list);
  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  hasInfix =
    infix: text:
    # The context of a store path is of no interest here, and split does not take it.
    builtins.length (builtins.split (escapeRegex infix) (builtins.unsafeDiscardStringContext text)) > 1;
  escapeRegex = replaceStrings [ "." "+" "*" ] [ "\\." "\\+" "\\*" ];
  importTOML = path: builtins.fromTOML (builtins.readFile path);
  getExe =
    package:
    "${package}/bin/${
      package.meta.mainProgram or (throw "getExe: ${package.name} has no meta.mainProgram")
    }";

  # An unknown licence or platform is an error, as in nixpkgs.
  licenses = genAttrs [ "mit" "asl20" ] (spdxId: {
    inherit spdxId;
  });
  platforms.linux = [
    "x86_64-linux"
    "aarch64-linux"
  ];

  makeOverridable =
    f: args:
    f args
    // {
      override = new: makeOverridable f (args // (if isFunction new then new args else new));
    };
  callPackageWith =
    scope: fn: args:
    let
      f = if isFunction fn then fn else import fn;
      wanted = functionArgs f;
      missing = filter (name: !wanted.${name} && !hasAttr name scope && !hasAttr name args) (
        attrNames wanted
      );
    in
    if missing != [ ] then
      throw "callPackage ${toString fn}: the stand-in has no '${concatStringsSep "', '" missing}'"
    else
      makeOverridable f (intersectAttrs wanted scope // args);

  fileset =
    let
      flat = x: if isList x then concatMap flat x else [ (toString x) ];
    in
    {
      unions = flat;
      maybeMissing = path: if builtins.pathExists path then [ (toString path) ] else [ ];
      toSource =
        { root, fileset }:
        let
          files = map (
            path: if builtins.pathExists path then path else throw "lib.fileset: ${path} does not exist"
          ) (flat fileset);
        in
        builtins.path {
          path = root;
          name = "source";
          filter =
            path: _type:
            any (file: path == file || hasPrefix (file + "/") path || hasPrefix (path + "/") file) files;
        };
    };

  # A module system for one module: declared defaults, submodules, types that check, and no merging between modules.
  mkOption = option: { _type = "option"; } // option;
  mkIf = condition: content: if condition then content else { };
  literalExpression = text: {
    _type = "literalExpression";
    inherit text;
  };
  types =
    let
      plain = name: check: {
        inherit name check;
        finish = _path: value: value;
      };
    in
    {
      bool = plain "bool" builtins.isBool;
      str = plain "str" builtins.isString;
      path = plain "path" (value: match "/.*" (toString value) != null);
      package = plain "package" (value: value ? drvPath);
      toml = plain "toml" isAttrs;
      listOf = element: {
        name = "listOf ${element.name}";
        check = value: isList value && builtins.all element.check value;
        finish = path: map (element.finish path);
      };
      attrsOf = element: {
        name = "attrsOf ${element.name}";
        check = value: isAttrs value && builtins.all element.check (attrValues value);
        finish = path: mapAttrs (name: element.finish "${path}.${name}");
      };
      submodule = module: {
        name = "submodule";
        check = isAttrs;
        finish =
          path: value:
          finishOptions path
            (module {
              name = builtins.baseNameOf (replaceStrings [ "." ] [ "/" ] path);
            }).options
            value;
      };
    };
  finishOptions =
    path: options: values:
    let
      unknown = filter (name: !options ? ${name}) (attrNames values);
      finishOption =
        name: option:
        let
          here = "${path}.${name}";
          value =
            values.${name} or option.default
              or (throw "the option ${here} was accessed but has no value defined");
        in
        if option._type or "" != "option" then
          finishOptions here option (values.${name} or { })
        else if !option.type.check value then
          throw "the option ${here} is not of type ${option.type.name}"
        else
          option.type.finish here value;
    in
    if unknown != [ ] then
      throw "the option ${path}.${builtins.head unknown} does not exist"
    else
      mapAttrs finishOption options;

  # What `pkgs.nixos` gives for a configuration that imports modules and sets only what they declare under services.sandkeep.
  evalOne =
    { pkgs, configuration }:
    let
      evaluate =
        module:
        module {
          inherit pkgs;
          lib = pkgs.lib;
          config.services =
            finishOptions "services"
              (module {
                inherit pkgs;
                lib = pkgs.lib;
                config = throw "the options must not depend on the configuration";
              }).options.services
              { sandkeep = configuration.services.sandkeep or { }; };
        };
      results = map (module: (evaluate module).config) configuration.imports;
    in
    {
      config = foldl' recursiveUpdate { } results;
    };

  # TOML of a set: its plain keys first, then its tables.
  toTOML =
    let
      key = name: if match "[A-Za-z0-9_-]+" name != null then name else builtins.toJSON name;
      value =
        v:
        if isList v then
          "[${concatStringsSep ", " (map value v)}]"
        else if isAttrs v then
          "{ ${concatStringsSep ", " (mapAttrsToList (name: w: "${key name} = ${value w}") v)} }"
        else
          builtins.toJSON v;
      table =
        path: set:
        let
          isTable = name: isAttrs set.${name};
          plain = filter (name: !isTable name) (attrNames set);
          tables = filter isTable (attrNames set);
          header = optionalString (path != [ ] && plain != [ ]) "[${concatStringsSep "." (map key path)}]\n";
        in
        header
        + concatStringsSep "" (map (name: "${key name} = ${value set.${name}}\n") plain)
        + concatStringsSep "" (map (name: table (path ++ [ name ]) set.${name}) tables);
    in
    table [ ];
}
