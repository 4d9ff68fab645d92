//! What a witness makes of a checkpoint that a log's owner shows it, by what it remembers of that log.
//!
//! ```text
//! remembered        shown                            verdict
//! nothing           anything                         Extends
//! size n, root r    size n, root r                   Known
//!                   size n, another root             Contradicts(Fork)
//!                   no link from n                   Unlinked: ask for one
//!                   link from n: smaller than n      Contradicts(Rollback)
//!                     no valid proof                 Contradicts(Unconnected)
//!                     proves that it began with r    Extends
//!                     proves that it began otherwise Contradicts(Fork)
//! ```
//! A smaller checkpoint alone says nothing: messages overtake one another. That the owner was told of the larger one, and
//! links a smaller one to it, says that it has no more.

use protocol::{
    checkpoint::Checkpoint,
    witness::{Finding, Link, forks},
};

/// What is to be done with a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the first, or only adds to the remembered one: remember it instead, and cosign it.
    Extends,
    /// It is the remembered one: cosign it.
    Known,
    /// It may be an extension or an older one: ask for its link to the remembered one.
    Unlinked,
    /// It isn't of the remembered history.
    Contradicts(Finding),
}

/// Judges a checkpoint that the log's owner shows. Both are of one log, and their signatures are verified.
pub fn judge(remembered: Option<&Checkpoint>, shown: &Checkpoint, link: Option<&Link>) -> Verdict {
    let Some(known) = remembered else { return Verdict::Extends };
    if known.size == shown.size {
        return if forks(known, shown, None) { Verdict::Contradicts(Finding::Fork) } else { Verdict::Known };
    }
    // A link from elsewhere is late: meanwhile another checkpoint was remembered.
    let Some(link) = link.filter(|link| link.from == known.size) else { return Verdict::Unlinked };
    if shown.size < known.size {
        Verdict::Contradicts(Finding::Rollback)
    } else if !link.leads_to(shown) {
        Verdict::Contradicts(Finding::Unconnected)
    } else if link.root == known.root {
        Verdict::Extends
    } else {
        Verdict::Contradicts(Finding::Fork)
    }
}
