# What cargo reads to build and test.
fs:
fs.unions [
  ../.cargo
  ../Cargo.toml
  ../Cargo.lock
  ../nix/order
  ../src
  ../tests
  (fs.maybeMissing ../benches)
  (fs.maybeMissing ../config)
]
