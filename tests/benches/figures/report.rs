//! What was measured: a table for people, JSON for programs.

use std::{fs, io::Write as _, path::Path, time::Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use crate::{
    measure::{Rounds, Sample, median},
    proc::Machine,
};

/// Throughput beside a yardstick.
#[derive(Debug, Serialize)]
struct Race {
    section: &'static str,
    what: String,
    callers: usize,
    ours: Sample,
    yardstick: &'static str,
    theirs: Sample,
    /// Ours to the yardstick's, in calls per second.
    ratio: f64,
    /// What the ratio should be at least; none where the yardstick is there for orientation.
    #[serde(skip_serializing_if = "Option::is_none")]
    aim: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

/// A size or a time.
#[derive(Debug, Serialize)]
pub(crate) struct Gauge {
    pub(crate) section: &'static str,
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    /// What it should be at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aim: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) yardstick: Option<(&'static str, f64)>,
    /// Whatever else belongs to it.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub(crate) detail: Value,
}

/// A run's figures, printed as they come.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    version: u32,
    quick: bool,
    machine: Machine,
    elapsed_s: f64,
    races: Vec<Race>,
    gauges: Vec<Gauge>,
    rows: Vec<(&'static str, Value)>,
    #[serde(skip)]
    begun: Instant,
}

impl Report {
    pub(crate) fn new(quick: bool) -> Self {
        let machine = Machine::here();
        say(&format!("{machine}{}", if quick { "; quick: shows that it works, not how fast" } else { "" }));
        Self { version: 1, quick, machine, elapsed_s: 0.0, races: Vec::new(), gauges: Vec::new(), rows: Vec::new(), begun: Instant::now() }
    }

    /// Opens the table of a section of races.
    pub(crate) fn races(&self, title: &str) {
        say(&format!("\n{title}"));
        let [what, callers, ops, p50, p99, cpu, ratio, aim] = ["", "callers", "calls/s", "p50 us", "p99 us", "cpu us", "ratio", "aim"];
        say(&format!("{what:<44} {callers:>7} {ops:>9} {p50:>9} {p99:>9} {cpu:>7} {ratio:>7} {aim:>7}"));
    }

    /// Adds the first side against another.
    pub(crate) fn race(
        &mut self,
        section: &'static str,
        what: &str,
        callers: usize,
        rounds: &Rounds,
        yardstick: (usize, &'static str),
        aim: Option<f64>,
    ) {
        let (at, name) = yardstick;
        let (ours, theirs, ratio) = (rounds.side(0), rounds.side(at), rounds.ratio(at));
        let row = |what: &str, sample: Sample, tail: String| {
            let Sample { ops_per_s, p50_us, p99_us, cpu_us_per_call } = sample;
            say(format!("{what:<44} {callers:>7} {ops_per_s:>9.0} {p50_us:>9.0} {p99_us:>9.0} {cpu_us_per_call:>7.0} {tail}").trim_end());
        };
        // The second yardstick of the same rounds stands below the first.
        if at == 1 {
            row(what, ours, String::new());
        }
        row(
            &format!("  {name}"),
            theirs,
            format!("{ratio:>7.2} {}", aim.map_or_else(String::new, |aim| format!("{:>7} {}", format!(">={aim}"), mark(ratio >= aim)))),
        );
        self.races.push(Race {
            section,
            what: what.into(),
            callers,
            ours,
            yardstick: name,
            theirs,
            ratio,
            aim,
            met: aim.map(|aim| ratio >= aim),
        });
    }

    /// Adds the latency of one and the same beside something and without it; the 99th percentile should grow to so many times
    /// at most.
    pub(crate) fn beside(
        &mut self,
        section: &'static str,
        what: &str,
        ours: Vec<Sample>,
        yardstick: &'static str,
        theirs: Vec<Sample>,
        aim: f64,
    ) {
        let of = |samples: &[Sample], figure: fn(&Sample) -> f64| median(samples.iter().map(figure).collect());
        let mut gauge = |part: &str, figure: fn(&Sample) -> f64, aim: Option<f64>| {
            let beside = of(&theirs, figure);
            let detail = serde_json::json!({ "aimed_ratio": aim });
            self.gauge(Gauge {
                section,
                what: format!("{what}, {part}"),
                unit: "us",
                value: of(&ours, figure),
                aim: aim.map(|most| (most * beside).round()),
                yardstick: Some((yardstick, beside)),
                detail,
            });
        };
        gauge("median", |sample| sample.p50_us, None);
        gauge("p99", |sample| sample.p99_us, Some(aim));
    }

    /// Opens the table of a section of gauges.
    pub(crate) fn gauges(&self, title: &str) {
        say(&format!("\n{title}"));
    }

    /// A line of a table of its own.
    pub(crate) fn text(&self, text: &str) {
        say(text);
    }

    /// Keeps a row of such a table for programs.
    pub(crate) fn keep(&mut self, section: &'static str, row: Value) {
        self.rows.push((section, row));
    }

    /// Adds a gauge.
    pub(crate) fn gauge(&mut self, gauge: Gauge) {
        let Gauge { what, unit, value, .. } = &gauge;
        let aim = gauge.aim.map_or_else(String::new, |aim| format!("aim <= {aim} {}", mark(*value <= aim)));
        let beside =
            gauge.yardstick.map_or_else(String::new, |(name, theirs)| format!("({name}: {theirs:.1} {unit}; ratio {:.2})", value / theirs));
        say(format!("{what:<44} {value:>9.1} {unit:<3} {aim:<14} {beside}").trim_end());
        self.gauges.push(gauge);
    }

    /// Writes the JSON.
    pub(crate) fn finish(mut self, path: &Path) -> Result<()> {
        self.elapsed_s = self.begun.elapsed().as_secs_f64();
        let mut text = serde_json::to_string_pretty(&self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| path.display().to_string())?;
        say(&format!("\n{:.0} s; {}", self.elapsed_s, path.display()));
        Ok(())
    }
}

fn mark(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// One line on stdout. Nobody has to read it.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
