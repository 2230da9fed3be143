//! Scans a file of Rust for the modules that it declares and the paths that it names.

/// The modules that a file declares, and the paths that it names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Modules with a body in this file.
    pub(crate) modules: Vec<Vec<String>>,
    /// Modules whose body is a file of its own, with the `#[path]` of those that have one.
    pub(crate) children: Vec<(Vec<String>, Option<String>)>,
    /// Paths, each with the module that names it.
    pub(crate) paths: Vec<(Vec<String>, Vec<String>)>,
}

/// Scans `text`, the file of the module `module`. Test code is left out.
pub(crate) fn scan(text: &str, module: &[String]) -> Names {
    let tokens = tokens(text);
    let mut scanner = Scanner { tokens: &tokens, at: 0, place: None, found: Names::default() };
    scanner.block(module);
    scanner.found
}

/// Names, `::`, single characters and the text of a `#[path]`; comments, other texts and lifetimes
/// are left out.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => text_length(rest),
            'r' | 'b' if raw_text_length(rest).is_some() => raw_text_length(rest).unwrap_or(1),
            '\'' => quote_length(rest),
            ':' if rest.starts_with("::") => 2,
            first if is_of_a_name(first) => {
                rest.find(|letter| !is_of_a_name(letter)).unwrap_or(rest.len())
            }
            first => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        let is_kept = match first {
            '/' => length == 1,
            '"' => tokens.ends_with(&["#", "[", "path", "="].map(str::to_owned)),
            '\'' => false,
            'r' | 'b' => !token.contains('"'),
            first => !first.is_whitespace(),
        };
        if is_kept {
            tokens.push(token.to_owned());
        }
        rest = after;
    }
    tokens
}

fn is_of_a_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Bytes of the text that begins with a quotation mark.
fn text_length(rest: &str) -> usize {
    let mut is_escaped = false;
    for (place, letter) in rest.char_indices().skip(1) {
        match letter {
            '"' if !is_escaped => return place + 1,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    rest.len()
}

/// Bytes of `r"..."`, `r#"..."#` and their like, if `rest` begins with one.
fn raw_text_length(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let marks = body.len() - body.trim_start_matches('#').len();
    let inside = body.get(marks..)?.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(marks));
    let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(rest.len() - inside.len() + length)
}

/// Bytes of a character in quotes, or the mark of a lifetime alone.
fn quote_length(rest: &str) -> usize {
    let mut letters = rest.char_indices().skip(1);
    match letters.next() {
        Some((_, '\\')) => {
            let after = rest.get(3..).unwrap_or_default();
            after.find('\'').map_or(rest.len(), |end| end + 4)
        }
        Some(_) => {
            letters.next().filter(|(_, letter)| *letter == '\'').map_or(1, |(place, _)| place + 1)
        }
        None => 1,
    }
}

struct Scanner<'a> {
    tokens: &'a [String],
    at: usize,
    /// The value of the `#[path]` in front of the next module.
    place: Option<String>,
    found: Names,
}

impl Scanner<'_> {
    fn token(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", String::as_str)
    }

    fn is_next(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(ahead, word)| self.token(ahead) == *word)
    }

    /// Goes through the block of `module` up to the brace that ends it.
    fn block(&mut self, module: &[String]) {
        let mut depth = 0;
        while self.at < self.tokens.len() {
            if self.is_next(&["#", "[", "cfg", "(", "test", ")", "]"])
                || self.is_next(&["#", "[", "cfg", "(", "all", "(", "test", ","])
            {
                self.skip_item();
                continue;
            }
            if self.is_next(&["#", "[", "path", "="]) {
                self.place = Some(self.token(4).trim_matches('"').to_owned());
                self.at += 6;
                continue;
            }
            match self.token(0) {
                "{" => depth += 1,
                "}" if depth == 0 => return,
                "}" => depth -= 1,
                "mod" if self.token(2) == ";" => {
                    let child = (self.child(module), self.place.take());
                    self.found.children.push(child);
                }
                "mod" if self.token(2) == "{" => {
                    let child = self.child(module);
                    self.at += 3;
                    self.found.modules.push(child.clone());
                    self.block(&child);
                }
                "use" => {
                    self.at += 1;
                    self.tree(module, &[]);
                    continue;
                }
                word if word.chars().all(is_of_a_name) && self.token(1) == "::" => {
                    self.path(module);
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    fn child(&self, module: &[String]) -> Vec<String> {
        module.iter().cloned().chain([self.token(1).to_owned()]).collect()
    }

    /// Skips attributes and the item behind them.
    fn skip_item(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.tokens.len() {
            match self.token(0) {
                "{" | "(" | "[" => depth += 1,
                ")" | "]" => depth = depth.saturating_sub(1),
                "}" => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        self.at += 1;
                        return;
                    }
                }
                ";" if depth == 0 => {
                    self.at += 1;
                    return;
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    /// A path in code.
    fn path(&mut self, module: &[String]) {
        let mut path = vec![self.token(0).to_owned()];
        self.at += 1;
        while self.token(0) == "::"
            && self.token(1).chars().all(is_of_a_name)
            && !self.token(1).is_empty()
        {
            path.push(self.token(1).to_owned());
            self.at += 2;
        }
        if self.token(0) == "::" {
            self.at += 1;
        }
        self.found.paths.push((module.to_vec(), path));
    }

    /// A tree of imports below `prefix`, with the comma or semicolon behind it.
    fn tree(&mut self, module: &[String], prefix: &[String]) {
        let mut path = prefix.to_vec();
        while self.at < self.tokens.len() {
            let token = self.token(0).to_owned();
            self.at += 1;
            match token.as_str() {
                "::" | "*" => {}
                "{" => {
                    while self.at < self.tokens.len() && self.token(0) != "}" {
                        self.tree(module, &path);
                    }
                    self.at += 1;
                    path.clear();
                }
                "as" => self.at += 1,
                "," | ";" => break,
                "}" => {
                    self.at -= 1;
                    break;
                }
                // `a::{self}` is `a`.
                "self" if !path.is_empty() => {}
                _ => path.push(token),
            }
        }
        if !path.is_empty() {
            self.found.paths.push((module.to_vec(), path));
        }
    }
}
