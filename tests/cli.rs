//! Golden tests of the command line: help, output, exit code. `TRYCMD=overwrite cargo test --test cli` writes them anew.

#[test]
fn goldens() {
    trycmd::TestCases::new()
        .env("SANDKEEP_RUNTIME_DIR", "/nonexistent/run")
        .env("SANDKEEP_STATE_DIR", "/nonexistent/state")
        .env("SANDKEEP_SOCKET", "")
        .env("COLUMNS", "100")
        .case("tests/cli/*.trycmd")
        .run();
}
