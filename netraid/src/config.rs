//! What administrators configure: one file a mirror in `/etc/netraid`, and the parameters of `/etc/default/LifeKeeper`.
