//! Many requests under many policies: compiled nodes never allow what the authoritative decision denies.

use super::*;

const METHOD_PATTERNS: [&str; 8] = ["", "GET", "GET|HEAD", "P.*", "PUT|X", "[A-Z]+", "BREW", "get"];
const PATH_PATTERNS: [&str; 24] = [
    "",
    "/",
    "/a",
    "/a/",
    "/a.*",
    "/a(/.*)?",
    "/a/b",
    "/a|/b/.*",
    ".*",
    "/(a|b)/c?",
    "/a[0-9]*",
    "/.*",
    "/a\\.b",
    "/a.b",
    "/a/[^/]+",
    ".*/b",
    "/a.*b",
    "/a?b",
    "/a(\\?.*)?",
    "/b{1,3}",
    "^/a/b$",
    "/[ab]/.*",
    "/a/.+",
    "//",
];
const HOST_PATTERNS_TRIED: [&str; 11] =
    ["", "a", "a\\.b", ".*\\.b", "[^.]*\\.b", ".*", "a|b", "(.*\\.)?b", "a:80", "a(:80)?", "A"];
const METHODS_TRIED: [&str; 10] = ["GET", "GET", "GET", "GET", "HEAD", "HEAD", "PUT", "POST", "BREW", "get"];
const PLAIN_PIECES: [&str; 10] = ["/", "a", "b", "/a", "/b", "/a/b", "c", "0", "/c", "?a"];
const ODD_PIECES: [&str; 11] = [".", "..", "?", "%2e", "%61", ";", "//", "%2f", "/a.b", "=", "\\"];
const HOSTS_TRIED: [&str; 10] = ["a", "A", "a.b", "x.a.b", "b", "a:80", "a.b:80", "xb", "a:", "[::1]"];

/// Pieces of expressions as nobody would write them.
const SYNTAX: [&str; 26] = [
    "a",
    "b",
    "/",
    "/a",
    ".",
    "*",
    "+",
    "?",
    "|",
    "(",
    ")",
    "[ab]",
    "[^a]",
    "^",
    "$",
    "\\.",
    "{1,2}",
    "{2}",
    ".*",
    "(/.*)?",
    "[/]",
    "[a-c/]",
    "(a|b)",
    "0",
    "\\?",
    "[[:alpha:]]",
];

fn random_pattern(dice: &mut Dice) -> String {
    loop {
        let pattern: String = (0..=dice.below(6)).map(|_| dice.one_of(&SYNTAX)).collect();
        if Pattern::new(&pattern).is_ok() {
            return pattern;
        }
    }
}

fn random_policy(dice: &mut Dice) -> Arc<EndpointPolicy> {
    if dice.below(3) == 0 {
        let rules: Vec<_> =
            (0..dice.below(5)).map(|_| [random_pattern(dice), random_pattern(dice)]).collect();
        let with_host = dice.below(3) == 0;
        let rules: Vec<_> =
            rules.iter().map(|[path, host]| ["", path.as_str(), if with_host { host } else { "" }]).collect();
        return policy(&rules);
    }
    let count = dice.below(9);
    let rules: Vec<_> = (0..count)
        .map(|_| {
            let host = if dice.below(2) == 0 { "" } else { dice.one_of(&HOST_PATTERNS_TRIED) };
            [dice.one_of(&METHOD_PATTERNS), dice.one_of(&PATH_PATTERNS), host]
        })
        .collect();
    policy(&rules)
}

fn random_target(dice: &mut Dice) -> String {
    let mut target = if dice.below(20) == 0 { String::new() } else { "/".to_owned() };
    for _ in 0..dice.below(5) {
        let odd = dice.below(20) == 0;
        target += if odd { dice.one_of(&ODD_PIECES) } else { dice.one_of(&PLAIN_PIECES) };
    }
    target.replacen("//", "/", usize::from(dice.below(10) > 0))
}

/// The decision by every rule in turn: what the index spares the agent, and the nodes the kernel half.
fn one_by_one<'a>(policy: &'a EndpointPolicy, asked: &Asked<'_>) -> Decision<'a> {
    if let Some(rule) = policy.opens_port() {
        return Decision::Allow(rule);
    }
    let subject = match Subject::of(asked) {
        Ok(subject) => subject,
        Err(why) => return Decision::Ambiguous(why),
    };
    let rule = policy.rules.iter().find(|rule| rule.allows(&subject));
    rule.map_or(Decision::Deny, Decision::Allow)
}

/// Requests decided by 3000 random policies, 400 by each; the kernel half's answer is the agent's, or
/// unsure. With `--nocapture` it says how many of each there were, and how long it took.
#[test]
fn i1_no_request_that_the_compiled_nodes_allow_is_denied_by_the_authoritative_decision() {
    const POLICIES: usize = 3000;
    const REQUESTS: usize = 400;
    let (mut dice, begun) = (Dice(0x9e37_79b9_7f4a_7c15), Instant::now());
    let mut seen = [0; 3];
    for _ in 0..POLICIES {
        let policy = random_policy(&mut dice);
        let tries = Tries::of(&policy);
        for _ in 0..REQUESTS {
            let method = dice.one_of(&METHODS_TRIED);
            let target = random_target(&mut dice);
            let host = dice.one_of(&HOSTS_TRIED);
            let message = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let verdict = tries.verdict(policy.compiled.id, message.as_bytes());
            let (Ok(uri), method) = (target.parse::<Uri>(), Method::from_bytes(method.as_bytes()).unwrap())
            else {
                assert_eq!(verdict, Verdict::Unsure, "{message:?} is no request to the agent");
                seen[2] += 1;
                continue;
            };
            let field = HeaderValue::from_static(host);
            let asked = Asked {
                method: &method,
                uri: &uri,
                version: Version::HTTP_11,
                host: Some(&field),
                hosts: 1,
                fields: &http::HeaderMap::new(),
            };
            let decision = policy.decide(&asked);
            assert_eq!(decision, one_by_one(&policy, &asked), "{message:?} by {:?}", policy.rules);
            match (verdict, &decision) {
                (Verdict::Allow { .. }, Decision::Allow(_)) => seen[0] += 1,
                (Verdict::Deny, Decision::Deny) => seen[1] += 1,
                (Verdict::Unsure, _) => seen[2] += 1,
                _ => panic!("{message:?}: {verdict:?}, but {decision:?} by {:?}", policy.rules),
            }
        }
    }
    eprintln!("{} allowed, {} denied, {} unsure in {:?}", seen[0], seen[1], seen[2], begun.elapsed());
    assert_eq!(seen.iter().sum::<usize>(), POLICIES * REQUESTS);
    assert!(seen.iter().all(|count| *count > 100_000), "{seen:?}");
}
