//! What every provider has to do. Another provider's tests include this file with `#[path]` and call [`holds`].

use sandkeep::sandbox::provider::{Body, Command, Exit, Provider, Sandbox, Secret, State, Upload, Wake, Wanted, hear};
use std::time::{Duration, Instant};

/// What differs from provider to provider.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// It makes and ends sandboxes; otherwise there is one box, which is somebody else's.
    pub(crate) makes: bool,
}

const NAME: &str = "contract-1";
const SECRET: &str = "s3cr3t-of-the-contract";

/// Goes through everything with one sandbox of one provider, which is left as it was found.
pub(crate) async fn holds(provider: &dyn Provider, kind: Kind) {
    let sandbox = is_made_and_found(provider, kind).await;
    runs_commands(provider, &sandbox).await;
    hands_over_input(provider, &sandbox).await;
    words_stay_as_they_are(provider, &sandbox).await;
    takes_files(provider, &sandbox).await;
    launches(provider, &sandbox).await;
    many_at_once(provider, &sandbox).await;
    is_stopped_and_woken(provider, &sandbox, kind).await;
}

async fn said(provider: &dyn Provider, sandbox: &Sandbox, command: Command) -> (i32, String, String) {
    let (Exit(code), heard) = hear(provider, sandbox, &command).await.expect("the command runs");
    let errors = String::from_utf8_lossy(&heard.stderr).into_owned();
    (code, heard.text(), errors)
}

async fn shell(provider: &dyn Provider, sandbox: &Sandbox, script: &str) -> String {
    let (code, text, errors) = said(provider, sandbox, Command::shell(script)).await;
    assert_eq!(code, 0, "{script}: {errors}");
    text
}

async fn is_made_and_found(provider: &dyn Provider, kind: Kind) -> Sandbox {
    let wanted = Wanted {
        name: NAME.to_owned(),
        ports: vec![3000, 7878],
        timeout: Some(Duration::from_secs(600)),
    };
    if kind.makes {
        assert_eq!(provider.find(NAME, Wake::Yes).await.unwrap(), None, "nothing is there at first");
    }
    let made = provider.create(&wanted).await.unwrap();
    assert_eq!((made.name.as_str(), made.state), (NAME, State::Running));
    assert!(!made.id.is_empty());
    let again = provider.create(&wanted).await.unwrap();
    assert_eq!(
        (&again.id, &again.session),
        (&made.id, &made.session),
        "the same name is the same sandbox"
    );
    let found = provider.find(NAME, Wake::No).await.unwrap().expect("it is found");
    assert_eq!((&found.id, &found.session), (&made.id, &made.session));
    if kind.makes {
        let all = provider.list().await.unwrap();
        assert_eq!(all.iter().filter(|sandbox| sandbox.id == made.id).count(), 1, "it is listed once");
    }
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(900);
    if let Some(ends) = provider.extend(&made, until).await.unwrap() {
        assert!(ends.duration_since(until).as_secs() >= -5, "{ends} is before {until}");
    }
    made
}

async fn runs_commands(provider: &dyn Provider, sandbox: &Sandbox) {
    let (code, out, err) = said(provider, sandbox, Command::shell("echo out; echo err >&2; exit 7")).await;
    assert_eq!((code, out.as_str(), err.as_str()), (7, "out\n", "err\n"));
    let (code, ..) = said(provider, sandbox, Command::shell("kill -TERM $$")).await;
    assert_eq!(code, 143, "128 and the signal");
    let (code, ..) = said(provider, sandbox, Command::shell("no-such-program-anywhere")).await;
    assert_eq!(code, 127);
    let much = shell(
        provider,
        sandbox,
        "i=0; while [ $i -lt 20000 ]; do echo \"line $i\"; i=$((i+1)); done",
    )
    .await;
    assert_eq!(much.lines().count(), 20_000);
    assert_eq!(much.lines().last(), Some("line 19999"));
    let (_, directory, _) = said(provider, sandbox, Command::shell("pwd").in_directory("/")).await;
    assert_eq!(directory.trim(), "/");
}

async fn hands_over_input(provider: &dyn Provider, sandbox: &Sandbox) {
    let command = Command::shell("wc -c; id -u >/dev/null").with_stdin(Secret::new("x".repeat(300_000)));
    assert_eq!(said(provider, sandbox, command).await.1.trim(), "300000");
    let quiet = Command::shell(
        "cat >/dev/null; for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f 2>/dev/null; done | grep -c 's3cr3t-of-the-contrac[t]'; exit 0",
    );
    let (_, count, _) = said(provider, sandbox, quiet.with_stdin(Secret::new(SECRET))).await;
    assert_eq!(count.trim(), "0", "what comes in on standard input is in no argument list");
    let (_, none, _) = said(provider, sandbox, Command::shell("cat | wc -c")).await;
    assert_eq!(none.trim(), "0", "no input is an empty one");
}

async fn words_stay_as_they_are(provider: &dyn Provider, sandbox: &Sandbox) {
    let words = [
        "", "a b", "'", "\"", "$HOME", "`id`", "\\n", "a\nb", "*", "ä €", ";", "&& false", "-n",
    ];
    let command = words
        .iter()
        .fold(Command::shell("for w; do printf '[%s]' \"$w\"; done").arg("sh"), |command, word| {
            command.arg(*word)
        });
    let wanted: String = words.iter().map(|word| format!("[{word}]")).collect();
    assert_eq!(said(provider, sandbox, command).await.1, wanted);
}

async fn takes_files(provider: &dyn Provider, sandbox: &Sandbox) {
    let here = shell(provider, sandbox, "mktemp -d").await.trim().to_owned();
    let bytes: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let upload = |name: &str, mode, bytes: Vec<u8>| Upload {
        path: format!("{here}/{name}"),
        mode,
        body: Body::Bytes(Secret::new(bytes)),
    };
    let sent = provider
        .upload(sandbox, &upload("deep/er/a b.bin", 0o640, bytes.clone()))
        .await
        .unwrap();
    assert!(sent > 0);
    let script = "cd \"$0\" && wc -c <'deep/er/a b.bin' && cksum <'deep/er/a b.bin' && stat -c %a 'deep/er/a b.bin' && ls deep/er";
    let (code, text, errors) = said(provider, sandbox, Command::shell(script).arg(&here)).await;
    assert_eq!(code, 0, "{errors}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        (lines[0].trim(), lines[2], lines[3], lines.len()),
        ("800000", "640", "a b.bin", 4),
        "{text}"
    );

    let program = |word: &str| format!("#!/bin/sh\necho {word}\nread -r line\necho {word} $line\n").into_bytes();
    provider.upload(sandbox, &upload("program", 0o755, program("old"))).await.unwrap();
    provider.upload(sandbox, &upload("program", 0o755, program("new"))).await.unwrap();
    let command = Command::new([format!("{here}/program")]).with_stdin(Secret::new("input\n"));
    assert_eq!(said(provider, sandbox, command).await.1, "new\nnew input\n");

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let of_file = Upload {
        path: format!("{here}/copy"),
        mode: 0o600,
        body: Body::File(file.path().to_owned()),
    };
    provider.upload(sandbox, &of_file).await.unwrap();
    shell(
        provider,
        sandbox,
        &format!("cmp '{here}/copy' '{here}/deep/er/a b.bin' && rm -r '{here}'"),
    )
    .await;
}

async fn launches(provider: &dyn Provider, sandbox: &Sandbox) {
    let here = shell(provider, sandbox, "mktemp -d").await.trim().to_owned();
    let script = "read -r word; echo \"got ${#word}\"; echo $$ >\"$0/pid\"; pwd; while [ ! -e \"$0/end\" ]; do sleep 0.05; done; echo ended >\"$0/ended\"";
    let command = Command::shell(script)
        .arg(&here)
        .in_directory(&here)
        .with_stdin(Secret::new(format!("{SECRET}\n")));
    let id = provider.launch(sandbox, &command, &format!("{here}/log")).await.unwrap();
    assert!(!id.is_empty());
    until(provider, sandbox, &format!("test -s '{here}/pid'")).await;
    until(provider, sandbox, &format!("grep -q '{here}' '{here}/log'")).await;
    let log = shell(provider, sandbox, &format!("cat '{here}/log'")).await;
    assert!(log.starts_with(&format!("got {}\n", SECRET.len())), "{log:?}");
    shell(provider, sandbox, &format!("kill -0 $(cat '{here}/pid')")).await;
    shell(provider, sandbox, &format!("touch '{here}/end'")).await;
    until(provider, sandbox, &format!("test -s '{here}/ended'")).await;
    shell(provider, sandbox, &format!("rm -r '{here}'")).await;
}

async fn many_at_once(provider: &dyn Provider, sandbox: &Sandbox) {
    let one = |number: usize| async move { shell(provider, sandbox, &format!("echo {number}")).await };
    let all = futures_util::future::join_all((0..6).map(one)).await;
    let all: Vec<&str> = all.iter().map(|text| text.trim()).collect();
    assert_eq!(all, ["0", "1", "2", "3", "4", "5"]);
}

async fn is_stopped_and_woken(provider: &dyn Provider, sandbox: &Sandbox, kind: Kind) {
    let home = shell(provider, sandbox, "pwd").await.trim().to_owned();
    let kept = format!("{home}/kept-by-the-contract");
    shell(provider, sandbox, &format!("echo here >'{kept}'")).await;
    provider.stop(sandbox).await.unwrap();
    provider.stop(sandbox).await.unwrap();
    if kind.makes {
        let stopped = provider.find(NAME, Wake::No).await.unwrap();
        assert!(
            stopped.as_ref().is_none_or(|stopped| stopped.state != State::Running),
            "{stopped:?}"
        );
        if stopped.is_some_and(|stopped| stopped.state == State::Stopped) {
            let woken = provider.find(NAME, Wake::Yes).await.unwrap().expect("it comes back");
            assert_eq!((woken.state, &woken.id), (State::Running, &sandbox.id));
            assert_ne!(woken.session, sandbox.session, "a life without the processes of the last");
            assert_eq!(shell(provider, &woken, &format!("cat '{kept}'")).await.trim(), "here");
        }
        provider.remove(sandbox).await.unwrap();
        provider.remove(sandbox).await.unwrap();
        assert_eq!(provider.find(NAME, Wake::Yes).await.unwrap(), None);
        assert!(provider.list().await.unwrap().iter().all(|other| other.id != sandbox.id));
    } else {
        shell(provider, sandbox, &format!("rm '{kept}'")).await;
        provider.remove(sandbox).await.unwrap();
    }
}

/// Waits until a script succeeds.
async fn until(provider: &dyn Provider, sandbox: &Sandbox, script: &str) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let (code, ..) = said(provider, sandbox, Command::shell(script)).await;
        if code == 0 {
            return;
        }
        assert!(Instant::now() < end, "in vain: {script}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
