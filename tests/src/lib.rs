//! Tests of what spans the crates of the workspace: see `tests/imports`.
