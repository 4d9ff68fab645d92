use protocol::Code;

use super::*;
use crate::fixture::{now, parties};

fn with(template: &str, parameters: &[(&str, &str)]) -> Result<Agreement, Error> {
    let parameters = parameters.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    propose(find(template, templates().iter())?, &parameters, parties(), Vec::new(), Pricing::free(), AgreementId::new(), now())
}

fn of(terms: &Agreement, quantity: Quantity) -> Vec<(Window, u64)> {
    terms.limits.iter().filter(|limit| limit.quantity == quantity).map(|limit| (limit.window, limit.max)).collect()
}

#[test]
fn templates_stand_as_documented() {
    let terms = with("standard", &[]).expect("it exists");
    assert_eq!(of(&terms, Quantity::Calls), [(Window::Day, 1_000)]);
    assert_eq!(of(&terms, Quantity::WallUs), [(Window::Day, 3_600_000_000)]);
    assert_eq!(terms.header.expires_at.duration_since(now()), SignedDuration::from_hours(720));
    let trial = with("trial", &[]).expect("it exists");
    assert_eq!((of(&trial, Quantity::Calls), trial.limits.len()), (vec![(Window::Total, 100)], 1));
    assert_eq!(of(&with("bulk", &[]).expect("it exists"), Quantity::Calls), [(Window::Day, 1_000_000)]);
}

#[test]
fn parameters_override_by_name() {
    let given = [("calls", "500/1d,50/1h"), ("fuel", "7"), ("wall_ms", "9/total"), ("egress_bytes", "11"), ("days", "7")];
    let terms = with("standard", &given).expect("all valid");
    assert_eq!(of(&terms, Quantity::Calls), [(Window::Day, 500), (Window::Hour, 50)]);
    assert_eq!(of(&terms, Quantity::Fuel), [(Window::Day, 7)]);
    assert_eq!(of(&terms, Quantity::WallUs), [(Window::Total, 9_000)]);
    assert_eq!(of(&terms, Quantity::EgressBytes), [(Window::Day, 11)]);
    assert_eq!(terms.header.expires_at.duration_since(now()), SignedDuration::from_hours(168));
    let given = [("call_fuel", "5"), ("call_wall_ms", "6"), ("call_result_bytes", "7"), ("at_limit", "overage")];
    let terms = with("trial", &given).expect("all valid");
    assert_eq!((terms.per_call, terms.at_limit), (PerCall { fuel: 5, wall_ms: 6, result_bytes: 7 }, AtLimit::Overage));
    assert_eq!(of(&with("trial", &[("calls", "3")]).expect("valid"), Quantity::Calls), [(Window::Total, 3)]);
}

#[test]
fn a_price_that_cannot_be_expressed_is_refused_before_anybody_signs() {
    let at = |per_call: &str| {
        let pricing = Pricing { per_call: per_call.parse().expect("a number"), ..Pricing::free() };
        let template = find("trial", templates().iter()).expect("it exists");
        propose(template, &BTreeMap::new(), parties(), Vec::new(), pricing, AgreementId::new(), now())
    };
    at("1000000").expect("a hundred calls for a million each");
    let error = at("79228162514264337593543950335").expect_err("a hundred times the largest number");
    assert!(error.to_string().contains("can't be expressed"), "{error}");
    let error = at("-0.01").expect_err("a gift");
    assert!(error.to_string().contains("negative"), "{error}");
}

#[test]
fn mistakes_name_what_was_meant() {
    let error = with("standrad", &[]).expect_err("a typing mistake");
    assert!(error.to_string().contains("did you mean \"standard\"?"), "{error}");
    assert!(error.to_string().contains("standard, trial, bulk"), "{error}");
    let error = with("standard", &[("egres_bytes", "1")]).expect_err("a typing mistake");
    assert!(error.to_string().contains("did you mean \"egress_bytes\"?"), "{error}");
    assert_eq!(error.code(), Code::InvalidRequest);
    assert!(!with("standard", &[("quux", "1")]).expect_err("unknown").to_string().contains("did you mean"));
}

#[test]
fn values_are_bounded() {
    let bad = [
        ("calls", ""),
        ("calls", "0"),
        ("calls", "+5"),
        ("calls", "5/1w"),
        ("calls", "5/1d,6/1d"),
        ("calls", "5,"),
        ("calls", "9007199254740992"),
        ("wall_ms", "9007199254740991"),
        ("days", "36501"),
        ("call_result_bytes", "16777217"),
        ("at_limit", "never"),
        ("fuel", "99999999999999999999999"),
    ];
    for (name, value) in bad {
        assert!(matches!(with("standard", &[(name, value)]), Err(Error::BadParameter { .. })), "{name}={value}");
    }
}

#[test]
fn methods_are_names_listed_once() {
    let propose = |methods: Vec<String>| {
        propose(&templates()[1], &BTreeMap::new(), parties(), methods, Pricing::free(), AgreementId::new(), now())
            .map(|terms| terms.methods)
    };
    assert_eq!(propose(vec!["put".into(), "get".into(), "put".into()]).expect("names"), ["get", "put"]);
    assert!(matches!(propose(vec!["rm -rf".into()]), Err(Error::BadMethod(_))));
    assert!(matches!(propose(vec!["get".into(); 257]), Err(Error::TooManyMethods { found: 257, .. })));
}

#[test]
fn what_comes_along_could_have_been_brought() {
    for template in templates() {
        check(template).unwrap_or_else(|error| panic!("{error}"));
        let plain = with(&template.name, &[]).expect("it needs no parameters");
        assert_eq!(conform(&plain, template), Ok(()), "{}", template.name);
        let most: Vec<_> = template.parameters.iter().filter_map(|set| Some((set.name.as_str(), set.max?.to_string()))).collect();
        let most: Vec<_> = most.iter().map(|(name, max)| (*name, max.as_str())).collect();
        let terms = with(&template.name, &most).expect("each goes to its most");
        assert_eq!(conform(&terms, template), Ok(()), "{}", template.name);
        for parameter in template.parameters.iter().filter(|set| set.max.is_some()) {
            let over = (parameter.max.expect("it has one") + 1).to_string();
            let error = with(&template.name, &[(&parameter.name, &over)]).expect_err("one too many");
            assert!(error.to_string().contains(&format!("to {}", most_of(parameter))), "{error}");
        }
    }
    let names: Vec<_> = templates().iter().map(|template| template.name.as_str()).collect();
    for name in ["basic_agent", "standard_compute", "compute_intensive", "storage_focused", "network_optimized"] {
        assert!(names.contains(&name), "{name}");
    }
    let given = [("duration_days", "7"), ("requests_per_day", "1000"), ("seconds_per_day", "60"), ("at_limit", "overage")];
    let terms = with("standard_compute", &given).expect("all valid");
    assert_eq!(of(&terms, Quantity::Calls), [(Window::Day, 1_000)]);
    assert_eq!(of(&terms, Quantity::WallUs), [(Window::Day, 60_000_000)]);
    assert_eq!((terms.header.expires_at.duration_since(now()), terms.at_limit), (SignedDuration::from_hours(168), AtLimit::Overage));
    let error = with("standard_compute", &[("request_per_day", "1")]).expect_err("a typing mistake");
    assert!(error.to_string().contains("did you mean \"requests_per_day\"?"), "{error}");
}

fn most_of(parameter: &Parameter) -> u64 {
    super::most(parameter)
}

#[test]
fn terms_pass_a_template_in_whatever_they_allow_more() {
    let template = find("standard_compute", templates().iter()).expect("it comes along");
    let terms = with("standard_compute", &[]).expect("valid");
    let passes = |change: fn(&mut Agreement)| {
        let mut terms = terms.clone();
        change(&mut terms);
        conform(&terms, template).expect_err("it passes")
    };
    assert!(passes(|terms| terms.template = "standard".into()).contains("name template"));
    assert!(passes(|terms| terms.limits.retain(|limit| limit.quantity != Quantity::Calls)).contains("don't limit calls/1d"));
    assert!(passes(|terms| terms.limits[0].max = 100_001).contains("calls 100001/1d is over 100000"));
    assert!(passes(|terms| terms.limits[0].window = Window::Hour).contains("don't limit calls/1d"));
    assert!(passes(|terms| terms.per_call.fuel += 1).contains("call.fuel"));
    assert!(passes(|terms| terms.per_call.wall_ms += 1).contains("call.wall_ms"));
    assert!(passes(|terms| terms.per_call.result_bytes += 1).contains("call.result_bytes"));
    assert!(passes(|terms| terms.header.expires_at += SignedDuration::from_hours(24 * 336)).contains("more than 365 days"));
    // Where nothing bounds a parameter, what the template itself says does.
    let open = find("standard", templates().iter()).expect("it comes along");
    assert_eq!(conform(&with("standard", &[("calls", "999")]).expect("valid"), open), Ok(()));
    assert!(conform(&with("standard", &[("calls", "1001")]).expect("valid"), open).is_err());
    assert!(conform(&with("standard", &[("days", "31")]).expect("valid"), open).is_err());
    let basic = find("basic_agent", templates().iter()).expect("it comes along");
    let mut greedy = with("basic_agent", &[]).expect("valid");
    greedy.at_limit = AtLimit::Overage;
    assert!(conform(&greedy, basic).expect_err("it can't be set").contains("overage"));
}

#[test]
fn what_nobody_could_agree_on_is_no_template() {
    let wrong = |change: fn(&mut Template), what: &str| {
        let mut template = find("standard_compute", templates().iter()).expect("it comes along").clone();
        change(&mut template);
        let error = check(&template).expect_err(what).to_string();
        assert!(error.contains(what), "{error}");
    };
    wrong(|template| template.name = "Nine Lives".into(), "a name has");
    wrong(|template| template.summary = "two\nlines".into(), "one line");
    wrong(|template| template.days = 0, "days are");
    wrong(|template| template.limits.clear(), "1 to 12 limits");
    wrong(|template| template.limits[0].max = 0, "a number from 1");
    wrong(|template| template.limits.push(template.limits[0]), "limited twice");
    wrong(|template| template.per_call.fuel = 0, "none of them 0");
    wrong(|template| template.parameters.push(template.parameters[0].clone()), "there twice");
    wrong(|template| template.parameters[1].max = Some(9), "the template itself says 10000");
    wrong(|template| template.parameters[0].max = Some(36_501), "which is nothing");
    wrong(|template| template.parameters[0].unit = 0, "which is nothing");
    wrong(|template| template.parameters = vec![template.parameters[0].clone(); 33], "at most 32");
}
