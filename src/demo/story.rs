//! The acts of the demo, and what must be true in each.

use std::fs;

use serde_json::Value;

use super::proxy::{ADDRESS, NAME, PORT, SOURCE};
use super::servers::SECRET;
use super::stage::{Attempt, Stage, StageError};
use super::tell::Teller;

/// What the child is called in the commands that are shown.
const CLIENT: &str = "netjail demo-client";

/// Plays all acts; how many things were not as they should be.
pub fn tell(stage: &Stage, mut teller: Teller) -> Result<u32, StageError> {
    teller.title(
        "netjail demo",
        "Two servers, a SOCKS5 proxy and a few jails, all on this machine's loopback. The child in each jail is a real\n\
         one; nothing is installed, nothing leaves this machine, and nothing of yours is read or written.",
    );
    without_a_jail(stage, &mut teller)?;
    by_name(stage, &mut teller)?;
    by_address(stage, &mut teller)?;
    services_of_the_host(stage, &mut teller)?;
    proxy_down(stage, &mut teller)?;
    Ok(teller.end())
}

fn without_a_jail(stage: &Stage, teller: &mut Teller) -> Result<(), StageError> {
    teller.act("Without a jail");
    let target = stage.whoami.address.to_string();
    teller.command(&format!("{CLIENT} {target}"));
    let attempt = stage.outside(&target)?;
    let saw = stage.whoami.visitors.take();
    let asked = stage.proxy.asked.take();
    teller.check(
        attempt == answered("127.0.0.1") && saw == ["127.0.0.1"] && asked.is_empty(),
        format!("the server saw {}", list(&saw)),
    );
    teller.meaning(
        "What happened here is what always happens: the server sees this machine's own address.\n\
         (On the loopback that is 127.0.0.1.)",
    );
    Ok(())
}

fn by_name(stage: &Stage, teller: &mut Teller) -> Result<(), StageError> {
    teller.act("In a jail, by name");
    teller.quote(fs::read_to_string(stage.registry()).unwrap_or_default().trim_end());
    let target = format!("{NAME}:{PORT}");
    teller.command(&format!("netjail run --network demo:proxy -- {CLIENT} {target}"));
    let attempt = stage.in_jail("demo:proxy", &target)?;
    let (saw, asked) = (stage.whoami.visitors.take(), stage.proxy.asked.take());
    teller.check(attempt == answered(&SOURCE.to_string()), format!("the child was told: {}", words(&attempt)));
    teller.check(
        saw == [SOURCE.to_string()],
        format!("the server saw {}, which is the address that the proxy leaves from", list(&saw)),
    );
    teller.check(asked == [target], format!("the proxy was asked for {}, the name itself", list(&asked)));
    for record in records(stage) {
        teller.check(record.good(), record.line());
    }
    teller.meaning(&format!(
        "What happened here is that the child's name server is netjail: it answered with an address from the jail's pool,\n\
         so no question about {NAME} left this machine. The child connected to that address; netjail knew which name it\n\
         stands for, and asked the proxy for the name. The child's connect() returned when the proxy had connected."
    ));
    Ok(())
}

fn by_address(stage: &Stage, teller: &mut Teller) -> Result<(), StageError> {
    teller.act("In a jail, by address");
    let target = format!("{ADDRESS}:{PORT}");
    teller.command(&format!("netjail run --network demo:proxy -- {CLIENT} {target}"));
    let attempt = stage.in_jail("demo:proxy", &target)?;
    let (saw, asked) = (stage.whoami.visitors.take(), stage.proxy.asked.take());
    teller.check(
        attempt == answered(&SOURCE.to_string()) && saw == [SOURCE.to_string()],
        format!("the server saw {}", list(&saw)),
    );
    teller.check(asked == [target], format!("the proxy was asked for {}", list(&asked)));
    teller.meaning(&format!(
        "What happened here is that {ADDRESS} belongs to nobody, and only this proxy takes it for the server: wherever the\n\
         child connects to, it is the proxy that decides what is there."
    ));
    Ok(())
}

fn services_of_the_host(stage: &Stage, teller: &mut Teller) -> Result<(), StageError> {
    teller.act("Services of this machine");
    let doors = [
        ("a TCP port of the loopback", stage.secrets.tcp.to_string()),
        ("an abstract unix socket", format!("abstract:{}", stage.secrets.abstract_name)),
        ("a unix socket by its path", format!("unix:{}", stage.socket().display())),
    ];
    for (what, target) in doors {
        teller.command(&format!("{CLIENT} {target}"));
        let outside = stage.outside(&target)?;
        let alive = outside == Attempt::Answered(SECRET.to_owned()) && stage.secrets.visitors.take().len() == 1;
        teller.check(alive, format!("outside, {what}: {}", words(&outside)));
        teller.command(&format!("netjail run --network demo:proxy -- {CLIENT} {target}"));
        let inside = stage.in_jail("demo:proxy", &target)?;
        let reached = stage.secrets.visitors.take();
        let refused = matches!(inside, Attempt::Failed(_)) && reached.is_empty();
        teller.check(refused, format!("inside: {}", words(&inside)));
    }
    let asked = stage.proxy.asked.take();
    teller.check(asked.is_empty(), format!("the proxy was asked for {}", list(&asked)));
    teller.meaning(
        "What happened here is that the jail has a loopback and abstract sockets of its own, with nobody there, and that a\n\
         socket's path leads to no server outside. All three servers were alive the whole time.",
    );
    Ok(())
}

fn proxy_down(stage: &Stage, teller: &mut Teller) -> Result<(), StageError> {
    teller.act("A proxy that is down");
    let target = format!("{NAME}:{PORT}");
    teller.command(&format!("netjail run --network demo:down -- {CLIENT} {target}"));
    let attempt = stage.in_jail("demo:down", &target)?;
    let (saw, asked) = (stage.whoami.visitors.take(), stage.proxy.asked.take());
    let unreachable = matches!(&attempt, Attempt::Failed(why) if why.starts_with("ENETUNREACH"));
    teller.check(unreachable, format!("the child was told: {}", words(&attempt)));
    teller.check(
        saw.is_empty() && asked.is_empty(),
        format!("the server saw {}; the other proxy was asked for {}", list(&saw), list(&asked)),
    );
    for record in records(stage) {
        teller.aside(&record.line());
    }
    teller.meaning(&format!(
        "What happened here is that nobody listens on 127.0.0.1:{}, the only way out of this jail. The child's connect()\n\
         failed at once with an errno that says so, and nothing else was dialled in its place.",
        stage.down()
    ));
    Ok(())
}

fn answered(address: &str) -> Attempt {
    Attempt::Answered(format!("you come from {address}"))
}

fn words(attempt: &Attempt) -> String {
    match attempt {
        Attempt::Answered(line) => format!("\"{}\"", crate::registry::escape(line)),
        Attempt::Failed(why) => crate::registry::escape(why),
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "nothing".into() } else { crate::registry::escape(&items.join(", ")) }
}

/// A line of the log, as far as the demo shows it.
struct Record(Value);

impl Record {
    fn good(&self) -> bool {
        self.0["verdict"] == "allow" && self.0["name"] == NAME
    }

    /// The fields that are set, shortened.
    fn line(&self) -> String {
        let fields = ["kind", "protocol", "type", "name", "address", "port", "verdict", "answer", "errno", "close"];
        let shown = fields.iter().filter(|field| !self.0[**field].is_null()).map(|field| match &self.0[*field] {
            Value::String(text) => format!("{field}={text}"),
            other => format!("{field}={other}"),
        });
        format!("the log: {}", shown.collect::<Vec<_>>().join(" "))
    }
}

/// What the last run logged.
fn records(stage: &Stage) -> Vec<Record> {
    let text = fs::read_to_string(stage.log()).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).map(Record).collect()
}
