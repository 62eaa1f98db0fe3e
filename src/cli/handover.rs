//! `ringcast handover`: asks a running server whether it can be taken over, and what that would mean.

use crate::logic::handover::words::Offer;
use crate::server::handover;

use super::{FeedPath, Result};

/// The question that the running server is asked.
#[derive(Debug, clap::Args)]
#[group(id = "wish", required = true, multiple = false)]
pub(super) struct Wish {
    /// Say only whether the running server can be taken over by this version: exit status 0 if so, 1 if not.
    #[arg(long)]
    probe: bool,
    /// Say what would be handed over, what would be let go and why, and how much memory it takes.
    #[arg(long)]
    dry_run: bool,
}

/// Where to ask, and what.
#[derive(Debug, clap::Args)]
pub(super) struct HandoverArgs {
    #[command(flatten)]
    feed: FeedPath,
    #[command(flatten)]
    wish: Wish,
}

/// Asks the running server.
pub(super) fn run(args: &HandoverArgs) -> Result {
    let offer = handover::probe(&args.feed.resolve())?;
    println!("the server of version {} (process {}) can be taken over", offer.version, offer.pid);
    if args.wish.dry_run {
        print!("{}", describe(&offer));
    }
    Ok(())
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
            addresses: Vec::new(),
            tls_addresses: Vec::new(),
        };
        let text = describe(&offer);
        let fields: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(fields[0].last(), Some(&"96"));
        assert!(fields.contains(&vec!["tls_handshake", "4"]), "{text}");
    }
}
