//! `netjail probe`, and the client that it runs in its jails.

use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use super::args::{ProbeArguments, ProbeClientArguments};
use super::progress::Progress;
use super::{FINDING, Told, USAGE, load, print, search, table};
use crate::probe::launch::{self, Plan};
use crate::probe::{self, Answer};
use crate::registry::{self, Choice, ChooseError, Endpoint, Kind, Loaded, Search, trust};
use crate::roles::say;

/// The variable that names endpoints, parted by blanks.
const VARIABLE: &str = "NETJAIL_PROBE_ENDPOINTS";

/// A network to ask through, or the answer that is known before.
enum Row {
    Ask(String),
    Known(Answer),
}

/// Asks through each network; the status is 0 when all were asked, with `--strict` only if all gave an address.
pub fn run(arguments: ProbeArguments) -> Result<i32, Told> {
    let search = search(arguments.registries.clone())?;
    let loaded = load(&search)?;
    let asked = endpoints(&arguments, &loaded).and_then(|endpoints| Ok((endpoints, rows(&arguments, &loaded)?)));
    let (endpoints, rows) = asked.map_err(|why| Told::say(&why, USAGE))?;
    believe(&search, &loaded, &rows, arguments.quiet).map_err(|why| Told::say(&why, FINDING))?;
    let plan =
        Plan { registries: arguments.registries, endpoints, timeout: Duration::from_secs(arguments.timeout.into()) };
    let answers = ask(&plan, rows, arguments.quiet);
    let failed = answers.iter().any(|answer| answer.address.is_none());
    let status = if arguments.strict && failed { FINDING } else { 0 };
    Ok(match arguments.json {
        true => match serde_json::to_string_pretty(&answers) {
            Ok(text) => print(&format!("{text}\n"), status),
            Err(_) => FINDING,
        },
        false => print(&text(&answers, arguments.verbose), status),
    })
}

/// What runs inside.
pub fn client(arguments: &ProbeClientArguments) -> i32 {
    probe::client::run(&arguments.endpoints, Duration::from_secs(arguments.timeout.into()))
}

/// Who is asked: the flag's, the environment's, the settings', the well-known ones.
fn endpoints(arguments: &ProbeArguments, loaded: &Loaded) -> Result<Vec<Endpoint>, String> {
    let parse = |text: &str| text.parse::<Endpoint>().map_err(|why| format!("{VARIABLE}: {why}"));
    let variable = std::env::var(VARIABLE).unwrap_or_default();
    let named = variable.split_whitespace().map(parse).collect::<Result<Vec<_>, _>>()?;
    let well_known = || probe::ENDPOINTS.iter().filter_map(|text| text.parse().ok()).collect();
    let sources = [&arguments.endpoints, &named, &loaded.settings.probe_endpoints];
    Ok(sources.into_iter().find(|source| !source.is_empty()).cloned().unwrap_or_else(well_known))
}

/// The networks that were named, or all. A name that is none is a mistake of the command line; one that can not be used is
/// an answer.
fn rows(arguments: &ProbeArguments, loaded: &Loaded) -> Result<Vec<(Row, Option<Choice>)>, String> {
    let all = || ["nil".to_owned()].into_iter().chain(loaded.networks.keys().map(ToString::to_string)).collect();
    let names: Vec<String> = if arguments.networks.is_empty() { all() } else { arguments.networks.clone() };
    names
        .into_iter()
        .map(|name| match registry::choose(loaded, Some(&name)) {
            Ok(choice) => {
                let direct = matches!(choice.network.kind, Kind::Direct);
                let id = if direct { "nil".to_owned() } else { choice.network.id.to_string() };
                Ok((Row::Ask(id), Some(choice)))
            }
            Err(e @ (ChooseError::Unknown { .. } | ChooseError::Ambiguous { .. })) => Err(e.to_string()),
            Err(e) => {
                let id = loaded.networks.keys().find(|id| id.to_string() == name || id.name() == name);
                let name = id.map_or(name, ToString::to_string);
                Ok((Row::Known(Answer::not_asked(name, e.to_string())), None))
            }
        })
        .collect()
}

/// As `run` does: a project's registry must be the one that was allowed, or be seen for the first time.
fn believe(search: &Search, loaded: &Loaded, rows: &[(Row, Option<Choice>)], quiet: bool) -> Result<(), String> {
    let store = trust::Store::new(&search.state);
    match trust::check(&store, loaded) {
        trust::Trust::Trusted => Ok(()),
        trust::Trust::Changed(changed) => Err(changed.to_string()),
        trust::Trust::FirstUse(folder) => {
            if let Some(sent) = trust::secrets_sent(loaded) {
                say(&format!("first use of the registry in {}: {sent}", registry::escape_path(&folder)));
            } else if io::stderr().is_terminal() && !quiet {
                rows.iter().filter_map(|(_, choice)| choice.as_ref()).for_each(|c| say(&trust::first_use(loaded, c)));
            }
            trust::remember(&store, loaded).map_err(|e| e.to_string())
        }
    }
}

fn ask(plan: &Plan, rows: Vec<(Row, Option<Choice>)>, quiet: bool) -> Vec<Answer> {
    let networks: Vec<String> =
        rows.iter().filter_map(|(row, _)| if let Row::Ask(id) = row { Some(id.clone()) } else { None }).collect();
    let waiting = Mutex::new(networks.clone());
    let what = |waiting: &[String]| format!("waiting for {}", waiting.join(", "));
    let progress = Progress::new(&what(&networks), quiet);
    let mut asked = launch::ask(plan, &networks, |answer| {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // One of them: a network may be named twice.
        if let Some(at) = waiting.iter().position(|id| *id == answer.network) {
            waiting.remove(at);
        }
        progress.say(what(&waiting));
    })
    .into_iter();
    let answers = rows.into_iter().filter_map(|(row, _)| match row {
        Row::Ask(_) => asked.next(),
        Row::Known(answer) => Some(answer),
    });
    answers.collect()
}

fn text(answers: &[Answer], verbose: bool) -> String {
    let mut rows: Vec<[String; 3]> = Vec::new();
    for answer in answers {
        let host = |url: &str| url.parse::<Endpoint>().map_or_else(|_| url.to_owned(), |endpoint| endpoint.authority());
        let said = match (&answer.error, &answer.endpoint) {
            (Some(error), _) => error.clone(),
            (None, by) => format!("{}, {} ms", by.as_deref().map(host).unwrap_or_default(), answer.duration_ms),
        };
        let address = answer.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
        rows.push([answer.network.clone(), address, said]);
        for attempt in answer.attempts.iter().filter(|_| verbose) {
            let address = attempt.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
            let error = attempt.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            rows.push([String::new(), address, format!("{}{error}", attempt.endpoint)]);
        }
    }
    table::render(["NETWORK", "ADDRESS", "ANSWER"], &rows)
}
