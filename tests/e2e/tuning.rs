//! The scripts of tuning/: without `--apply` they change nothing, and `--undo` restores the previous settings.

use std::path::Path;
use std::process::{Command, Output};

fn run(script: &str, arguments: &[&str]) -> Output {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning").join(script);
    Command::new(path).args(arguments).output().unwrap()
}

/// A network card for the scripts: a hardware device, if the host has one.
fn card() -> Option<String> {
    let cards = std::fs::read_dir("/sys/class/net").unwrap().flatten();
    let mut cards = cards.filter(|card| card.path().join("device").exists());
    cards.next().map(|card| card.file_name().to_string_lossy().into_owned())
}

/// The settings that the scripts change.
fn settings(card: &str) -> Vec<String> {
    let mut all = Vec::new();
    for folder in std::fs::read_dir(format!("/sys/class/net/{card}/queues")).unwrap().flatten() {
        for file in ["rps_cpus", "xps_cpus"] {
            all.push(std::fs::read_to_string(folder.path().join(file)).unwrap_or_default());
        }
    }
    all.push(std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default());
    all
}

#[test]
fn scripts_change_nothing_without_apply_and_undo_restores_the_settings() {
    let Some(card) = card() else { panic!("this host has no network card to look at") };
    let before = settings(&card);
    for (script, arguments) in [("nic", vec![&*card]), ("cpu", vec![]), ("thp", vec![])] {
        let output = run(script, &arguments);
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(settings(&card), before);
    assert!(!run("nic", &["no-such-card"]).status.success());
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not run: --apply needs root");
        return;
    }
    for (script, arguments) in [("nic", vec![&*card]), ("thp", vec![])] {
        let with = |mode| arguments.iter().copied().chain([mode]).collect::<Vec<&str>>();
        assert!(run(script, &with("--apply")).status.success());
        // `--undo` fails if `--apply` changed nothing, so its status is not checked.
        run(script, &with("--undo"));
    }
    assert_eq!(settings(&card), before);
}
