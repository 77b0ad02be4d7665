//! A source file as the rules see it: its words with their lines, its paths, its functions.
//!
//! Not a parser of Rust: a lexer that knows comments, literals and lifetimes, and just enough of
//! the grammar to find `use` trees, bodies and test modules.

/// One word of the code. Comments leave none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub line: usize,
    pub kind: Kind,
    /// It stands in an item marked `#[cfg(test)]`.
    pub in_test: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An identifier or keyword.
    Word(String),
    Mark(char),
    /// A literal of any kind, or a lifetime.
    Literal,
}

/// A path such as `crate::base::clock`, taken apart; `use` trees are spread out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    pub line: usize,
    pub segments: Vec<String>,
    pub in_test: bool,
}

impl Path {
    /// Whether its first segments are `prefix`.
    pub fn starts_with(&self, prefix: &[&str]) -> bool {
        self.segments.len() >= prefix.len() && self.segments.iter().zip(prefix).all(|(a, b)| a == b)
    }

    /// Whether `run` stands anywhere in it.
    pub fn contains(&self, run: &[&str]) -> bool {
        self.segments.windows(run.len()).any(|window| window.iter().zip(run).all(|(a, b)| a == b))
    }
}

/// One file of the tree.
#[derive(Clone, Debug)]
pub struct Source {
    /// Relative to the root of the tree, with `/`.
    pub path: String,
    pub text: String,
    pub tokens: Vec<Token>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let mut tokens = lex(text);
        mark_tests(&mut tokens);
        if path.ends_with("/tests.rs") || path.contains("/tests/") || path.starts_with("tests/") {
            tokens.iter_mut().for_each(|token| token.in_test = true);
        }
        Source { path: path.to_owned(), text: text.to_owned(), tokens }
    }

    /// All paths, in the order in which they stand. A lone word is a path of one segment.
    pub fn paths(&self) -> Vec<Path> {
        let mut paths = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            if word(&self.tokens, at) == Some("use") {
                at = use_tree(&self.tokens, at + 1, &[], &mut paths);
            } else if let Some(first) = word(&self.tokens, at) {
                let mut path = path_of(&self.tokens[at], first);
                at += 1;
                while is_colons(&self.tokens, at)
                    && let Some(next) = word(&self.tokens, at + 2)
                {
                    path.segments.push(next.to_owned());
                    at += 3;
                }
                paths.push(path);
            } else {
                at += 1;
            }
        }
        paths
    }

    /// Every function with a body: name, first line, number of lines.
    pub fn functions(&self) -> Vec<(String, usize, usize)> {
        let mut functions = Vec::new();
        for at in 0..self.tokens.len() {
            if word(&self.tokens, at) != Some("fn") {
                continue;
            }
            // `fn(` is a type, not a function.
            let Some(name) = word(&self.tokens, at + 1) else { continue };
            if let Some(last) = end_of_item(&self.tokens, at)
                && self.tokens[last].kind == Kind::Mark('}')
            {
                let first = self.tokens[at].line;
                functions.push((name.to_owned(), first, self.tokens[last].line - first + 1));
            }
        }
        functions
    }
}

fn path_of(token: &Token, first: &str) -> Path {
    Path { line: token.line, segments: vec![first.to_owned()], in_test: token.in_test }
}

/// The word at `at`, if there is one.
pub fn word(tokens: &[Token], at: usize) -> Option<&str> {
    match &tokens.get(at)?.kind {
        Kind::Word(word) => Some(word),
        _ => None,
    }
}

/// Whether the mark `mark` stands at `at`.
pub fn is_mark(tokens: &[Token], at: usize, mark: char) -> bool {
    tokens.get(at).is_some_and(|token| token.kind == Kind::Mark(mark))
}

fn is_colons(tokens: &[Token], at: usize) -> bool {
    is_mark(tokens, at, ':') && is_mark(tokens, at + 1, ':')
}

/// Spreads the `use` tree at `at` into `paths` and returns where it ends.
fn use_tree(tokens: &[Token], mut at: usize, prefix: &[String], paths: &mut Vec<Path>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        if is_colons(tokens, at) {
            at += 2;
        } else if is_mark(tokens, at, '{') {
            at += 1;
            while at < tokens.len() && !is_mark(tokens, at, '}') {
                at = use_tree(tokens, at, &path, paths);
                at += usize::from(is_mark(tokens, at, ','));
            }
            return at + 1;
        } else if word(tokens, at) == Some("as") {
            at += 2;
        } else if let Some(segment) = word(tokens, at) {
            path.push(segment.to_owned());
            at += 1;
        } else if is_mark(tokens, at, '*') {
            at += 1;
        } else {
            let token = &tokens[at.min(tokens.len()) - 1];
            paths.push(Path { line: token.line, segments: path, in_test: token.in_test });
            return if is_mark(tokens, at, ';') { at + 1 } else { at };
        }
    }
}

/// The last token of the item that starts at `at`: its closing brace or its semicolon.
fn end_of_item(tokens: &[Token], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(at) {
        match token.kind {
            Kind::Mark('(' | '[' | '{') => depth += 1,
            Kind::Mark(')' | ']') => depth = depth.checked_sub(1)?,
            Kind::Mark('}') => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            Kind::Mark(';') if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

/// Marks the items under `#[cfg(test)]`.
fn mark_tests(tokens: &mut [Token]) {
    let attribute = lex("#[cfg(test)]");
    for at in 0..tokens.len() {
        let starts = tokens[at..].len() >= attribute.len()
            && tokens[at..].iter().zip(&attribute).all(|(a, b)| a.kind == b.kind);
        if starts {
            let last = end_of_item(tokens, at + attribute.len()).unwrap_or(tokens.len() - 1);
            tokens[at..=last].iter_mut().for_each(|token| token.in_test = true);
        }
    }
}

fn lex(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: text, line: 1, tokens: Vec::new() };
    while lexer.step() {}
    lexer.tokens
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn step(&mut self) -> bool {
        let Some(next) = self.rest.chars().next() else { return false };
        if next.is_whitespace() {
            self.take(next.len_utf8());
        } else if self.rest.starts_with("//") {
            self.take(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.take(block_comment_len(self.rest));
        } else if let Some(len) = literal_len(self.rest) {
            self.push(len, |_| Kind::Literal);
        } else if next == '_' || next.is_alphanumeric() {
            let len = self.rest.find(|c: char| c != '_' && !c.is_alphanumeric());
            let number = next.is_ascii_digit();
            self.push(len.unwrap_or(self.rest.len()), |text| match number {
                true => Kind::Literal,
                false => Kind::Word(text.to_owned()),
            });
        } else {
            self.push(next.len_utf8(), |_| Kind::Mark(next));
        }
        true
    }

    fn push(&mut self, len: usize, kind: impl FnOnce(&str) -> Kind) {
        let line = self.line;
        let text = self.take(len);
        self.tokens.push(Token { line, kind: kind(text), in_test: false });
    }

    fn take(&mut self, len: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(len);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }
}

fn block_comment_len(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The length of the string, character or lifetime that `text` starts with.
fn literal_len(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        let after = text.strip_prefix(prefix);
        after.is_some_and(|after| after.trim_start_matches('#').starts_with('"'))
            && (prefix.ends_with('r') || after.is_some_and(|after| after.starts_with('"')))
    });
    if let Some(prefix) = prefix {
        let body = &text[prefix.len()..];
        if prefix.ends_with('r') {
            let hashes = body.len() - body.trim_start_matches('#').len();
            let end = format!("\"{}", "#".repeat(hashes));
            let start = hashes + 1;
            let found = body[start..].find(&end).map_or(body.len(), |at| start + at + end.len());
            return Some(prefix.len() + found);
        }
        return Some(prefix.len() + quoted_len(body, '"'));
    }
    let quote = if text.starts_with("b'") { 1 } else { 0 };
    let body = text[quote..].strip_prefix('\'')?;
    let mut chars = body.chars();
    match (chars.next()?, chars.next()) {
        ('\\', _) | (_, Some('\'')) => Some(quote + quoted_len(&text[quote..], '\'')),
        // A lifetime.
        _ => Some(1 + body.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(body.len())),
    }
}

/// The length of the literal that starts with `quote` and ends at the next one without a backslash.
fn quoted_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\\' => escaped = !escaped,
            c if c == quote && !escaped => return at + 1,
            _ => escaped = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let tokens = lex(text).into_iter();
        tokens
            .filter_map(|token| match token.kind {
                Kind::Word(word) => Some(word),
                _ => None,
            })
            .collect()
    }

    fn paths(text: &str) -> Vec<String> {
        let source = Source::new("src/x.rs", text);
        source.paths().iter().map(|path| path.segments.join("::")).collect()
    }

    #[test]
    fn comments_and_literals_leave_no_words() {
        assert_eq!(words("a /* b /* c */ d */ e // f\ng"), ["a", "e", "g"]);
        assert_eq!(words(r##"a "b \" c" r#"d " e"# b"f" br"g\" c"h" i"##), ["a", "i"]);
        assert_eq!(words(r"a 'b' '\'' b'c' '\u{1F600}' <'d> 'e: f 1_000u64"), ["a", "f"]);
    }

    #[test]
    fn use_trees_are_spread() {
        assert_eq!(
            paths("use a::{self, b as c, d::{e, f::*}};\nuse ::g::h;\nlet x = i::j::<k>(l);"),
            ["a::self", "a::b", "a::d::e", "a::d::f", "g::h", "let", "x", "i::j", "k", "l"]
        );
    }

    #[test]
    fn lines_are_counted_through_literals_and_comments() {
        let source = Source::new("src/x.rs", "/*\n*/ a \"\n\n\" b\nc");
        let lines: Vec<_> = source.paths().iter().map(|path| path.line).collect();
        assert_eq!(lines, [2, 4, 5]);
    }

    #[test]
    fn functions_are_measured_from_signature_to_brace() {
        let text = "trait T { fn a(&self); fn b(x: [u8; 2])\n{\n if x { y }\n}\n}\nlet f: fn(u8);";
        let source = Source::new("src/x.rs", text);
        assert_eq!(source.functions(), [("b".to_owned(), 1, 4)]);
    }

    #[test]
    fn test_items_are_told_from_the_rest() {
        let text = "a!{}\n#[cfg(test)]\nmod tests { b }\nc\n#[cfg(test)]\nmod more;\nd";
        let source = Source::new("src/x.rs", text);
        let plain = source.paths().into_iter().filter(|path| !path.in_test);
        let plain: Vec<_> = plain.map(|path| path.segments.join("::")).collect();
        assert_eq!(plain, ["a", "c", "d"]);
        assert!(Source::new("src/x/tests.rs", "a").tokens[0].in_test);
    }
}
