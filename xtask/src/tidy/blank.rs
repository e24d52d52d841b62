//! Blanks comments and literals out of Rust source, so that what is left can be searched for words
//! and braces. Lines and columns stay where they were.

/// A source file, line by line.
pub(super) struct Source {
    /// As written.
    pub(super) raw: Vec<String>,
    /// With the insides of comments, strings and character literals turned into spaces.
    pub(super) code: Vec<String>,
}

impl Source {
    pub(super) fn of(text: &str) -> Self {
        let lines = |text: &str| text.lines().map(str::to_owned).collect();
        Self { raw: lines(text), code: lines(&blank(text)) }
    }
}

/// What the scanner is inside of.
#[derive(Clone, Copy)]
enum Inside {
    Code,
    Line,
    Block(usize),
    Str,
    Raw(usize),
}

fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = Inside::Code;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (taken, next) = match inside {
            Inside::Code => code_token(rest, out.chars().last()),
            Inside::Line => (c.len_utf8(), if c == '\n' { Inside::Code } else { Inside::Line }),
            Inside::Block(depth) => block_token(rest, depth),
            Inside::Str => match c {
                '\\' => (1 + rest.chars().nth(1).map_or(0, char::len_utf8), Inside::Str),
                '"' => (1, Inside::Code),
                _ => (c.len_utf8(), Inside::Str),
            },
            Inside::Raw(hashes) => {
                let end = format!("\"{}", "#".repeat(hashes));
                if rest.starts_with(&end) { (end.len(), Inside::Code) } else { (c.len_utf8(), inside) }
            }
        };
        let keep = matches!((&inside, &next), (Inside::Code, Inside::Code)) && !is_char_literal(rest, taken);
        let (token, after) = rest.split_at(taken);
        if keep {
            out.push_str(token);
        } else {
            out.extend(token.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = after;
        inside = next;
    }
    out
}

/// The length of the token that begins here, in bytes, and what it leads into.
fn code_token(rest: &str, before: Option<char>) -> (usize, Inside) {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return (2, Inside::Line);
    }
    if rest.starts_with("/*") {
        return (2, Inside::Block(1));
    }
    if rest.starts_with('"') {
        return (1, Inside::Str);
    }
    if !in_word && let Some((taken, hashes)) = raw_string(rest) {
        return (taken, Inside::Raw(hashes));
    }
    let length = char_literal(rest).or_else(|| rest.chars().next().map(char::len_utf8));
    (length.unwrap_or(1), Inside::Code)
}

fn block_token(rest: &str, depth: usize) -> (usize, Inside) {
    if rest.starts_with("/*") {
        return (2, Inside::Block(depth + 1));
    }
    if rest.starts_with("*/") {
        return (2, if depth == 1 { Inside::Code } else { Inside::Block(depth - 1) });
    }
    (rest.chars().next().map_or(1, char::len_utf8), Inside::Block(depth))
}

/// The length of `r#"`, `br"` and the like, and the number of hashes.
fn raw_string(rest: &str) -> Option<(usize, usize)> {
    let prefix = ["br", "cr", "r"].into_iter().find(|prefix| rest.starts_with(prefix))?;
    let after = rest.strip_prefix(prefix)?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after.trim_start_matches('#').starts_with('"').then_some((prefix.len() + hashes + 1, hashes))
}

/// The length of a character literal; `None` for a lifetime.
fn char_literal(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    if let Some(escaped) = body.strip_prefix('\\') {
        let skipped = escaped.chars().next()?.len_utf8();
        return Some(escaped.get(skipped..)?.find('\'')? + skipped + 3);
    }
    let c = body.chars().next()?;
    body.get(c.len_utf8()..)?.starts_with('\'').then_some(c.len_utf8() + 2)
}

fn is_char_literal(rest: &str, taken: usize) -> bool {
    taken > 1 && rest.starts_with('\'')
}

#[cfg(test)]
mod tests {
    use super::blank;

    /// The words that are left of `text`, all of which stay where they were.
    fn left(text: &str) -> Vec<String> {
        let blanked = blank(text);
        assert_eq!(blanked.len(), text.len());
        assert_eq!(blanked.lines().count(), text.lines().count());
        blanked.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn comments_and_strings_become_spaces() {
        assert_eq!(left("a // {\nb /* { /* { */ */ c"), ["a", "b", "c"]);
        assert_eq!(left(r#"f( "{ \" {" ) + g"#), ["f(", ")", "+", "g"]);
    }

    #[test]
    fn raw_strings_end_at_their_own_hashes() {
        assert_eq!(left("r#\"{ \" {\"# }"), ["}"]);
        assert_eq!(left("for r in x {}"), ["for", "r", "in", "x", "{}"]);
    }

    #[test]
    fn character_literals_are_blanked_and_lifetimes_kept() {
        assert_eq!(left("f( '{' , '\\'' , '\"' ) + &'a T"), ["f(", ",", ",", ")", "+", "&'a", "T"]);
    }
}
