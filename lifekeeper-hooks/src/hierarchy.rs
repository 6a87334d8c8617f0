//! The resource and its systems: create, canextend, extend, unextend, depstoextend.

use netraid::api::document::{Mirror, Order, Outcome};

use crate::daemon::{Daemon, Failure};
use crate::lifekeeper::{self, Ended};
use crate::script::Call;
use crate::service::end;

/// Makes this node's disk the first leg of a configured mirror, and the LifeKeeper resource, in service.
pub(crate) fn create(call: &Call) -> u8 {
    end(call, "the mirror and its resource were made", created(call))
}

fn created(call: &Call) -> Result<(), Failure> {
    let daemon = Daemon::new(call);
    let mirror = daemon.mirror(&call.tag)?;
    agrees(call, &mirror)?;
    let keep = match call.hierarchy.as_deref() {
        None | Some("" | "DataKeeper Resource" | "Data Replication Resource") => false,
        Some("Replicate Existing Filesystem") => true,
        Some(other) => {
            let why = format!(
                "{other:?} is not built: create a \"DataKeeper Resource\", and a file system and its resource on it"
            );
            return Err(Failure::new(Outcome::Refused, why));
        }
    };
    // Made already, by an earlier call whose second half failed.
    if mirror.service != "in" {
        daemon.order(&call.tag, &Order::Create { force: false, keep })?;
    }
    let switchback = call.switchback.as_deref().unwrap_or("intelligent");
    instance(call, switchback)?;
    lcdi(
        call,
        "ins_setstate",
        &["-t", call.tag.as_str(), "-S", "ISP"],
    )
}

/// What the arguments say is what is configured.
fn agrees(call: &Call, mirror: &Mirror) -> Result<(), Failure> {
    let own = mirror.nodes.iter().find(|node| node.own);
    if let (Some(device), Some(own)) = (&call.device, own)
        && *device != own.device
    {
        let why = format!(
            "the disk of this node is {} in the configuration, not {device}",
            own.device
        );
        return Err(Failure::new(Outcome::Usage, why));
    }
    let kind = match mirror.protocol.as_str() {
        "C" => "synchronous",
        _ => "asynchronous",
    };
    match &call.kind {
        Some(asked) if !asked.is_empty() && asked != kind => {
            let why = format!(
                "protocol {} of the configuration is {kind}, not {asked}",
                mirror.protocol
            );
            Err(Failure::new(Outcome::Usage, why))
        }
        _ => Ok(()),
    }
}

/// Makes the resource; one that is there is left as it is.
fn instance(call: &Call, switchback: &str) -> Result<(), Failure> {
    let tag = call.tag.as_str();
    let switchback = switchback.to_ascii_uppercase();
    if switchback != "INTELLIGENT" {
        let why = "a mirror's switchback can only be intelligent";
        return Err(Failure::new(Outcome::Usage, why));
    }
    // The tag is unique among the mirrors, as an id has to be.
    let words = [
        "-a",
        "scsi",
        "-r",
        "netraid",
        "-I",
        "INIT_OSU",
        "-s",
        &switchback,
        "-t",
        tag,
        "-i",
        tag,
    ];
    lcdi(call, "ins_create", &words)
}

/// A command of LifeKeeper's; that something exists already (4) is as good as done.
fn lcdi(call: &Call, name: &str, words: &[&str]) -> Result<(), Failure> {
    match lifekeeper::run(name, words, call.until) {
        Ended::Code(0 | ALREADY_EXISTS, _) => Ok(()),
        Ended::Code(code, _) => Err(Failure::new(
            Outcome::Failed,
            format!("{name} ended with {code}"),
        )),
        Ended::Late => Err(Failure::new(Outcome::Late, format!("{name} did not end"))),
        Ended::Absent(why) => Err(Failure::new(Outcome::Failed, why)),
    }
}

/// Whether this node can become a target.
pub(crate) fn can_extend(call: &Call) -> u8 {
    let may = Daemon::new(call)
        .mirror(&call.tag)
        .and_then(|mirror| extendable(call, &mirror));
    end(call, "this node can become a target", may.map(drop))
}

/// This node's name, if it can become a target, or is one.
fn extendable(call: &Call, mirror: &Mirror) -> Result<(String, bool), Failure> {
    let refused = |why: String| Err(Failure::new(Outcome::Refused, why));
    let system = call.system.as_deref().unwrap_or_default();
    let Some(own) = mirror.nodes.iter().find(|node| node.own) else {
        return refused(format!("this node is not configured for {}", mirror.tag));
    };
    match mirror.nodes.iter().find(|node| node.name == system) {
        None => return refused(format!("{system} is not a node of {}", mirror.tag)),
        Some(template) if template.own => {
            return refused(format!("{system} is this node, which has it already"));
        }
        Some(template) if !template.reachable => {
            return refused(format!("netraidd of {system} does not answer"));
        }
        Some(_) => {}
    }
    if mirror.service != "out" {
        return refused(format!("{} is in service on this node", mirror.tag));
    }
    Ok((own.name.clone(), own.member))
}

/// Makes this node a target: the source is told through LifeKeeper, and the resource is made here, out of service.
pub(crate) fn extend(call: &Call) -> u8 {
    let done = Daemon::new(call).mirror(&call.tag).and_then(|mirror| {
        let (own, member) = extendable(call, &mirror)?;
        if !member {
            let source = mirror.source.clone().or_else(|| call.system.clone());
            on(call, &source.unwrap_or_default(), "extend", &own)?;
        }
        instance(call, "intelligent")
    });
    end(call, "this node is a target", done)
}

/// Lets this node go: the source is told, and it forgets the mirror here.
pub(crate) fn unextend(call: &Call) -> u8 {
    let daemon = Daemon::new(call);
    let done = daemon.mirrors().and_then(|mirrors| {
        let found = mirrors
            .mirrors
            .iter()
            .find(|mirror| mirror.tag == call.tag.as_str());
        let Some(mirror) = found else {
            return Ok(());
        };
        let own = mirror.nodes.iter().find(|node| node.own);
        if let Some(own) = own.filter(|own| own.member) {
            match &mirror.source {
                Some(source) if *source != own.name => on(call, source, "unextend", &own.name)?,
                Some(_) => {
                    let why = "it is in service on this node, which can't leave it";
                    return Err(Failure::new(Outcome::Refused, why));
                }
                None => {
                    let why = "it is not in service anywhere, so no source can let this node go";
                    return Err(Failure::new(Outcome::Refused, why));
                }
            }
        }
        daemon.order(&call.tag, &Order::Delete)
    });
    end(call, "this node has left the mirror", done)
}

/// Runs `netraid` on another system, by LifeKeeper.
fn on(call: &Call, system: &str, order: &str, node: &str) -> Result<(), Failure> {
    let words = [
        "-e",
        "-d",
        system,
        "-t",
        REMOTE,
        "--",
        "netraid",
        order,
        call.tag.as_str(),
        node,
    ];
    match lifekeeper::run("lcdremexec", &words, call.until) {
        Ended::Code(0, _) => Ok(()),
        Ended::Code(code, _) => Err(Failure::new(
            match code {
                2 => Outcome::Usage,
                3 => Outcome::Refused,
                124 => Outcome::Late,
                _ => Outcome::Failed,
            },
            format!(
                "on {system}: netraid {order} {} {node} ended with {code}",
                call.tag
            ),
        )),
        Ended::Late => Err(Failure::new(
            Outcome::Late,
            format!("{system} did not answer in time"),
        )),
        Ended::Absent(why) => Err(Failure::new(Outcome::Failed, why)),
    }
}

/// Nothing below a mirror has to be extended with it.
pub(crate) fn deps_to_extend() -> u8 {
    0
}

/// LCDI's number for it.
const ALREADY_EXISTS: i32 = 4;
/// Seconds that another system has.
const REMOTE: &str = "180";
