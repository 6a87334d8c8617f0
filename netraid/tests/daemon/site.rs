//! A cluster on loopback as a site for the scenarios of the specification (tests/scenarios).

use std::env;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use nbd_protocol::command::Command as Request;
use netraid::control;

use crate::application::Application;
use crate::cable::Cable;
use crate::cluster::Cluster;
use crate::node::PATIENCE;
use crate::seed::site::{Ended, Site};
use crate::seed::written::{MIB, Written};

pub struct Loopback {
    pub cluster: Cluster,
    written: Written,
}

impl Loopback {
    pub fn new(cluster: Cluster) -> Loopback {
        let written = Written::default();
        Loopback { cluster, written }
    }

    /// A shell on a node that is about to run a line.
    pub fn shell(&self, node: usize, line: &str) -> Command {
        let node = &self.cluster.nodes[node - 1];
        let programs = Path::new(env!("CARGO_BIN_EXE_netraidd")).parent().unwrap();
        let mut path = vec![programs.to_owned()];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .env("PATH", env::join_paths(path).unwrap())
            .env("LKROOT", node.lkroot())
            .env("NETRAID_RUN_DIR", node.run_dir())
            .current_dir(&node.folder)
            .stdin(Stdio::null());
        command
    }
}

impl Site for Loopback {
    fn nodes(&self) -> usize {
        self.cluster.nodes.len()
    }

    fn name(&self, node: usize) -> String {
        self.cluster.nodes[node - 1].name.clone()
    }

    fn run(&self, node: usize, line: &str) -> Ended {
        let output = self.shell(node, line).output().unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn power_off(&self, node: usize) {
        self.cluster.nodes[node - 1].power_off();
    }

    fn boot(&self, node: usize) {
        self.cluster.nodes[node - 1].boot();
    }

    fn cut(&self, one: usize, other: usize) {
        self.cluster.cut(one - 1, other - 1, Cable::Hung);
    }

    fn join(&self, one: usize, other: usize) {
        self.cluster.join(one - 1, other - 1);
    }

    fn write(&self, tag: &str, source: usize, mebibytes: Range<u64>) {
        const PIECE: u64 = MIB / 16;
        let line = self.written.next(tag, mebibytes.clone());
        let piece = Bytes::from(line.repeat(PIECE as usize / line.len()));
        let link = Application::open(&self.cluster.nodes[source - 1].device(tag)).unwrap();
        for number in mebibytes.start * MIB / PIECE..mebibytes.end * MIB / PIECE {
            let write = Request::Write {
                offset: number * PIECE,
                data: piece.clone(),
                fua: false,
            };
            link.run(write, PATIENCE).unwrap();
        }
        link.run(Request::Flush, PATIENCE).unwrap();
        link.close();
    }

    fn full_speed(&self, tag: &str, source: usize) {
        let most = Some(u32::try_from(MIB).unwrap());
        let folder = self.cluster.nodes[source - 1].run_dir();
        let order = control::Order::Speed {
            most,
            least: most,
            control: None,
        };
        control::order(&folder, tag, &order, PATIENCE).unwrap();
    }

    fn check(&self, tag: &str, nodes: &[usize], lost: &[usize]) {
        for node in nodes {
            let node = &self.cluster.nodes[node - 1];
            eprintln!("the leg of {}", node.name);
            self.written.check(tag, &node.data_of(tag), lost);
        }
        let first = self.cluster.nodes[nodes[0] - 1].data_of(tag);
        for node in &nodes[1..] {
            let node = &self.cluster.nodes[node - 1];
            assert!(
                node.data_of(tag) == first,
                "the leg of {} differs",
                node.name
            );
        }
    }
}
