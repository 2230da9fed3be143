//! A run of random programs, and those that failed once.

use oche_tests::differential::run_program;
use oche_tests::program::Choice::*;
use oche_tests::program::During::*;
use oche_tests::program::Operation::{self, *};
use oche_tests::program::Rights::*;
use oche_tests::program::Site::*;
use oche_tests::program::Source::*;
use oche_tests::program::Target::*;
use oche_tests::program::{Program, Setting, Step};
use oche_tests::world::Board::*;

fn check(setting: Setting, steps: &[(Operation, u32)]) {
    let steps = steps.iter().cloned().map(|(operation, seed)| Step { operation, seed }).collect();
    run_program(&Program { setting, steps }).unwrap();
}
