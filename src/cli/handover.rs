//! `ringcast handover`: replaces the running server by a new process, or says what that would come to.

use std::ffi::{OsStr, OsString};
use std::process::{Command, Stdio};

use crate::config::{self, ServeArgs};
use crate::logic::handover::words::Offer;
use crate::server::handover::launching::{launch, start_successor};
use crate::server::handover::{park, probe};

use super::environment;

/// The flag of the step between the launcher and the successor.
const STEP: &str = "--start-successor";

/// The server to replace, by the configuration of its successor.
#[derive(Debug, clap::Args)]
pub(super) struct HandoverArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// Only say whether the running server could hand over.
    #[arg(long)]
    probe: bool,
    /// Only say what would be handed over, what would be let go, and how much memory it takes.
    #[arg(long, conflicts_with = "probe")]
    dry_run: bool,
    /// Before a restart of this unit by systemd: have the running server leave its connections with systemd for the next process. If
    /// the unit is being stopped, nothing is done.
    #[arg(long, value_name = "UNIT", conflicts_with_all = ["probe", "dry_run"])]
    park: Option<String>,
    /// The step between the launcher and the successor, for the launcher itself.
    #[arg(long, hide = true, conflicts_with_all = ["probe", "dry_run"])]
    start_successor: bool,
}

/// Carries the command out.
///
/// # Errors
/// The sentence why there is no hand-over.
pub(super) fn run(args: &HandoverArgs) -> super::Result {
    let own = [STEP, "--take-over"].map(OsStr::new);
    // The successor gets the arguments as they were given.
    let serve: Vec<OsString> = std::env::args_os().skip(2).filter(|arg| !own.contains(&arg.as_os_str())).collect();
    if args.start_successor {
        return Ok(start_successor(&serve)?);
    }
    let config = config::load(&args.serve, &environment)?;
    if let Some(unit) = &args.park {
        return match is_restarting(unit) {
            true => Ok(park(&config.feed.path)?),
            false => Ok(()),
        };
    }
    if args.probe || args.dry_run {
        let offer = probe(&config.feed.path)?;
        println!("the server of version {} (process {}) can be taken over", offer.version, offer.pid);
        if args.dry_run {
            print!("{}", describe(&offer));
        }
        return Ok(());
    }
    let launched = launch(&config.feed.path, OsStr::new(STEP), &serve)?;
    println!(
        "process {} has taken {} connections over from process {}",
        launched.pid, launched.connections, launched.before
    );
    Ok(())
}

/// Whether systemd is restarting a unit, and not stopping it for good. Without an answer it is not.
fn is_restarting(unit: &str) -> bool {
    let jobs = Command::new("systemctl").args(["list-jobs", "--no-legend", "--plain"]).stdin(Stdio::null()).output();
    let jobs = jobs.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    jobs.lines().any(|job| {
        let mut words = job.split_whitespace().skip(1);
        words.next() == Some(unit) && matches!(words.next(), Some("restart" | "try-restart"))
    })
}

/// The lines about what would be handed over.
fn describe(offer: &Offer) -> String {
    let let_go: u64 = offer.let_go.iter().map(|some| some.connections).sum();
    let mut text = format!(
        "connections handed over   {}\nfeed connections          {}\nshards                    {}\n",
        offer.connections.saturating_sub(let_go),
        offer.publishers,
        offer.shards
    );
    text += &format!("connections let go        {let_go}\n");
    for some in &offer.let_go {
        text += &format!("  {:<24}{}\n", some.reason, some.connections);
    }
    // A slot and what belongs to it, in the successor, and the polls of both rings.
    let memory = offer.history_bytes + offer.connections * (270 + 2 * 256);
    text += &format!("memory meanwhile, about   {}\n", bytesize::ByteSize(memory));
    text += &format!("longest pause             {} ms\n", offer.pause_max_ms);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::handover::words::{FORMAT, LetGo};

    #[test]
    fn what_would_be_let_go_is_told_with_its_reason() {
        let offer = Offer {
            format: FORMAT,
            features: Vec::new(),
            version: "1".into(),
            pid: 7,
            shards: 2,
            connections: 100,
            publishers: 3,
            history_bytes: 0,
            pause_max_ms: 2000,
            let_go: vec![LetGo { reason: "tls_handshake".into(), connections: 4 }],
            has_feed_file: true,
            notify_socket: None,
            watchdog_us: None,
            addresses: Vec::new(),
            tls_addresses: Vec::new(),
        };
        let text = describe(&offer);
        let fields: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(fields[0].last(), Some(&"96"));
        assert!(fields.contains(&vec!["tls_handshake", "4"]), "{text}");
    }
}
