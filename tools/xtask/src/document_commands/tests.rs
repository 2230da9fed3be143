use clap::error::ErrorKind;
use oche_trace::control::Control;

use super::{DocumentCommand, Program, all, commands_in};

/// The error of `command`, by the parser of its program.
fn fault(command: &DocumentCommand) -> Option<String> {
    let parser = match command.program {
        Program::Xtask => crate::cli::parser(),
        Program::Oche => oche::cli::parser(),
        // Cargo itself checks these, in a step of `cargo xtask test`.
        Program::CargoTest => return None,
    };
    let words = std::iter::once("program").chain(command.arguments.iter().map(String::as_str));
    let matches = match parser.no_binary_name(false).try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) if !command.is_complete && is_incomplete(error.kind()) => return None,
        Err(error)
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) =>
        {
            return None;
        }
        Err(error) => return Some(format!("{command}: {error}")),
    };
    if command.program == Program::Xtask {
        let only = matches.subcommand_matches("test")?.get_many::<String>("only")?;
        let only: Vec<String> = only.cloned().collect();
        return crate::test::check_only(&only).err().map(|error| format!("{command}: {error}"));
    }
    let filter = matches.subcommand_matches("trace")?.subcommand_matches("filter")?;
    let mut control = Control::default();
    filter.get_many::<String>("orders")?.find_map(|order| {
        control.apply(order).err().map(|error| format!("{command}: `{order}`: {error}"))
    })
}

/// Whether an error of this kind means only that arguments are missing.
fn is_incomplete(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

fn faults(text: &str) -> Vec<String> {
    commands_in("x.md", text).iter().filter_map(fault).collect()
}

#[test]
fn every_command_of_a_document_is_one_that_its_program_accepts() {
    let commands = all().unwrap();
    for (program, least) in [(Program::Xtask, 50), (Program::Oche, 30), (Program::CargoTest, 4)] {
        let found = commands.iter().filter(|command| command.program == program).count();
        assert!(found >= least, "only {found} commands of {program:?} were found");
    }
    let faults: Vec<String> = commands.iter().filter_map(fault).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn an_option_subcommand_step_or_order_that_does_not_exist_is_found() {
    for good in [
        "    cargo xtask demo --short &   # or --no-such-option\n",
        "    $ oche trace text a.oche --kind map | grep --no-such-option\n",
        "`cargo xtask soak ...`, `oche trace\nwhy` and `oche` and `oche.pool=1`",
        "    cargo xtask run --kernel Image [--initrd CPIO] [-- QEMU ARGS]\n",
        "    oche trace filter --ram FILE 'kinds map,unmap'\n",
        "```\nOCHE_X=1 cargo run -p oche -- \\\n  inspect oche.img\n```\n",
        "- item\n    goes on without a command: cargo xtask no-such-command\n",
    ] {
        assert_eq!(faults(good), Vec::<String>::new(), "{good}");
    }
    for bad in [
        "    cargo xtask demo --no-such-option\n",
        "text `cargo xtask demo\n--no-such-option` text",
        "`oche trace no-such-view ...`",
        "    oche trace why\n",
        "    cargo run -p oche -- \\\n        inspect --no-such-option oche.img\n",
        "```\n$ cargo xtask test --only no-such-step\n```\n",
        "    oche trace filter --ram FILE 'kinds no-such-kind'\n",
        "text\n\n    cargo xtask\n\nmore\n",
    ] {
        assert_eq!(faults(bad).len(), 1, "{bad}");
    }
}

#[test]
fn a_command_is_found_with_its_line_and_its_words() {
    let text = "# One\n\nSee `cargo test\n-p a b` and\n`oche pack`.\n\n    A=1 oche trace text 'a b' \"c\" # d\n";
    let found = commands_in("x.md", text);
    let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["x.md:3: cargo test -p a b", "x.md:5: oche pack", "x.md:7: oche trace text a b c"]
    );
    assert_eq!(found[2].arguments, ["trace", "text", "a b", "c"]);
}
