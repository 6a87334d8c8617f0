//! The LifeKeeper resource scripts of NetRAID; the actions follow with the supervisor.

fn main() -> std::process::ExitCode {
    eprintln!(
        "lifekeeper-hooks: this release has no supervisor yet, so no action can be carried out"
    );
    std::process::ExitCode::from(3)
}
