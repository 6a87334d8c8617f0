//! The keys of `TAG.toml`, each with an example: what is not known is refused, and this is what is told instead.

use super::super::fields::Key;
use super::super::policies::POLICY_KEYS;
use super::super::quorum::QUORUM_KEYS;
use super::super::resync::RESYNC_KEYS;
use super::super::{fencing, io_errors};

/// Those of a mirror.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "tag",
        example: "tag = \"data\"",
    },
    Key {
        name: "number",
        example: "number = 0",
    },
    Key {
        name: "backend",
        example: "backend = \"md\"",
    },
    Key {
        name: "device",
        example: "device = \"/run/netraid/data.nbd\"",
    },
    Key {
        name: "protocol",
        example: "protocol = \"C\"",
    },
    Key {
        name: "sndbuf-size",
        example: "sndbuf-size = 10485760",
    },
    Key {
        name: "on-congestion",
        example: "on-congestion = \"block\"",
    },
    Key {
        name: "congestion-fill",
        example: "congestion-fill = 8388608",
    },
    Key {
        name: "chunk",
        example: "chunk = 256",
    },
    Key {
        name: "bitmap",
        example: "bitmap = \"internal\"",
    },
    Key {
        name: "csums-alg",
        example: "csums-alg = \"blake3\"",
    },
    io_errors::INTEGRITY,
    Key {
        name: "verify-rate",
        example: "verify-rate = 102400",
    },
    Key {
        name: "nodes",
        example: "[[nodes]] with name, address and disk",
    },
    io_errors::KEYS[0],
    io_errors::KEYS[1],
    POLICY_KEYS[0],
    POLICY_KEYS[1],
    POLICY_KEYS[2],
    POLICY_KEYS[3],
    POLICY_KEYS[4],
    POLICY_KEYS[5],
    RESYNC_KEYS[0],
    RESYNC_KEYS[1],
    RESYNC_KEYS[2],
    RESYNC_KEYS[3],
    RESYNC_KEYS[4],
    RESYNC_KEYS[5],
    RESYNC_KEYS[6],
    QUORUM_KEYS[0],
    QUORUM_KEYS[1],
    fencing::KEY,
];

/// Those of a node in it.
pub(super) const NODE_KEYS: &[Key] = &[
    Key {
        name: "name",
        example: "name = \"server1\"",
    },
    Key {
        name: "priority",
        example: "priority = 1",
    },
    Key {
        name: "address",
        example: "address = \"10.0.0.1\"",
    },
    Key {
        name: "disk",
        example: "disk = \"/dev/sdb1\"",
    },
    Key {
        name: "port",
        example: "port = 10001",
    },
    Key {
        name: "protocol",
        example: "protocol = \"A\"",
    },
];
