//! Closed loops: each caller asks, waits for the answer, asks again. Two sides take turns.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use futures::future::BoxFuture;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::proc;

/// One call by the caller of this number.
pub(crate) type Call = Arc<dyn Fn(usize) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// What is measured.
pub(crate) struct Side {
    pub(crate) call: Call,
    /// The processes that work for it, beside this one.
    pub(crate) processes: Vec<u32>,
}

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) rounds: usize,
    pub(crate) round: Duration,
    pub(crate) warm_up: Duration,
}

/// One side's figures: of a round, or the medians of all rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    pub(crate) ops_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Time on processors, in all processes that take part, this one included. Steadier than the rest on a busy machine.
    pub(crate) cpu_us_per_call: f64,
}

/// All rounds of several sides: one list of samples for each side.
#[derive(Debug)]
pub(crate) struct Rounds(Vec<Vec<Sample>>);

impl Rounds {
    /// The medians of a side.
    pub(crate) fn side(&self, at: usize) -> Sample {
        let of = |figure: fn(&Sample) -> f64| median(self.0[at].iter().map(figure).collect());
        Sample {
            ops_per_s: of(|sample| sample.ops_per_s),
            p50_us: of(|sample| sample.p50_us),
            p99_us: of(|sample| sample.p99_us),
            cpu_us_per_call: of(|sample| sample.cpu_us_per_call),
        }
    }

    /// The median of the rounds' ratios of calls per second, the first side's to another's.
    pub(crate) fn ratio(&self, to: usize) -> f64 {
        median(self.0[0].iter().zip(&self.0[to]).map(|(ours, theirs)| ours.ops_per_s / theirs.ops_per_s).collect())
    }
}

/// Lets `callers` load each side in turn, round after round.
pub(crate) async fn take_turns(sides: &[Side], callers: usize, pace: Pace) -> Result<Rounds> {
    for side in sides {
        load(side, callers, pace.warm_up).await?;
    }
    let mut samples = vec![Vec::new(); sides.len()];
    for _ in 0..pace.rounds {
        for (side, samples) in sides.iter().zip(&mut samples) {
            samples.push(load(side, callers, pace.round).await?);
        }
    }
    Ok(Rounds(samples))
}

/// Runs `callers` loops for `lasting`. Calls under way at its end are finished, and counted with the time they took.
pub(crate) async fn load(side: &Side, callers: usize, lasting: Duration) -> Result<Sample> {
    let (begun, cpu) = (Instant::now(), self::cpu(side)?);
    let mut loops = JoinSet::new();
    for caller in 0..callers {
        let call = Arc::clone(&side.call);
        loops.spawn(async move {
            let mut took = Vec::with_capacity(4096);
            while begun.elapsed() < lasting {
                let asked = Instant::now();
                call(caller).await?;
                took.push(asked.elapsed());
            }
            anyhow::Ok(took)
        });
    }
    let mut took = Vec::new();
    while let Some(ended) = loops.join_next().await {
        took.extend(ended??);
    }
    let (elapsed, cpu) = (begun.elapsed(), self::cpu(side)?.saturating_sub(cpu));
    ensure!(!took.is_empty(), "no call was made in {lasting:?}");
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    let calls = took.len() as f64;
    let cpu_us_per_call = cpu.as_secs_f64() * 1e6 / calls;
    Ok(Sample { ops_per_s: calls / elapsed.as_secs_f64(), p50_us: at(0.5), p99_us: at(0.99), cpu_us_per_call })
}

fn cpu(side: &Side) -> Result<Duration> {
    side.processes.iter().copied().chain([std::process::id()]).map(proc::cpu).sum()
}

/// The middle value; the mean of the middle two where there is none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}
