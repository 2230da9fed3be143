//! Finds commands in the code blocks and code spans of Markdown.

use super::command::{DocumentCommand, Program};

/// The commands in the Markdown `text` of `document`.
pub(crate) fn commands_in(document: &str, text: &str) -> Vec<DocumentCommand> {
    let mut commands = Vec::new();
    let mut paragraph = (1, String::new());
    let mut block: Vec<(usize, String)> = Vec::new();
    let mut is_fenced = false;
    let mut may_begin_block = true;
    // The empty line ends the last paragraph.
    for (number, line) in (1..).zip(text.lines().chain([""])) {
        if line.starts_with("```") {
            is_fenced = !is_fenced;
            may_begin_block = true;
        } else if is_fenced || (may_begin_block && line.starts_with("    ")) {
            // A backslash continues the line before.
            match block.last_mut() {
                Some((_, before)) if before.ends_with('\\') => {
                    before.pop();
                    before.push_str(line.trim());
                }
                _ => block.push((number, line.trim().to_owned())),
            }
            continue;
        } else {
            // An indented line behind text continues a list item.
            may_begin_block = line.is_empty() || line.starts_with('#');
        }
        for (number, line) in block.drain(..) {
            commands.extend(command(document, number, &line, true));
        }
        if line.is_empty() {
            add_spans(document, &paragraph, &mut commands);
            paragraph = (number + 1, String::new());
        } else {
            paragraph.1.push_str(line);
            paragraph.1.push('\n');
        }
    }
    commands
}

/// Adds the commands in the code spans of a paragraph that begins on the given line.
fn add_spans(document: &str, (first, text): &(usize, String), commands: &mut Vec<DocumentCommand>) {
    let mut line = *first;
    for (index, part) in text.split('`').enumerate() {
        if index % 2 == 1 {
            commands.extend(command(document, line, part, false));
        }
        line += part.matches('\n').count();
    }
}

/// The command that `text` is, if it is one of the programs'.
fn command(document: &str, line: usize, text: &str, is_complete: bool) -> Option<DocumentCommand> {
    let mut words = words(text.trim().trim_start_matches("$ "));
    // Settings of the environment stand before the program.
    let settings = words.iter().take_while(|word| is_setting(word)).count();
    words.drain(..settings);
    let (prefix, program) = Program::PREFIXES
        .into_iter()
        .find(|(prefix, _)| words.iter().take(prefix.len()).eq(*prefix))?;
    let mut arguments = words.split_off(prefix.len());
    // `oche` alone is the product's name.
    if arguments.is_empty() && !is_complete {
        return None;
    }
    if !is_complete && arguments.last().is_some_and(|word| word == "...") {
        arguments.pop();
    }
    Some(DocumentCommand { document: document.to_owned(), line, program, arguments, is_complete })
}

fn is_setting(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|one| one.is_ascii_uppercase() || one == '_')
    })
}

/// The words of a command line as a shell splits them, up to a comment, a pipe or the like.
/// Brackets around what may be left out are dropped.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None;
    let mut quote = None;
    for one in text.chars() {
        match (quote, one) {
            (Some(end), _) if one == end => quote = None,
            (None, '\'' | '"') => {
                quote = Some(one);
                word.get_or_insert_with(String::new);
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | '>' | '<' | '&' | ';') => break,
            (None, '[' | ']') => {}
            (None, _) if one.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_with(String::new).push(one),
        }
    }
    words.extend(word);
    words
}
