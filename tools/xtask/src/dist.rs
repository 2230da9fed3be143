//! `cargo xtask dist`: the archives of a release.

pub(crate) mod images;
