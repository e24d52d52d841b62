//! `weir.dev/admission` of HTTPRoutes and Ingresses: whose requests it is for, and what is said where it cannot hold.

use super::*;
use crate::route::{
    choices::{Choices, EscapedSlashes},
    table::Site,
};

/// An object's text with the annotation.
fn annotated(text: &str, name: &str, key: &str, value: &str) -> String {
    let annotated = format!("{{name: {name}, annotations: {{{key}: '{value}'}}}}");
    text.replacen(&format!("{{name: {name}}}"), &annotated, 1)
}

fn site(snapshot: &Snapshot) -> &Site {
    snapshot.routes.sites.values().next().unwrap()
}

/// The choices of the rule for this path.
fn of(snapshot: &Snapshot, path: &str) -> Choices {
    let mut candidates = site(snapshot).candidates();
    candidates.find(|one| one.path.to_string().ends_with(path)).unwrap().choices()
}

/// Both kinds, as an object `own` with a rule for `/own` beside one without the annotation.
fn both(key: &str, value: &str) -> [String; 2] {
    let rules = |path: &str| format!("rules: [{}]", rule(&format!("{{path: {{value: {path}}}}}"), "web"));
    let other = route("other", &rules("/other"));
    let gateway = format!("{GATEWAY}{other}{}", annotated(&route("own", &rules("/own")), "own", key, value));
    let rules =
        |one: &str| format!("rules: [{{host: h, http: {{paths: [{}]}}}}]", path(one, "Prefix", "web"));
    let own = annotated(&ingress("own", &rules("/own")), "own", key, value);
    let ingresses = format!("{}{own}", ingress("other", &rules("/other")));
    [gateway, ingresses].map(|text| text + &services(&["web"]))
}

#[test]
fn p10_p15_an_annotation_is_for_the_rules_of_its_object_alone() {
    let value = "head=128KiB,escaped-slashes=keep,underscores=keep";
    for text in both("weir.dev/admission", value) {
        let (snapshot, findings) = findings_of(&text);
        assert!(!findings.iter().any(|finding| finding.contains("weir.dev")), "{findings:?}");
        let own = of(&snapshot, "/own");
        assert_eq!((own.head.bytes, own.head.field, own.head.fields), (128 << 10, 16 << 10, 100));
        assert_eq!((own.escaped_slashes, own.keeps_underscores), (EscapedSlashes::Keep, true));
        assert_eq!(of(&snapshot, "/other"), Choices::default());
        assert_eq!(site(&snapshot).choices, own);
        for (path, expected) in
            [("/own/a%252fb", "web"), ("/other/a%252fb", "400"), ("/a%252fb", "400"), ("/ab", "404")]
        {
            assert_eq!(leads(&snapshot, &format!("host=h&path={path}")), expected, "{path}");
        }
    }
    for text in both("weir.dev/admission", "escaped-slashes=redirect") {
        assert_eq!(leads(&findings_of(&text).0, "host=h&path=/own/a%252fb"), "307");
    }
}

#[test]
fn c9_a_faulty_or_unknown_annotation_is_a_finding_of_its_object_and_leaves_the_strict_choices() {
    for (key, value) in [
        ("weir.dev/admission", "underscores=keep,head=1KiB"),
        ("weir.dev/admission", "everything=keep"),
        ("weir.dev/timeouts", "batch"),
    ] {
        for text in both(key, value) {
            let (snapshot, findings) = findings_of(&text);
            let named: Vec<_> = findings.iter().filter(|finding| finding.contains("weir.dev")).collect();
            assert_eq!(named.len(), 1, "{findings:?}");
            assert!(named[0].starts_with("error ") && named[0].contains(" default/own: "), "{named:?}");
            assert_eq!(of(&snapshot, "/own"), Choices::default());
            assert_eq!(leads(&snapshot, "host=h&path=/own/x"), "web");
        }
    }
}

#[test]
fn p12_bytes_that_are_no_text_are_kept_for_the_prefix_slash_alone_and_elsewhere_that_is_said() {
    let value = "non-utf8=keep";
    for text in both("weir.dev/admission", value) {
        let (snapshot, findings) = findings_of(&text);
        let said = "non-utf8=keep does not hold for prefix /own";
        assert!(findings.iter().any(|one| one.starts_with("warning ") && one.contains(said)), "{findings:?}");
        assert!(!site(&snapshot).choices.keeps_non_utf8);
        assert_eq!(leads(&snapshot, "host=h&path=/own/%25ff"), "400");
        let all = text.replace("/own", "/");
        let (snapshot, findings) = findings_of(&all);
        assert!(!findings.iter().any(|finding| finding.contains("weir.dev")), "{findings:?}");
        assert_eq!(leads(&snapshot, "host=h&path=/any/%25ff"), "web");
        assert_eq!(leads(&snapshot, "host=h&path=/other/%25ff"), "400");
    }
}
