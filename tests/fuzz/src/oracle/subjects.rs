//! NATS subjects by their tokens: what a pattern is, what it matches, and sets of subjects by examples.

/// Whether a text is a pattern that we take: NATS's rules, and those that the contract adds.
pub fn is_pattern(text: &str) -> bool {
    let tokens: Vec<&str> = text.split('.').collect();
    let fits = (1..=512).contains(&text.len()) && tokens.len() <= 32 && !text.starts_with('$');
    let last = tokens.len() - 1;
    let is_token = |(place, token): (usize, &&str)| match *token {
        "" => false,
        "*" => true,
        ">" => place == last,
        other => !other.chars().any(|c| c == '*' || c == '>' || c.is_whitespace() || c.is_control()),
    };
    fits && tokens.iter().enumerate().all(is_token)
}

/// Whether a text may stand for a user, or a variable, as it is.
pub fn is_plain_token(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with('$')
        && text.chars().all(|c| ('!'..='~').contains(&c) && !['.', '*', '>'].contains(&c))
}

/// Whether a subject matches a pattern.
pub fn matches(pattern: &str, subject: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    let subject: Vec<&str> = subject.split('.').collect();
    matches_tokens(&pattern, &subject)
}

fn matches_tokens(pattern: &[&str], subject: &[&str]) -> bool {
    match (pattern, subject) {
        ([], []) => true,
        ([">"], [_, ..]) => true,
        ([first, pattern @ ..], [token, subject @ ..]) => {
            (*first == "*" || first == token) && matches_tokens(pattern, subject)
        }
        _ => false,
    }
}

/// Whether all subjects of `inner` are subjects of `outer`, by examples that are as foreign to `outer` as can be.
pub fn contains(outer: &str, inner: &str) -> bool {
    let longest = outer.split('.').count() + 1;
    (1..=longest).all(|rest| matches(outer, &example(inner, rest)))
}

/// A subject of a pattern: wildcards are tokens that stand nowhere else, `>` is so many of them.
fn example(pattern: &str, rest: usize) -> String {
    // No token of a pattern has a space.
    const FOREIGN: &str = " ";
    let tokens = pattern.split('.').map(|token| match token {
        "*" => FOREIGN.to_owned(),
        ">" => vec![FOREIGN; rest].join("."),
        token => token.to_owned(),
    });
    tokens.collect::<Vec<_>>().join(".")
}

/// Whether some subject is one of both: tried for every length that can matter.
pub fn overlap(a: &str, b: &str) -> bool {
    let longest = a.split('.').count().max(b.split('.').count()) + 1;
    (1..=longest).any(|length| match (of_length(a, length), of_length(b, length)) {
        (Some(a), Some(b)) => a.iter().zip(&b).all(|(a, b)| a == b || *a == "*" || *b == "*"),
        _ => false,
    })
}

/// The pattern for subjects of so many tokens only.
fn of_length(pattern: &str, length: usize) -> Option<Vec<&str>> {
    let mut tokens: Vec<&str> = pattern.split('.').collect();
    if tokens.last() == Some(&">") {
        tokens.pop();
        let missing = length.checked_sub(tokens.len()).filter(|missing| *missing > 0)?;
        tokens.extend(vec!["*"; missing]);
    }
    (tokens.len() == length).then_some(tokens)
}
