//! `agreement templates` and `agreement policy`: what terms are made of, and which are accepted beforehand.

use std::path::PathBuf;

use protocol::{
    Client, Problem,
    api::{Budget, BudgetChange, KnownTemplate, List, PolicyState, Quota, QuotaChange, Whose},
    error::Code,
    template::{Parameter, Target, Template},
};

use super::prose;
use crate::{
    error::Result,
    input,
    output::{Output, fields},
    parse,
};

/// A template with every parameter takes a tenth of it.
const MAX_TEMPLATE: usize = 64 * 1024;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Templates {
    /// List the templates
    List,
    /// Show a template, with its parameters
    Show {
        /// Its name
        #[arg(value_parser = parse::name)]
        name: String,
    },
    /// Add a template of your own, or replace it
    Add {
        /// The template, in TOML or JSON, as 'templates show --json' prints one; '-' for stdin
        file: PathBuf,
    },
    /// Take a template of your own away; agreements that came from it stay
    Remove {
        /// Its name
        #[arg(value_parser = parse::name)]
        name: String,
    },
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Policy {
    /// Show what this node accepts
    Show,
    /// Accept proposals within a template without asking, as far as a budget goes
    Set {
        #[command(flatten)]
        rule: Rule,
        #[command(flatten)]
        budget: Limits,
    },
    /// Ask again
    Unset(Rule),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rule {
    /// The template that their terms must stay within
    #[arg(long, value_name = "TEMPLATE", value_parser = parse::name)]
    auto_accept: String,
    /// Whose: a did:key, or all 'members' of the private mesh
    #[arg(long, value_name = "DID|members")]
    r#for: Whose,
}

/// What isn't said stays as it is; of a new rule it is as agreements.budget in the configuration says. 0 is no bound.
#[derive(Debug, clap::Args)]
pub(crate) struct Limits {
    /// Agreements of one principal that may be open at once
    #[arg(long, value_name = "N")]
    max_agreements: Option<u64>,
    /// Agreements of one principal that may be made in a day (of UTC)
    #[arg(long, value_name = "N")]
    max_agreements_per_day: Option<u64>,
    /// Calls a day that the agreements of one principal may allow together
    #[arg(long, value_name = "N")]
    max_calls: Option<u64>,
    /// Calls of one principal without a receipt that it signed, under all these agreements
    #[arg(long, value_name = "N")]
    max_unacknowledged: Option<u64>,
    /// The same of all principals together
    #[arg(long, value_name = "N")]
    all_max_agreements: Option<u64>,
    /// The same of all principals together
    #[arg(long, value_name = "N")]
    all_max_agreements_per_day: Option<u64>,
    /// The same of all principals together
    #[arg(long, value_name = "N")]
    all_max_calls: Option<u64>,
    /// The same of all principals together
    #[arg(long, value_name = "N")]
    all_max_unacknowledged: Option<u64>,
}

impl Limits {
    fn change(&self) -> BudgetChange {
        let each = QuotaChange {
            agreements: self.max_agreements,
            agreements_per_day: self.max_agreements_per_day,
            calls_per_day: self.max_calls,
            unacknowledged: self.max_unacknowledged,
        };
        let all = QuotaChange {
            agreements: self.all_max_agreements,
            agreements_per_day: self.all_max_agreements_per_day,
            calls_per_day: self.all_max_calls,
            unacknowledged: self.all_max_unacknowledged,
        };
        BudgetChange { each, all }
    }
}

pub(crate) async fn templates(command: Templates, client: &Client, output: Output) -> Result {
    match command {
        Templates::List => {
            let templates: List<KnownTemplate> = client.get("/v1/templates").await?;
            output.list(&templates, ["name", "days", "limits", "summary"], |KnownTemplate { template, .. }| {
                [template.name.clone(), template.days.to_string(), super::limits(&template.limits), template.summary.clone()]
            })
        }
        Templates::Show { name } => {
            let known: KnownTemplate = client.get(&format!("/v1/templates/{name}")).await?;
            output.show(&known.template, describe)
        }
        Templates::Add { file } => {
            let template = read(&file)?;
            let path = format!("/v1/templates/{}", parse::name(&template.name).map_err(|why| Problem::new(Code::InvalidRequest, why))?);
            let known: KnownTemplate = client.put(&path, &template).await?;
            output.show(&known.template, describe)
        }
        Templates::Remove { name } => {
            client.delete::<()>(&format!("/v1/templates/{name}")).await?;
            output.show(&serde_json::json!({ "removed": name }), |_| format!("template {name} was removed\n"))
        }
    }
}

pub(crate) async fn policy(command: Policy, client: &Client, output: Output) -> Result {
    let path = |rule: Rule| format!("/v1/policy/auto-accept/{}/{}", rule.auto_accept, rule.r#for);
    let state: PolicyState = match command {
        Policy::Show => client.get("/v1/policy").await?,
        Policy::Set { rule, budget } => client.put(&path(rule), &budget.change()).await?,
        Policy::Unset(rule) => client.delete(&path(rule)).await?,
    };
    output.show(&state, |state| {
        let general = fields([
            ("accept", state.accept.clone()),
            ("min validity", format!("{} s", state.min_seconds)),
            ("max days", state.max_days.to_string()),
            ("overage", if state.allow_overage { "allowed" } else { "refused" }.into()),
            ("auto-accept", if state.auto_accept.is_empty() { "nothing" } else { "see below" }.into()),
        ]);
        let auto = (state.accept == "auto").then(|| ("accepted by itself".to_owned(), &state.budget, Some(&state.used)));
        let rules = state.auto_accept.iter().map(|rule| {
            (format!("{} for {}", rule.template, rule.whose), rule.budget.as_ref().unwrap_or(&state.budget), rule.used.as_ref())
        });
        auto.into_iter().chain(rules).fold(general, |text, (name, budget, used)| text + &budgeted(&name, budget, used))
    })
}

/// A rule with its budget: `of each 16, of all 12/1000`, where of those 12 are used.
fn budgeted(name: &str, budget: &Budget, used: Option<&Quota>) -> String {
    let bound = |most: u64| if most == 0 { "any number".to_owned() } else { most.to_string() };
    let line = |what: &str, of: fn(&Quota) -> u64| {
        let used = used.map_or_else(String::new, |used| format!("; {} now", of(used)));
        format!("  {what:<22}each {}, all {}{used}\n", bound(of(&budget.each)), bound(of(&budget.all)))
    };
    let lines = [
        line("open agreements", |quota| quota.agreements),
        line("agreements a day", |quota| quota.agreements_per_day),
        line("calls a day", |quota| quota.calls_per_day),
        line("unacknowledged calls", |quota| quota.unacknowledged),
    ];
    format!("\n{name}\n{}", lines.concat())
}

/// A template in either language: JSON begins with a brace, and TOML never does.
fn read(file: &std::path::Path) -> Result<Template, Problem> {
    let bytes = input::read(file, MAX_TEMPLATE)?;
    let wrong = |why: String| Problem::new(Code::MalformedDocument, format!("{} is not a template: {why}", file.display()));
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".into()))?;
    if text.trim_start().starts_with('{') {
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
    } else {
        toml::from_str(&text).map_err(|error| wrong(error.to_string().trim_end().into()))
    }
}

fn describe(template: &Template) -> String {
    let text = fields([
        ("name", template.name.clone()),
        ("summary", template.summary.clone()),
        ("days", template.days.to_string()),
        ("limits", super::limits(&template.limits)),
        ("one call", prose::one_call(&template.per_call)),
        ("at a limit", template.at_limit.as_str().into()),
    ]);
    let line = |parameter: &Parameter| {
        let value = template.value(parameter);
        let set = if value.is_empty() { String::new() } else { format!(", {value} if not given") };
        format!("  --set {}={}{set}\n", parameter.name, takes(parameter))
    };
    template.parameters.iter().map(line).fold(text, |text, line| text + &line)
}

/// What a parameter takes: `1..365`.
fn takes(parameter: &Parameter) -> String {
    let most = parameter.max.map(|max| max.to_string()).unwrap_or_default();
    match parameter.sets {
        Target::AtLimit => "deny|overage".into(),
        Target::Limits(_) => format!("{}..{most}[/total|/1d|/1h]", parameter.min),
        _ => format!("{}..{most}", parameter.min),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_read_from_either_language() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("template");
        let write = |text: &str| std::fs::write(&file, text).expect("written");
        write(
            "name = 'weekly'\nsummary = 'a week'\ndays = 7\nlimits = [{ quantity = 'calls', window = '1d', max = 10 }]\n\
             per_call = { fuel = 1000, wall_ms = 10, result_bytes = 10 }\nparameters = [{ name = 'days', sets = 'days', max = 30 }]\n",
        );
        let of_toml = read(&file).expect("a template");
        assert_eq!((of_toml.days, of_toml.parameters[0].max), (7, Some(30)));
        write(&serde_json::to_string(&of_toml).expect("JSON"));
        assert_eq!(read(&file).expect("the same"), of_toml);
        assert!(describe(&of_toml).contains("  --set days=1..30, 7 if not given\n"), "{}", describe(&of_toml));
        write("name = 'weekly'\nlimit = 3\n");
        let problem = read(&file).expect_err("an unknown key");
        assert!(problem.code == Code::MalformedDocument && problem.detail.contains("limit"), "{problem}");
    }
}
