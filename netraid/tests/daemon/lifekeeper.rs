//! What only LifeKeeper sees: quickCheck, local recovery, failover of one resource, and a remove whose peer is dead.

use std::time::{Duration, Instant};

use crate::application::Application;
use crate::cable::Cable;
use crate::cluster::{Cluster, Options};
use crate::node::Process;
use crate::seed::lifekeeper::Core;
use crate::seed::operator::Operator;
use crate::seed::site::Site;
use crate::seed::stage::{Stage, wait};
use crate::site::Loopback;

/// Two nodes with LifeKeeper, and what a test does with them.
fn with_lifekeeper(options: Options, test: impl FnOnce(&Loopback, &Core<'_>, &Stage<'_>)) {
    let site = Loopback::new(Cluster::with(2, options));
    let core = Core::new(&site, vec![1, 2]);
    let stage = Stage {
        site: &site,
        operator: &core,
    };
    test(&site, &core, &stage);
}

#[test]
fn an_array_that_died_comes_back_where_it_was() {
    with_lifekeeper(Options::default(), |site, core, stage| {
        let data = stage.mirror("data");
        data.made(1, &[2]);
        data.write(1, 0..1);
        let node = &site.cluster.nodes[0];
        assert!(node.kill_process(Process::Array));
        wait("the array does not come back", || {
            core.interval();
            Application::open(&node.device("data")).is_ok()
        });
        assert_eq!(core.state("data", 1), "ISP");
        assert_eq!(core.state("data", 2), "OSU");
        data.write(1, 1..2);
        data.all_see(&[1, 2], &["Source", "Target"]);
        data.ends_equal(&[1, 2]);
    });
}

#[test]
fn what_was_stopped_behind_lifekeepers_back_is_recovered_where_it_was() {
    with_lifekeeper(Options::default(), |site, core, stage| {
        let data = stage.mirror("data");
        data.made(1, &[2]);
        assert_eq!(site.run(1, "netraid stop data").code, 0);
        assert_eq!(site.run(1, QUICK_CHECK).code, 1);
        core.interval();
        data.all_see(&[1, 2], &["Source", "Target"]);
        assert_eq!(core.state("data", 1), "ISP");
        assert_eq!(core.state("data", 2), "OSU");
        assert_eq!(site.run(1, QUICK_CHECK).code, 0);
        data.write(1, 0..1);
        data.ends_equal(&[1, 2]);
    });
}

#[test]
fn what_cannot_be_recovered_fails_over() {
    with_lifekeeper(Options::default(), |site, core, stage| {
        let data = stage.mirror("data");
        data.made(1, &[2]);
        data.write(1, 0..1);
        // The disk is gone, and with it the array.
        let node = &site.cluster.nodes[0];
        std::fs::rename(node.disk(), node.folder.join("gone")).unwrap();
        assert!(node.kill_process(Process::Array));
        wait("quickCheck finds nothing", || {
            site.run(1, QUICK_CHECK).code == 1
        });
        core.interval();
        assert_eq!(core.state("data", 1), "OSF");
        assert_eq!(core.state("data", 2), "ISP");
        data.write(2, 1..2);
        data.stop(2);
        site.check("data", &[2], &[]);
    });
}

#[test]
fn with_no_connection_during_restore_the_first_quick_check_connects() {
    let options = Options {
        defaults: "LKDR_CONNECT_NBD_DURING_RESTORE=False\n".into(),
        ..Options::default()
    };
    with_lifekeeper(options, |site, core, stage| {
        let data = stage.mirror("data");
        data.made(1, &[2]);
        data.write(1, 0..1);
        core.switch_over("data", 2);
        assert_eq!(core.state("data", 2), "ISP");
        let told = site.run(2, "netraid status data").out;
        assert!(told.contains("Out of Sync"), "{told}");
        core.interval();
        data.all_see(&[1, 2], &["Target", "Source"]);
        data.ends_equal(&[2, 1]);
    });
}

/// Nothing gets through to the peer, and nobody is told: its address is a black hole.
fn remove_ends(noticed: bool) {
    with_lifekeeper(Options::default(), |site, core, stage| {
        let data = stage.mirror("data");
        data.made(1, &[2]);
        data.write(1, 0..1);
        site.cluster.cut(0, 1, Cable::Hung);
        if noticed {
            data.sees(1, &["Source", "Unknown"]);
        }
        let begin = Instant::now();
        Operator::stop(core, "data", 1);
        let took = begin.elapsed();
        assert!(took < LIMIT, "remove took {took:?}");
        assert_eq!(core.state("data", 1), "OSU");
        site.cluster.join(0, 1);
        core.switch_over("data", 1);
        data.all_see(&[1, 2], &["Source", "Target"]);
        data.ends_equal(&[1, 2]);
    });
}

const QUICK_CHECK: &str =
    "$LKROOT/subsys/scsi/resources/netraid/actions/quickCheck -t data -i data";

/// Of `remove`, as lifekeeper-hooks has it.
const LIMIT: Duration = Duration::from_secs(100);

#[test]
fn remove_ends_although_the_peer_has_just_become_a_black_hole() {
    remove_ends(false);
}

#[test]
fn remove_ends_although_the_peer_is_known_to_be_a_black_hole() {
    remove_ends(true);
}
